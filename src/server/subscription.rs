//! What a client is subscribed to, followed from its requests and Redis' confirmations, so that its
//! connection can be given back when the last subscription has ended.
//!
//! Redis confirms each channel by a frame of its own, and messages come between them. UNSUBSCRIBE
//! without channels is confirmed once for each channel of its kind at the time when Redis runs it,
//! or once if there is none.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;

/// The three kinds of subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Channel,
    Pattern,
    Shard,
}

/// What a request is going to be answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// This many more frames.
    Frames(usize),
    /// The frames of an UNSUBSCRIBE without channels, whose number is not known yet.
    UnsubscribeAll(Kind),
}

#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    subscribed: [HashSet<Bytes>; 3],
    awaited: VecDeque<Awaited>,
}

/// What a frame means to a subscriber.
enum Meaning {
    Message,
    Subscribed(Kind, Bytes),
    Unsubscribed(Kind, Bytes),
    Reply,
}

// === impl Subscriptions ===

impl Subscriptions {
    /// A request is on its way: its lower-case name and how many arguments follow it. `counts` tells
    /// whether requests other than the SUBSCRIBE family are answered among these frames (RESP2).
    pub(super) fn sent(&mut self, name: &str, arguments: usize, counts: bool) {
        let all = match name {
            "unsubscribe" => Some(Kind::Channel),
            "punsubscribe" => Some(Kind::Pattern),
            "sunsubscribe" => Some(Kind::Shard),
            _ => None,
        };
        let awaited = match (all, name) {
            (Some(kind), _) if arguments == 0 => Awaited::UnsubscribeAll(kind),
            (Some(_), _) | (None, "subscribe" | "psubscribe" | "ssubscribe") => {
                Awaited::Frames(arguments.max(1))
            }
            _ if counts => Awaited::Frames(1),
            _ => return,
        };
        self.awaited.push_back(awaited);
    }

    /// A frame has come.
    pub(super) fn received(&mut self, frame: &[u8]) {
        match meaning(frame) {
            Meaning::Message => return,
            Meaning::Subscribed(kind, channel) => {
                self.of(kind).insert(channel);
            }
            Meaning::Unsubscribed(kind, channel) => {
                // An UNSUBSCRIBE without channels is being run: now its frames can be counted.
                if let Some(first @ Awaited::UnsubscribeAll(_)) = self.awaited.front_mut() {
                    let count = self.subscribed[kind as usize].len().max(1);
                    *first = Awaited::Frames(count);
                }
                self.of(kind).remove(&channel);
            }
            Meaning::Reply => {}
        }
        if let Some(Awaited::Frames(count)) = self.awaited.front_mut() {
            *count -= 1;
            if *count == 0 {
                self.awaited.pop_front();
            }
        }
    }

    /// Whether requests are under way.
    pub(super) fn awaits(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// How many channels, patterns and shard channels.
    pub(super) fn counts(&self) -> [usize; 3] {
        [0, 1, 2].map(|kind| self.subscribed[kind].len())
    }

    /// No subscription is left and no request is under way.
    pub(super) fn is_over(&self) -> bool {
        self.awaited.is_empty() && self.subscribed.iter().all(HashSet::is_empty)
    }

    fn of(&mut self, kind: Kind) -> &mut HashSet<Bytes> {
        &mut self.subscribed[kind as usize]
    }
}

/// Reads a frame of the forms `*3 $kind $channel :count` or `>3 …`.
fn meaning(frame: &[u8]) -> Meaning {
    if !matches!(frame.first(), Some(b'*' | b'>')) {
        return Meaning::Reply;
    }
    let mut rest = frame;
    let _ = line(&mut rest);
    let Some(word) = bulk(&mut rest) else { return Meaning::Reply };
    let mut channel = || Bytes::copy_from_slice(bulk(&mut rest).unwrap_or_default());
    match word {
        b"message" | b"pmessage" | b"smessage" | b"invalidate" => Meaning::Message,
        b"subscribe" => Meaning::Subscribed(Kind::Channel, channel()),
        b"psubscribe" => Meaning::Subscribed(Kind::Pattern, channel()),
        b"ssubscribe" => Meaning::Subscribed(Kind::Shard, channel()),
        b"unsubscribe" => Meaning::Unsubscribed(Kind::Channel, channel()),
        b"punsubscribe" => Meaning::Unsubscribed(Kind::Pattern, channel()),
        b"sunsubscribe" => Meaning::Unsubscribed(Kind::Shard, channel()),
        _ => Meaning::Reply,
    }
}

fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = memchr::memchr(b'\n', rest)?;
    let (line, after) = rest.split_at(end + 1);
    *rest = after;
    line.strip_suffix(b"\r\n")
}

/// A bulk string, or `None` for nil and anything else.
fn bulk<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = line(rest)?.strip_prefix(b"$")?;
    let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
    let (bulk, after) = rest.split_at_checked(length)?;
    *rest = after.get(2..)?;
    Some(bulk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: &str, channel: &str) -> Vec<u8> {
        format!("*3\r\n${}\r\n{kind}\r\n${}\r\n{channel}\r\n:1\r\n", kind.len(), channel.len())
            .into_bytes()
    }

    #[test]
    fn the_last_unsubscribe_ends_it_and_messages_do_not() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.sent("subscribe", 2, true);
        subscriptions.received(&frame("subscribe", "a"));
        subscriptions.received(&frame("message", "a"));
        subscriptions.received(&frame("subscribe", "b"));
        assert!(!subscriptions.is_over());
        subscriptions.sent("unsubscribe", 0, true);
        subscriptions.sent("ping", 0, true);
        subscriptions.received(&frame("unsubscribe", "a"));
        subscriptions.received(&frame("unsubscribe", "b"));
        assert!(!subscriptions.is_over());
        subscriptions.received(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n");
        assert!(subscriptions.is_over());
    }

    #[test]
    fn unsubscribing_from_nothing_is_confirmed_once() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.sent("punsubscribe", 0, true);
        subscriptions.received(b"*3\r\n$12\r\npunsubscribe\r\n$-1\r\n:0\r\n");
        assert!(subscriptions.is_over());
    }

    #[test]
    fn a_refused_subscribe_is_one_reply() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.sent("subscribe", 0, true);
        subscriptions.received(b"-ERR wrong number of arguments for 'subscribe' command\r\n");
        assert!(subscriptions.is_over());
    }
}
