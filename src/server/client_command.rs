//! CLIENT: what clients may know of themselves and of each other, and how they end each other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::client::Replies;
use super::conversation::{Flow, Request, Talk};
use super::local::check_name;
use super::roster::Entry;
use crate::command::Command;
use crate::protocol::Reply;
use crate::protocol::inline::encode_request;
use crate::value::number::parse_i64;

/// Which clients CLIENT KILL and CLIENT LIST mean.
#[derive(Default)]
struct Filter {
    id: Option<Vec<u64>>,
    address: Option<String>,
    local_address: Option<String>,
    user: Option<String>,
    kind: Option<Kind>,
    skip_me: bool,
}

/// What `TYPE` tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Subscriber,
    /// Masters and replicas: never clients of a proxy.
    Replication,
}

enum Subcommand {
    Answered,
    Reply,
    Tracking,
    Unblock,
    Redirection,
    /// Redis answers: over the client's own connection, if it has one.
    Forwarded,
    Pause,
    Refused(String),
}

// === impl Kind ===

impl Kind {
    fn of(entry: &Entry) -> Self {
        let subscribed = entry.standing().subscriptions.iter().any(|&count| count > 0);
        if subscribed { Self::Subscriber } else { Self::Normal }
    }
}

// === impl Talk ===

impl Talk {
    pub(super) fn client_command(&self, command: &'static Command, request: &Request<'_>) -> Flow {
        let in_multi = self.client.session.borrow().pin.as_ref().is_some_and(|pin| pin.multi);
        match subcommand(request) {
            Subcommand::Refused(text) => self.refuse(&Reply::Error(text)),
            Subcommand::Answered if in_multi => return self.queue_local(command, request),
            Subcommand::Answered => self.client.answer(&self.client_reply(request)),
            Subcommand::Forwarded => return self.forward_apart(request),
            Subcommand::Redirection if in_multi => return self.forward_apart(request),
            Subcommand::Redirection => return self.redirection(request),
            Subcommand::Pause => {
                self.note_pause(request);
                if in_multi {
                    return self.forward_apart(request);
                }
                return self.wait_in_redis("client", request);
            }
            Subcommand::Reply | Subcommand::Tracking | Subcommand::Unblock if in_multi => {
                let name = String::from_utf8_lossy(request.argument(1)).to_ascii_uppercase();
                self.refuse(&Reply::err(format!("CLIENT {name} is not supported inside MULTI")));
            }
            Subcommand::Reply => return self.reply_mode(request.argument(2)),
            Subcommand::Tracking => return self.tracking(request),
            Subcommand::Unblock => return self.unblock(request),
        }
        Flow::Done
    }

    /// While Redis pauses writes, it stops reading from every connection on which one waits. So that
    /// no read is held up, clients have connections of their own until then.
    fn note_pause(&self, request: &Request<'_>) {
        let shared = &self.event_loop.shared;
        if request.argument(1).eq_ignore_ascii_case(b"unpause") {
            shared.writes_paused_until_ms.store(0, Ordering::Relaxed);
            return;
        }
        let only_writes =
            request.count() == 4 && request.argument(3).eq_ignore_ascii_case(b"write");
        let timeout_ms = parse_i64(request.argument(2)).and_then(|ms| u64::try_from(ms).ok());
        if let (true, Some(timeout_ms)) = (only_writes, timeout_ms) {
            let until_ms = self.event_loop.uptime_ms().saturating_add(timeout_ms);
            shared.writes_paused_until_ms.fetch_max(until_ms, Ordering::Relaxed);
        }
    }

    /// The reply to a subcommand that respgres answers.
    pub(super) fn client_reply(&self, request: &Request<'_>) -> Reply {
        let entry = &self.client.entry;
        let uptime = self.event_loop.seconds.get();
        match request.argument(1).to_ascii_lowercase().as_slice() {
            b"id" => Reply::Integer(entry.id.cast_signed()),
            b"getname" => match entry.name() {
                name if name.is_empty() => Reply::Nil,
                name => Reply::Bulk(name),
            },
            b"setname" => match check_name(request.argument(2)) {
                Ok(()) => {
                    entry.set_name(Bytes::copy_from_slice(request.argument(2)));
                    Reply::OK
                }
                Err(text) => Reply::Error(text),
            },
            b"info" => Reply::Verbatim(describe(entry, uptime, request.bytes.len()).into()),
            b"list" => self.list(request),
            b"kill" => self.kill(request),
            b"no-evict" | b"no-touch" => on_or_off(request.argument(2))
                .map_or_else(|| Reply::err("syntax error"), |_| Reply::OK),
            // SETINFO: of Redis 7.2; client libraries introduce themselves with it.
            _ => Reply::OK,
        }
    }

