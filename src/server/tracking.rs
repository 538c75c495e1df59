//! CLIENT TRACKING: Redis remembers what a connection reads, and tells it, or another one, when that
//! changes. So a client that tracks has a connection of its own, and so must the client that
//! another one redirects to: Redis knows both by the numbers of these connections.

use std::sync::Arc;

use bytes::BytesMut;

use super::conversation::{Flow, Request, Talk};
use super::expect::Inspection;
use super::roster::Entry;
use crate::protocol::Reply;
use crate::protocol::inline::encode_request;
use crate::upstream::lane::Delivered;
use crate::value::number::parse_i64;

/// What CLIENT TRACKING asks for, as far as a proxy must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    /// `None`: neither ON nor OFF; Redis says so.
    on: Option<bool>,
    /// Where in the request the number of the client to redirect to stands, and the number.
    redirect: Option<(usize, i64)>,
    /// It names another one too.
    redirects_twice: bool,
}

// === impl Talk ===

impl Talk {
    pub(super) fn tracking(&self, request: &Request<'_>) -> Flow {
        let wanted = wanted(request.count(), |at| request.argument(at));
        let flow = match wanted {
            Wanted { on: Some(true), redirect: Some((at, id)), redirects_twice } if id != 0 => {
                self.redirect(request, at, id, redirects_twice)
            }
            Wanted { on: Some(true), .. } => self.with_pin(request, |pin| {
                pin.sticky = true;
                pin.tracking = Some(0);
            }),
            Wanted { on: Some(false), .. } => {
                if let Some(pin) = &mut self.client.session.borrow_mut().pin {
                    pin.tracking = None;
                }
                match wanted.redirect {
                    Some((at, id)) => self.end_redirected(request, at, id, wanted.redirects_twice),
                    None => self.forward_apart(request),
                }
            }
            Wanted { on: None, .. } => self.forward_apart(request),
        };
        self.client.show_standing();
        flow
    }

    /// OFF may name a client too: Redis wants it to be there, and has no other use for it. So it is
    /// looked for here, and Redis, which knows it by no number or by another one, is not told.
    fn end_redirected(&self, request: &Request<'_>, at: usize, id: i64, twice: bool) -> Flow {
        if let Err(text) = self.target(id, twice) {
            self.client.answer(&Reply::err(text));
            return Flow::Done;
        }
        let rest: Vec<&[u8]> = (0..request.count())
            .filter(|place| *place != at && *place != at - 1)
            .map(|place| request.argument(place))
            .collect();
        let mut bytes = BytesMut::new();
        encode_request(&rest, &mut bytes);
        self.forward_apart(&Request { bytes: &bytes, scanner: request.scanner })
    }

    fn target(&self, id: i64, twice: bool) -> Result<Arc<Entry>, &'static str> {
        let target = u64::try_from(id).ok().and_then(|id| self.event_loop.shared.roster.find(id));
        let target = target.ok_or("The client ID you want redirect to does not exist")?;
        if twice {
            return Err("A client can only redirect to a single other client");
        }
        Ok(target)
    }

    /// The request goes to Redis with the number that the other client's connection has there.
    fn redirect(&self, request: &Request<'_>, at: usize, id: i64, twice: bool) -> Flow {
        let target = match self.target(id, twice) {
            Ok(target) => target,
            Err(text) => {
                self.client.answer(&Reply::err(text));
                return Flow::Done;
            }
        };
        let Some(upstream_id) = target.aim_redirection() else {
            self.client.answer(&Reply::err(
                "the client to redirect to must have subscribed or enabled tracking before",
            ));
            return Flow::Done;
        };
        let upstream_id = upstream_id.to_string();
        let arguments: Vec<&[u8]> = (0..request.count())
            .map(|place| if place == at { upstream_id.as_bytes() } else { request.argument(place) })
            .collect();
        let mut bytes = BytesMut::new();
        encode_request(&arguments, &mut bytes);
        let request = Request { bytes: &bytes, scanner: request.scanner };
        self.with_pin(&request, |pin| {
            pin.sticky = true;
            pin.tracking = Some(target.id);
        })
    }

    /// CLIENT GETREDIR and TRACKINGINFO: Redis answers, with its own number of the other client.
    pub(super) fn redirection(&self, request: &Request<'_>) -> Flow {
        let target = self.client.session.borrow().pin.as_ref().and_then(|pin| pin.redirects_to());
        let Some(target) = target else { return self.forward_apart(request) };
        if !self.may_forward() {
            return Flow::Wait;
        }
        let muted = self.client.take_muted();
        self.client.expected.borrow_mut().inspect(Inspection::Redirection(target), muted);
        self.append(request.bytes, 1, Delivered::Together);
        Flow::Done
    }
}

