//! Commands about the connection itself: AUTH, HELLO, SELECT, RESET, QUIT, and those of a cluster's
//! connections, of which there are none. (CLIENT and RESPGRES have files of their own.)

use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::client::Replies;
use super::conversation::{Flow, Request, Talk};
use super::event_loop::{Carries, upstream_failed};
use super::expect::Inspection;
use super::queued::Effect;
use crate::command::Command;
use crate::protocol::request::{Scanned, Scanner};
use crate::protocol::{Reply, Version};
use crate::upstream::UpstreamError;
use crate::upstream::lane::Delivered;
use crate::value::number::parse_i64;

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD_SET: &str = "ERR AUTH <password> called without any password configured for the \
     default user. Are you sure your configuration is correct?";
const HELLO_UNAUTHENTICATED: &str = "NOAUTH HELLO must be called with the client already \
     authenticated, otherwise the HELLO AUTH <user> <pass> option can be used to \
     authenticate the client and select the RESP protocol version at the same time";

const OUT_OF_RANGE: &str = "ERR DB index is out of range";

/// What HELLO asks for, once it is understood.
struct Hello<'a> {
    version: Option<Version>,
    credentials: Option<(&'a [u8], &'a [u8])>,
    name: Option<&'a [u8]>,
}

// === impl Talk ===

impl Talk {
    /// A command that respgres answers itself.
    pub(super) fn local(&self, command: &'static Command, request: &Request<'_>) -> Flow {
        if !command.arity_ok(request.count()) {
            self.refuse(&Reply::Error(command.arity_error()));
            return Flow::Done;
        }
        let in_multi = self.client.session.borrow().pin.as_ref().is_some_and(|pin| pin.multi);
        match command.name {
            "client" => self.client_command(command, request),
            "respgres" => self.about_respgres(request),
            "reset" => self.reset(),
            "quit" => {
                self.client.answer(&Reply::OK);
                self.client.leave_when_told();
                Flow::Done
            }
            "select" if in_multi => match database_of(request.argument(1)) {
                Ok(database) => self.queue(request.bytes, Effect::Select(database)),
                Err(_) => self.forward_apart(request),
            },
            "hello" if in_multi && self.changes_version(request) => {
                self.refuse(&Reply::err("HELLO cannot change the protocol inside MULTI"));
                Flow::Done
            }
            _ if in_multi => self.queue_local(command, request),
            "hello" => self.hello(request),
            "select" => self.select(request),
            _ => {
                self.client.answer(&self.local_reply(command, request));
                Flow::Done
            }
        }
    }

    /// The reply to a command that respgres answers, at once or when EXEC runs it.
    pub(super) fn local_reply(&self, command: &Command, request: &Request<'_>) -> Reply {
        match command.name {
            "auth" => self.auth(request),
            "hello" => match read_hello(request) {
                Ok(hello) => self.greet(&hello),
                Err(text) => Reply::Error(text),
            },
            "client" => self.client_reply(request),
            // ASKING, READONLY, READWRITE. They must not change a connection that others share.
            _ => Reply::err("This instance has cluster support disabled"),
        }
    }

    fn changes_version(&self, request: &Request<'_>) -> bool {
        let version = read_hello(request).ok().and_then(|hello| hello.version);
        version.is_some_and(|version| version != self.client.version())
    }

    fn auth(&self, request: &Request<'_>) -> Reply {
        let users = &self.event_loop.shared.users;
        let (name, password) = match request.count() {
            2 if !users.default_has_password() => {
                return Reply::Error(NO_PASSWORD_SET.to_owned());
            }
            2 => (&b"default"[..], request.argument(1)),
            3 => (request.argument(1), request.argument(2)),
            _ => return Reply::err("syntax error"),
        };
        if self.authenticate(name, password) {
            Reply::OK
        } else {
            Reply::Error(WRONG_PASSWORD.to_owned())
        }
    }

    fn authenticate(&self, name: &[u8], password: &[u8]) -> bool {
        let granted = self.event_loop.shared.users.check(name, password);
        if granted {
            self.client.session.borrow_mut().authenticated = true;
            self.client.entry.set_user(&String::from_utf8_lossy(name));
        }
        granted
    }

