//! What the client of a loan is told: Redis' own bytes, or why there are none.

use bytes::{Bytes, BytesMut};

use super::step::Outcome;
use super::{Lent, Loan};
use crate::engine::transaction::Touched;
use crate::mapping::MappedKey;
use crate::protocol::Reply;
use crate::protocol::reply::write_count;
use crate::upstream::UpstreamError;
use crate::value::Fields;

/// The most that is lent, and put back, at once. It is sent to Redis, held there beside all else, and
/// read back.
pub(super) const MOST_BYTES: usize = 64 << 20;

/// What a field or member costs beside its bytes, here and on its way. So a set of two million members
/// is too large, however short they are.
const ELEMENT_BYTES: usize = 32;

/// What the client is told.
pub(super) enum Answer {
    /// By Redis.
    Bytes(Bytes),
    /// By us.
    Reply(Reply),
}

/// The keys of a loan, each once.
pub(super) struct Keys<'a> {
    /// Those that are lent come first.
    pub(super) touched: Vec<Touched<'a>>,
    pub(super) lent: usize,
    /// Keys that are not mapped and may have to be put back.
    pub(super) others: Vec<Bytes>,
}

pub(super) fn too_large(keys: &Keys<'_>) -> Option<Reply> {
    let fields = keys.touched[..keys.lent].iter().filter_map(|touched| touched.draft.fields());
    (fields.map(bytes_of).sum::<usize>() > MOST_BYTES).then(|| {
        Reply::err(format!(
            "the values of the mapped keys take more than {} MiB, which is not lent to Redis; nothing \
             was written",
            MOST_BYTES >> 20
        ))
    })
}

fn bytes_of(fields: &Fields) -> usize {
    fields.iter().map(|(field, value)| ELEMENT_BYTES + field.len() + value.len()).sum()
}

pub(super) fn answer(loan: &Loan, replies: &[Bytes]) -> Answer {
    if let (false, [reply]) = (loan.transaction, replies) {
        return Answer::Bytes(reply.clone());
    }
    let mut bytes = BytesMut::new();
    write_count(&mut bytes, b'*', replies.len());
    for reply in replies {
        bytes.extend_from_slice(reply);
    }
    Answer::Bytes(bytes.freeze())
}

/// The step was not run: Redis' own words for the client's request, or for what surrounds it.
pub(super) fn answer_not_run(loan: &Loan, outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Refused { exec, .. } if loan.transaction => Answer::Bytes(exec),
        Outcome::Refused { of_client, of_step, exec } => {
            Answer::Bytes(of_client.or(of_step).unwrap_or(exec))
        }
        Outcome::Changed | Outcome::Ran(_) => Answer::Reply(Reply::NilArray),
    }
}

pub(super) fn would_leave(loan: &Loan, key: &MappedKey, kind: &str) -> Reply {
    let names = |request: &&Lent| {
        !request.only_reads && request.keys.iter().any(|named| named.key == key.key)
    };
    let request = loan.requests.iter().find(names).or(loan.requests.first());
    Reply::Error(request.map_or_else(String::new, |request| request.would_leave(key, kind)))
}

/// The refusal of a request that would have waited, had it not been in a step.
pub(super) fn waits_in_vain(loan: &Loan, reply: &Answer) -> Option<Reply> {
    let (false, [request], Answer::Bytes(reply)) = (loan.transaction, &loan.requests[..], reply)
    else {
        return None;
    };
    let is_nil = [&b"*-1"[..], b"$-1", b"_"].iter().any(|nil| reply.starts_with(nil));
    (request.may_wait && is_nil).then(|| Reply::Error(request.would_wait()))
}

pub(super) fn odd_step() -> UpstreamError {
    UpstreamError::Protocol("an odd answer to an atomic step".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_members_cost_more_than_their_bytes() {
        let members: Fields =
            (0..1000).map(|n: u32| (Bytes::from(n.to_string()), Bytes::new())).collect();
        assert_eq!(bytes_of(&members), 1000 * 32 + 2890);
    }
}
