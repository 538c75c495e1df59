//! Replies too large to be held: the engine makes them piece by piece, and the conversation passes the
//! pieces on as its client takes them.
//!
//! Meanwhile no more of the client's requests are taken: their replies would have to wait.

use std::task::{Context, Poll};

use super::conversation::Talk;
use super::expect::LargeReply;
use crate::engine::{Large, Piece};

// === impl Talk ===

impl Talk {
    /// If a large reply is the next thing that the client gets: asks for it, and passes on what has come
    /// of it, as far as the client takes it.
    pub(super) fn bring_large(&self, cx: &mut Context<'_>) {
        let client = &self.client;
        while !client.is_blocked() {
            let mut expected = client.expected.borrow_mut();
            let Some(reply) = expected.large() else { return };
            if let LargeReply::Waits(large) = reply {
                let large = Large::clone(large);
                let pieces = self.event_loop.shared.engine.stream(large);
                *reply = LargeReply::Comes { pieces, pushed: Vec::new() };
                client.stalled.set(true);
            }
            let LargeReply::Comes { pieces, .. } = reply else { return };
            let Poll::Ready(piece) = pieces.poll_recv(cx) else { return };
            drop(expected);
            match piece {
                Some(Piece::Bytes(bytes)) => client.send(&bytes),
                Some(Piece::End) => client.end_large(),
                // It has failed half-way, and the log says why.
                None => return client.leave(),
            }
        }
    }
}