    fn hello(&self, request: &Request<'_>) -> Flow {
        let hello = match read_hello(request) {
            Ok(hello) => hello,
            Err(text) => {
                self.client.answer(&Reply::Error(text));
                return Flow::Done;
            }
        };
        let version = hello.version.unwrap_or(self.client.version());
        let changes = version != self.client.version();
        // Replies to what is under way are in the old version.
        if changes && !self.drained() {
            return Flow::Wait;
        }
        if changes && self.client.session.borrow().pin.is_some() {
            return self.hello_over_pin(request, &hello, version);
        }
        self.client.answer(&self.greet(&hello));
        Flow::Done
    }

    /// The client's own connection to Redis has to change its version too.
    fn hello_over_pin(&self, request: &Request<'_>, hello: &Hello<'_>, version: Version) -> Flow {
        let is_subscribed =
            self.client.session.borrow().pin.as_ref().is_some_and(|pin| !pin.lane.is_accounted());
        if is_subscribed {
            self.refuse(&Reply::err(
                "HELLO cannot change the protocol while the connection is subscribed or monitoring",
            ));
            return Flow::Done;
        }
        if let Some((name, password)) = hello.credentials
            && !self.event_loop.shared.users.check(name, password)
        {
            self.client.answer(&Reply::Error(WRONG_PASSWORD.to_owned()));
            return Flow::Done;
        }
        let muted = self.client.take_muted();
        let request = Bytes::copy_from_slice(request.bytes);
        self.client.expected.borrow_mut().inspect(Inspection::Hello(request), muted);
        let bytes: &[u8] = match version {
            Version::Resp2 => b"*2\r\n$5\r\nHELLO\r\n$1\r\n2\r\n",
            Version::Resp3 => b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n",
        };
        self.append(bytes, 1, Delivered::Together);
        self.drained();
        Flow::Done
    }

    /// Redis has answered to `hello_over_pin`; what the client is told.
    pub(super) fn finish_hello(&self, reply: Vec<u8>, bytes: &Bytes) -> Bytes {
        let mut scanner = Scanner::new();
        let scanned = scanner.next(bytes, true, &self.limits);
        debug_assert!(matches!(scanned, Scanned::Request(_)), "it was a request when it was sent");
        let request = Request { bytes, scanner: &scanner };
        let greeting = match read_hello(&request) {
            Ok(hello) if reply.first() != Some(&b'-') => self.greet(&hello),
            _ => return Bytes::from(reply),
        };
        if let Some(pin) = &mut self.client.session.borrow_mut().pin {
            // It is not what its lane says any more.
            pin.spoiled = true;
            if pin.subscriptions.is_some() {
                // In RESP2 it is told by frames that answer nothing.
                pin.lane.set_accounted(false);
            }
        }
        let mut out = BytesMut::new();
        greeting.write(self.client.version(), &mut out);
        out.freeze()
    }

    fn greet(&self, hello: &Hello<'_>) -> Reply {
        if let Some((name, password)) = hello.credentials
            && !self.authenticate(name, password)
        {
            return Reply::Error(WRONG_PASSWORD.to_owned());
        }
        if !self.client.session.borrow().authenticated {
            return Reply::Error(HELLO_UNAUTHENTICATED.to_owned());
        }
        if let Some(name) = hello.name {
            self.client.entry.set_name(Bytes::copy_from_slice(name));
        }
        let version = hello.version.unwrap_or(self.client.version());
        self.client.session.borrow_mut().version = version;
        let number = if version == Version::Resp3 { 3 } else { 2 };
        self.client.entry.protocol.store(number, Ordering::Relaxed);
        let text = |text: &'static str| Reply::Bulk(Bytes::from_static(text.as_bytes()));
        let redis_version = self.event_loop.shared.redis_version.clone();
        Reply::Map(vec![
            (text("server"), text("redis")),
            (text("version"), Reply::bulk(redis_version)),
            (text("proto"), Reply::Integer(i64::from(number))),
            (text("id"), Reply::Integer(self.client.entry.id.cast_signed())),
            (text("mode"), text("standalone")),
            (text("role"), text("master")),
            (text("modules"), Reply::Array(Vec::new())),
        ])
    }