fn wanted<'a>(count: usize, argument: impl Fn(usize) -> &'a [u8]) -> Wanted {
    let is = |at: usize, word: &str| argument(at).eq_ignore_ascii_case(word.as_bytes());
    let on = if is(2, "on") {
        Some(true)
    } else if is(2, "off") {
        Some(false)
    } else {
        None
    };
    let mut redirect = None;
    let mut redirects_twice = false;
    let mut at = 3;
    while at + 1 < count {
        if is(at, "redirect") {
            redirects_twice = redirect.is_some_and(|(_, id)| id != 0);
            if !redirects_twice {
                // Redis refuses what is no number.
                redirect = parse_i64(argument(at + 1)).map(|id| (at + 1, id));
            }
            at += 2;
        } else if is(at, "prefix") {
            at += 2;
        } else {
            at += 1;
        }
    }
    Wanted { on, redirect, redirects_twice }
}

/// Puts a client's number in the place of Redis': in the integer that GETREDIR gets, or the entry
/// `redirect` of TRACKINGINFO.
pub(super) fn with_target(reply: Vec<u8>, target: u64) -> Vec<u8> {
    const ENTRY: &[u8] = b"$8\r\nredirect\r\n";
    let start = if reply.first() == Some(&b':') {
        0
    } else {
        match memchr::memmem::find(&reply, ENTRY) {
            Some(at) => at + ENTRY.len(),
            None => return reply,
        }
    };
    let rest = &reply[start..];
    let Some(end) = memchr::memchr(b'\r', rest) else { return reply };
    let is_id = rest[0] == b':' && parse_i64(&rest[1..end]).is_some_and(|id| id > 0);
    if !is_id {
        // Not tracking any more, or without redirection.
        return reply;
    }
    [&reply[..start], format!(":{target}").as_bytes(), &rest[end..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(request: &str) -> Wanted {
        let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        wanted(words.len(), |at| words[at])
    }

    #[test]
    fn the_redirection_is_found_among_the_options() {
        let wanted = |on, redirect| Wanted { on, redirect, redirects_twice: false };
        let on = Some(true);
        assert_eq!(read("CLIENT TRACKING on"), wanted(on, None));
        assert_eq!(read("CLIENT TRACKING ON BCAST REDIRECT 7"), wanted(on, Some((5, 7))));
        assert_eq!(read("CLIENT TRACKING on prefix redirect 7"), wanted(on, None));
        assert_eq!(read("CLIENT TRACKING off"), wanted(Some(false), None));
        assert_eq!(read("CLIENT TRACKING maybe"), wanted(None, None));
        let twice = read("CLIENT TRACKING on REDIRECT 7 REDIRECT 8");
        assert_eq!(twice, Wanted { redirects_twice: true, ..wanted(on, Some((4, 7))) });
    }

    #[test]
    fn clients_see_their_own_numbers() {
        assert_eq!(with_target(b":712\r\n".to_vec(), 3), b":3\r\n");
        assert_eq!(with_target(b":-1\r\n".to_vec(), 3), b":-1\r\n");
        let info = |id: &str| format!("*4\r\n$8\r\nredirect\r\n:{id}\r\n$8\r\nprefixes\r\n*0\r\n");
        assert_eq!(with_target(info("712").into_bytes(), 3), info("3").into_bytes());
        assert_eq!(with_target(info("0").into_bytes(), 3), info("0").into_bytes());
        assert_eq!(with_target(b"-ERR no\r\n".to_vec(), 3), b"-ERR no\r\n");
    }
}
