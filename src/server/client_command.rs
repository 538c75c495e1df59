//! CLIENT: what clients may know of themselves and of each other, and how they end each other.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::client::Replies;
use super::conversation::{Flow, Request, Talk};
use super::local::check_name;
use super::roster::Entry;
use crate::protocol::Reply;
use crate::value::number::parse_i64;

/// Which clients CLIENT KILL and CLIENT LIST mean.
#[derive(Default)]
struct Filter {
    id: Option<Vec<u64>>,
    address: Option<String>,
    local_address: Option<String>,
    user: Option<String>,
    /// `TYPE` names another type than `normal`: nobody here.
    other_type: bool,
    skip_me: bool,
}

// === impl Talk ===

impl Talk {
    pub(super) fn client_command(&self, request: &Request<'_>) -> Flow {
        let count = request.count();
        let entry = &self.client.entry;
        let subcommand = String::from_utf8_lossy(request.argument(1)).to_ascii_lowercase();
        let reply = match (subcommand.as_str(), count) {
            ("id", 2) => Reply::Integer(entry.id.cast_signed()),
            ("getname", 2) => match entry.name() {
                name if name.is_empty() => Reply::Nil,
                name => Reply::Bulk(name),
            },
            ("setname", 3) => match check_name(request.argument(2)) {
                Ok(()) => {
                    entry.set_name(Bytes::copy_from_slice(request.argument(2)));
                    Reply::OK
                }
                Err(text) => Reply::Error(text),
            },
            ("setinfo", 4) => Reply::OK,
            ("info", 2) => Reply::bulk(describe(entry)),
            ("list", _) => self.list(request),
            ("kill", 3..) => self.kill(request),
            ("no-evict" | "no-touch", 3) => on_or_off(request.argument(2))
                .map_or_else(|| Reply::err("syntax error"), |_| Reply::OK),
            ("reply", 3) => return self.reply_mode(request.argument(2)),
            ("tracking", 3..) => return self.tracking(request),
            ("unblock", 3 | 4) => {
                Reply::err("CLIENT UNBLOCK is not supported through respgres yet")
            }
            ("pause" | "unpause" | "help" | "caching" | "getredir" | "trackinginfo", _) => {
                return self.forward_client_command(request);
            }
            (
                "id" | "getname" | "setname" | "setinfo" | "info" | "kill" | "no-evict"
                | "no-touch" | "reply" | "tracking" | "unblock",
                _,
            ) => Reply::Error(format!(
                "ERR wrong number of arguments for 'client|{subcommand}' command"
            )),
            _ => Reply::Error(format!(
                "ERR unknown subcommand '{}'. Try CLIENT HELP.",
                String::from_utf8_lossy(request.argument(1))
            )),
        };
        self.client.answer(&reply);
        Flow::Done
    }

    /// Redis answers: over the client's own connection, if it has one.
    fn forward_client_command(&self, request: &Request<'_>) -> Flow {
        if !self.may_forward() {
            return Flow::Wait;
        }
        self.forward_run(request.bytes, 1);
        Flow::Done
    }

    fn reply_mode(&self, mode: &[u8]) -> Flow {
        let replies = match mode.to_ascii_lowercase().as_slice() {
            b"on" => Replies::On,
            b"off" => Replies::Off,
            b"skip" => Replies::SkipNext,
            _ => {
                self.client.answer(&Reply::err("syntax error"));
                return Flow::Done;
            }
        };
        let mut session = self.client.session.borrow_mut();
        // As in Redis, SKIP while OFF stays OFF, and only ON is confirmed.
        if replies != Replies::SkipNext || session.replies == Replies::On {
            session.replies = replies;
        }
        drop(session);
        if replies == Replies::On {
            self.client.answer(&Reply::OK);
        }
        Flow::Done
    }

    fn tracking(&self, request: &Request<'_>) -> Flow {
        let redirects =
            (2..request.count()).any(|at| request.argument(at).eq_ignore_ascii_case(b"redirect"));
        if redirects {
            self.refuse(&Reply::err(
                "CLIENT TRACKING with REDIRECT is not supported through respgres yet",
            ));
            return Flow::Done;
        }
        match on_or_off(request.argument(2)) {
            Some(true) => self.with_pin(request, |pin| pin.sticky = true),
            _ => self.forward_client_command(request),
        }
    }

    fn list(&self, request: &Request<'_>) -> Reply {
        let filter = match Filter::for_list(request) {
            Ok(filter) => filter,
            Err(text) => return Reply::Error(text),
        };
        let mut text = String::new();
        for entry in self.event_loop.shared.roster.all() {
            if filter.means(&entry) {
                text.push_str(&describe(&entry));
            }
        }
        Reply::bulk(text)
    }