    fn select(&self, request: &Request<'_>) -> Flow {
        let database = match database_of(request.argument(1)) {
            Ok(database) => database,
            Err(reply) => {
                self.client.answer(&reply);
                return Flow::Done;
            }
        };
        self.give_back_lane();
        let (current, version, pinned) = {
            let session = self.client.session.borrow();
            (session.database, session.version, session.pin.is_some())
        };
        if database == current {
            self.client.answer(&Reply::OK);
            return Flow::Done;
        }
        if pinned {
            if !self.may_forward() {
                return Flow::Wait;
            }
            let muted = self.client.take_muted();
            self.client.expected.borrow_mut().inspect(Inspection::Select(database), muted);
            self.append(request.bytes, 1, Delivered::Together);
            self.drained();
            return Flow::Done;
        }
        // Two databases are two lanes, and lanes do not wait for each other.
        if !self.drained() {
            return Flow::Wait;
        }
        let lane = self.event_loop.shared_lane(database, version, Carries::AllElse);
        let slot = self.client.expected.borrow_mut().slot(self.client.take_muted());
        self.drained();
        let (event_loop, client) = (self.event_loop.clone(), self.client.clone());
        self.event_loop.tasks.spawn_local(async move {
            let reply = match lane.ready().await {
                Ok(()) => {
                    client.session.borrow_mut().database = database;
                    client.entry.database.store(database, Ordering::Relaxed);
                    Reply::OK
                }
                Err(UpstreamError::Refused(text)) => {
                    event_loop.forget_lane(&lane);
                    if text == OUT_OF_RANGE {
                        Reply::Error(text)
                    } else {
                        upstream_failed(&UpstreamError::Refused(text))
                    }
                }
                Err(error) => upstream_failed(&error),
            };
            let mut bytes = bytes::BytesMut::new();
            reply.write(version, &mut bytes);
            client.fill(slot, bytes.freeze());
            client.flush();
        });
        Flow::Done
    }

    fn reset(&self) -> Flow {
        // Whatever is under way is answered first, also on the connection that is closed then.
        if !self.drained() {
            return Flow::Wait;
        }
        let mut session = self.client.session.borrow_mut();
        if let Some(pin) = session.pin.take() {
            pin.close();
            self.client.entry.lose_connection();
        }
        session.watched = None;
        session.version = Version::Resp2;
        session.database = 0;
        session.replies = Replies::On;
        session.authenticated = !self.event_loop.shared.users.must_authenticate();
        drop(session);
        let entry = &self.client.entry;
        entry.database.store(0, Ordering::Relaxed);
        entry.protocol.store(2, Ordering::Relaxed);
        entry.set_name(Bytes::new());
        entry.set_user("default");
        entry.end_wait();
        self.client.show_standing();
        self.client.answer(&Reply::Status("RESET"));
        Flow::Done
    }
}

/// The database that SELECT names, or what Redis says of it (`selectCommand`).
fn database_of(argument: &[u8]) -> Result<u16, Reply> {
    let index =
        parse_i64(argument).ok_or_else(|| Reply::err("value is not an integer or out of range"))?;
    if i32::try_from(index).is_err() {
        return Err(Reply::err(format!(
            "value is out of range, value must between {} and {}",
            i32::MIN,
            i32::MAX
        )));
    }
    u16::try_from(index).map_err(|_| Reply::Error(OUT_OF_RANGE.to_owned()))
}

fn read_hello<'a>(request: &Request<'a>) -> Result<Hello<'a>, String> {
    let count = request.count();
    let mut hello = Hello { version: None, credentials: None, name: None };
    if count == 1 {
        return Ok(hello);
    }
    hello.version = Some(match parse_i64(request.argument(1)) {
        None => return Err("ERR Protocol version is not an integer or out of range".to_owned()),
        Some(2) => Version::Resp2,
        Some(3) => Version::Resp3,
        Some(_) => return Err("NOPROTO unsupported protocol version".to_owned()),
    });
    let mut at = 2;
    while at < count {
        let option = request.argument(at);
        let more = count - at - 1;
        if option.eq_ignore_ascii_case(b"auth") && more >= 2 {
            hello.credentials = Some((request.argument(at + 1), request.argument(at + 2)));
            at += 3;
        } else if option.eq_ignore_ascii_case(b"setname") && more >= 1 {
            let name = request.argument(at + 1);
            check_name(name)?;
            hello.name = Some(name);
            at += 2;
        } else {
            let option = String::from_utf8_lossy(option);
            return Err(format!("ERR Syntax error in HELLO option '{option}'"));
        }
    }
    Ok(hello)
}

/// A connection's name may hold no spaces and no control characters (Redis: `CLIENT SETNAME`).
pub(super) fn check_name(name: &[u8]) -> Result<(), String> {
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(());
    }
    Err("ERR Client names cannot contain spaces, newlines or special characters.".to_owned())
}