    /// Lets Redis end the wait of another client: by the number that its connection has there.
    fn unblock(&self, request: &Request<'_>) -> Flow {
        if !self.may_forward() {
            return Flow::Wait;
        }
        let is_reason = |reason: &[u8]| {
            [&b"timeout"[..], b"error"].iter().any(|r| reason.eq_ignore_ascii_case(r))
        };
        if request.count() > 4 {
            self.client.answer(&Reply::err(format!(
                "unknown subcommand or wrong number of arguments for '{}'. Try CLIENT HELP.",
                String::from_utf8_lossy(request.argument(1))
            )));
            return Flow::Done;
        }
        if request.count() == 4 && !is_reason(request.argument(3)) {
            let text = "CLIENT UNBLOCK reason should be TIMEOUT or ERROR";
            self.client.answer(&Reply::err(text));
            return Flow::Done;
        }
        let Some(id) = parse_i64(request.argument(2)) else {
            self.client.answer(&Reply::err("value is not an integer or out of range"));
            return Flow::Done;
        };
        let roster = &self.event_loop.shared.roster;
        let target = u64::try_from(id).ok().and_then(|id| roster.find(id));
        let Some(upstream_id) = target.and_then(|entry| entry.aim_at_wait()) else {
            self.client.answer(&Reply::Integer(0));
            return Flow::Done;
        };
        let upstream_id = upstream_id.to_string();
        let reason = if request.count() == 4 { request.argument(3) } else { b"TIMEOUT" };
        let mut bytes = BytesMut::new();
        encode_request(&[&b"CLIENT"[..], b"UNBLOCK", upstream_id.as_bytes(), reason], &mut bytes);
        self.forward_run(&bytes, 1);
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

    fn list(&self, request: &Request<'_>) -> Reply {
        let filter = match Filter::for_list(request) {
            Ok(filter) => filter,
            Err(text) => return Reply::Error(text),
        };
        let mut text = String::new();
        for entry in self.event_loop.shared.roster.all() {
            if filter.means(&entry) {
                let is_me = entry.id == self.client.entry.id;
                let pending_bytes = if is_me { request.bytes.len() } else { 0 };
                text.push_str(&describe(&entry, self.event_loop.seconds.get(), pending_bytes));
            }
        }
        Reply::Verbatim(text.into())
    }

    fn kill(&self, request: &Request<'_>) -> Reply {
        let me = self.client.entry.id;
        let all = self.event_loop.shared.roster.all();
        let is_old_form = request.count() == 3;
        if !is_old_form
            && let Some(name) = (2..request.count() - 1)
                .step_by(2)
                .find(|&at| request.argument(at).eq_ignore_ascii_case(b"user"))
                .map(|at| request.argument(at + 1))
            && !self.event_loop.shared.users.has(name)
        {
            return Reply::err(format!("No such user '{}'", String::from_utf8_lossy(name)));
        }
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
                b"type" => filter.kind = Some(read_type(&text)?),
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
                filter.kind = Some(read_type(&text)?);
            }
            (b"id", 4..) => {
                let ids: Option<Vec<i64>> =
                    (3..count).map(|at| parse_i64(request.argument(at))).collect();
                let ids = ids.ok_or("ERR Invalid client ID")?;
                filter.id = Some(ids.into_iter().filter_map(|id| id.try_into().ok()).collect());
            }
            _ => return Err("ERR syntax error".to_owned()),
        }
        Ok(filter)
    }

    fn means(&self, entry: &Entry) -> bool {
        let same = |wanted: &Option<String>, address: SocketAddr| {
            wanted.as_ref().is_none_or(|wanted| *wanted == address.to_string())
        };
        self.kind.is_none_or(|kind| kind == Kind::of(entry))
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

fn read_type(text: &str) -> Result<Kind, String> {
    match text.to_ascii_lowercase().as_str() {
        "normal" => Ok(Kind::Normal),
        "pubsub" => Ok(Kind::Subscriber),
        "master" | "slave" | "replica" => Ok(Kind::Replication),
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

/// What is wrong with the subcommand's name or the number of its arguments.
pub(super) fn refusal(request: &Request<'_>) -> Option<String> {
    match subcommand(request) {
        Subcommand::Refused(text) => Some(text),
        _ => None,
    }
}

/// How a request for CLIENT is handled. As Redis does, what is wrong with the subcommand's name and
/// the number of its arguments is told before it is queued in a transaction.
fn subcommand(request: &Request<'_>) -> Subcommand {
    let count = request.count();
    let name = String::from_utf8_lossy(request.argument(1)).to_ascii_lowercase();
    let (counts, way) = match name.as_str() {
        "id" | "getname" | "info" => (2..=2, Subcommand::Answered),
        "setname" | "no-evict" | "no-touch" => (3..=3, Subcommand::Answered),
        "setinfo" => (4..=4, Subcommand::Answered),
        "list" => (2..=usize::MAX, Subcommand::Answered),
        "kill" => (3..=usize::MAX, Subcommand::Answered),
        "reply" => (3..=3, Subcommand::Reply),
        "tracking" => (3..=usize::MAX, Subcommand::Tracking),
        "unblock" => (3..=usize::MAX, Subcommand::Unblock),
        "pause" => (3..=usize::MAX, Subcommand::Pause),
        "unpause" => (2..=2, Subcommand::Pause),
        "getredir" | "trackinginfo" => (2..=usize::MAX, Subcommand::Redirection),
        "help" | "caching" => (2..=usize::MAX, Subcommand::Forwarded),
        _ => {
            return Subcommand::Refused(format!(
                "ERR unknown subcommand '{}'. Try CLIENT HELP.",
                String::from_utf8_lossy(request.argument(1))
            ));
        }
    };
    if counts.contains(&count) {
        return way;
    }
    Subcommand::Refused(format!("ERR wrong number of arguments for 'client|{name}' command"))
}

/// A line of CLIENT LIST, in Redis' form. What a proxy does not know (sizes of Redis' buffers) is 0.
/// `pending_bytes`: the length of the request that is being run.
fn describe(entry: &Entry, uptime_seconds: u32, pending_bytes: usize) -> String {
    let standing = entry.standing();
    let [channels, patterns, shard_channels] = standing.subscriptions;
    let multi = standing.multi.map_or(-1, |queued| i64::try_from(queued).unwrap_or(i64::MAX));
    let mut flags = String::new();
    for (flag, holds) in [
        ('O', standing.monitors),
        ('P', Kind::of(entry) == Kind::Subscriber),
        ('x', standing.multi.is_some()),
        ('b', entry.is_waiting()),
        ('t', standing.tracks.is_some()),
    ] {
        if holds {
            flags.push(flag);
        }
    }
    if flags.is_empty() {
        flags.push('N');
    }
    let command = entry.command_name();
    let output_bytes = entry.output_bytes.load(Ordering::Relaxed);
    let outputs = u8::from(output_bytes > 0);
    let redirection = standing.tracks.map_or(-1, u64::cast_signed);
    format!(
        "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={flags} db={} sub={channels} \
         psub={patterns} ssub={shard_channels} multi={multi} qbuf={pending_bytes} qbuf-free=0 argv-mem=0 \
         multi-mem=0 rbs=0 rbp=0 obl=0 oll={outputs} omem={output_bytes} tot-mem={output_bytes} events=r cmd={command} user={} \
         redir={redirection} resp={}\n",
        entry.id,
        entry.address,
        entry.local_address,
        String::from_utf8_lossy(&entry.name()),
        entry.connected.elapsed().as_secs(),
        uptime_seconds.saturating_sub(entry.seen.load(Ordering::Relaxed)),
        entry.database.load(Ordering::Relaxed),
        entry.user(),
        entry.protocol.load(Ordering::Relaxed),
    )
}