    fn kill(&self, request: &Request<'_>) -> Reply {
        let me = self.client.entry.id;
        let all = self.event_loop.shared.roster.all();
        let is_old_form = request.count() == 3;
        let filter = if is_old_form {
            let address = String::from_utf8_lossy(request.argument(2)).into_owned();
            Filter { address: Some(address), ..Filter::default() }
        } else {
            match Filter::for_kill(request) {
                Ok(filter) => filter,
                Err(text) => return Reply::Error(text),
            }
        };
        let meant: Vec<Arc<Entry>> = all
            .into_iter()
            .filter(|entry| filter.means(entry) && !(filter.skip_me && entry.id == me))
            .collect();
        for entry in &meant {
            if entry.id == me {
                // It is still to be told.
                self.client.leave_when_told();
            } else {
                entry.kill();
            }
        }
        match (is_old_form, meant.len()) {
            (true, 0) => Reply::err("No such client"),
            (true, _) => Reply::OK,
            (false, count) => Reply::Integer(count.try_into().unwrap_or(i64::MAX)),
        }
    }
}

// === impl Filter ===

impl Filter {
    fn for_kill(request: &Request<'_>) -> Result<Self, String> {
        let mut filter = Self { skip_me: true, ..Self::default() };
        let mut at = 2;
        while at < request.count() {
            if at + 1 == request.count() {
                return Err("ERR syntax error".to_owned());
            }
            let value = request.argument(at + 1);
            let text = String::from_utf8_lossy(value).into_owned();
            match request.argument(at).to_ascii_lowercase().as_slice() {
                b"id" => filter.id = Some(vec![read_id(value)?]),
                b"addr" => filter.address = Some(text),
                b"laddr" => filter.local_address = Some(text),
                b"user" => filter.user = Some(text),
                b"type" => filter.other_type = read_type(&text)?,
                b"skipme" => {
                    filter.skip_me = match text.to_ascii_lowercase().as_str() {
                        "yes" => true,
                        "no" => false,
                        _ => return Err("ERR syntax error".to_owned()),
                    };
                }
                _ => return Err("ERR syntax error".to_owned()),
            }
            at += 2;
        }
        Ok(filter)
    }

    fn for_list(request: &Request<'_>) -> Result<Self, String> {
        let mut filter = Self::default();
        let count = request.count();
        if count == 2 {
            return Ok(filter);
        }
        let option = request.argument(2).to_ascii_lowercase();
        match (option.as_slice(), count) {
            (b"type", 4) => {
                let text = String::from_utf8_lossy(request.argument(3)).into_owned();
                filter.other_type = read_type(&text)?;
            }
            (b"id", 4..) => {
                let ids: Result<Vec<u64>, String> =
                    (3..count).map(|at| read_id(request.argument(at))).collect();
                filter.id = Some(ids.map_err(|_| "ERR Invalid client ID".to_owned())?);
            }
            _ => return Err("ERR syntax error".to_owned()),
        }
        Ok(filter)
    }

    fn means(&self, entry: &Entry) -> bool {
        let same = |wanted: &Option<String>, address: SocketAddr| {
            wanted.as_ref().is_none_or(|wanted| *wanted == address.to_string())
        };
        !self.other_type
            && self.id.as_ref().is_none_or(|ids| ids.contains(&entry.id))
            && same(&self.address, entry.address)
            && same(&self.local_address, entry.local_address)
            && self.user.as_ref().is_none_or(|user| *user == entry.user())
    }
}

fn read_id(value: &[u8]) -> Result<u64, String> {
    match parse_i64(value).map(u64::try_from) {
        Some(Ok(id)) if id > 0 => Ok(id),
        _ => Err("ERR client-id should be greater than 0".to_owned()),
    }
}

/// True when nobody here is of that type.
fn read_type(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "normal" => Ok(false),
        "master" | "slave" | "replica" | "pubsub" => Ok(true),
        _ => Err(format!("ERR Unknown client type '{text}'")),
    }
}

fn on_or_off(word: &[u8]) -> Option<bool> {
    if word.eq_ignore_ascii_case(b"on") {
        Some(true)
    } else if word.eq_ignore_ascii_case(b"off") {
        Some(false)
    } else {
        None
    }
}

/// A line of CLIENT LIST, in Redis' form, with the fields that a proxy knows.
fn describe(entry: &Entry) -> String {
    let mut line = String::new();
    let _ = writeln!(
        line,
        "id={} addr={} laddr={} name={} age={} db={} user={} resp={}",
        entry.id,
        entry.address,
        entry.local_address,
        String::from_utf8_lossy(&entry.name()),
        entry.connected.elapsed().as_secs(),
        entry.database.load(Ordering::Relaxed),
        entry.user(),
        entry.protocol.load(Ordering::Relaxed),
    );
    line
}
