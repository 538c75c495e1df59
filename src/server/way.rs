//! Which way a request goes: by its row in the command table, the mappings, and the state of its
//! client's connection.

use super::asked::Ask;
use super::client_command;
use super::conversation::{Request, Talk};
use super::info;
use crate::command::{COMMANDS, Command, Flags, Guarded, Keys, Mapped, Path, lookup};
use crate::config::Flush;
use crate::engine::refusal::fenced;
use crate::engine::route::Touch;
use crate::protocol::Reply;
use crate::protocol::request::is_http_probe;
use crate::value::number::parse_i64;

/// How a request is to be handled.
pub(super) enum Way {
    /// Forwarded as it came, in a run with its neighbours.
    Forward,
    /// So, and its reply is final if it proves that its mapped key was there.
    Ask(Ask),
    /// Anything else.
    Apart(Apart),
}

pub(super) enum Apart {
    Mapped(&'static Command),
    Pinned(&'static Command),
    Local(&'static Command),
    /// Forwarded over a connection of the client's own until the reply is there.
    Alone(&'static Command),
    /// Forwarded over the lane of the scripts.
    Script,
    /// It is about many keys, of both stores.
    Survey(&'static Command),
    Info,
    Tell(Reply),
    /// An HTTP request: closed without a reply.
    Close,
}

// === impl Talk ===

impl Talk {
    /// Decides; what the client has under way does not matter yet.
    pub(super) fn way(&self, request: &Request<'_>) -> Way {
        let session = self.client.session.borrow();
        let count = request.count();
        let argument = |at: usize| request.argument(at);
        let engine = &self.event_loop.shared.engine;
        let pin = session.pin.as_ref();
        // What is queued after a SELECT in a transaction is for that database.
        let database = pin.and_then(|pin| pin.queued_database).unwrap_or(session.database);
        let may_be_mapped = engine.maps_database(database);
        let is_accounted = pin.is_none_or(|pin| pin.lane.is_accounted());
        let Some(command) = lookup(argument(0)) else {
            self.row.set(COMMANDS.len());
            if is_http_probe(argument(0)) {
                return Way::Apart(Apart::Close);
            }
            if !session.authenticated {
                return tell(unknown_command(request));
            }
            if may_be_mapped && is_accounted {
                match engine.touch_of_unknown(count, argument) {
                    Touch::Nothing => {}
                    Touch::Passing if self.is_fenced() => {
                        return Way::Apart(Apart::Tell(fenced()));
                    }
                    Touch::Passing => self.client.passes(pin, false),
                    Touch::Asks(..) | Touch::Mapped => {
                        let name = String::from_utf8_lossy(argument(0)).into_owned();
                        return tell(format!(
                            "ERR '{name}' is not a command that respgres knows, and it may touch a mapped key"
                        ));
                    }
                    Touch::Reserved => return reserved(),
                }
            }
            return if session.pin.is_some() { pinned_forward() } else { Way::Forward };
        };
        self.last.set(Some(command));
        self.row.set(command.row());
        if command.has_subcommands() && count > 1 {
            self.client.entry.set_subcommand(argument(1));
        }
        if !session.authenticated && !command.flags.contains(Flags::NO_AUTH) {
            if !command.arity_ok(count) {
                return tell(command.arity_error());
            }
            let refusal = (command.name == "client").then(|| client_command::refusal(request));
            return refusal.flatten().map_or_else(no_auth, tell);
        }
        if !is_accounted {
            return Way::Apart(Apart::Pinned(command));
        }
        if command.guarded != Guarded::Nothing
            && let Some(refusal) = self.guard(command, request, pin.is_some_and(|pin| pin.multi))
        {
            return tell(refusal);
        }
        if may_be_mapped {
            let touch = engine.touch(command, count, argument);
            let is_survey = matches!(command.path, Path::Keyspace | Path::Flush);
            if (is_survey || !matches!(touch, Touch::Nothing | Touch::Reserved)) && self.is_fenced()
            {
                return Way::Apart(Apart::Tell(fenced()));
            }
            match touch {
                Touch::Nothing => {}
                Touch::Passing => {
                    let starts = command.path == Path::Transaction;
                    self.client.passes(pin, starts);
                }
                Touch::Asks(proof, gate, mapping)
                    if command.arity_ok(count) && session.pin.is_none() =>
                {
                    let version = session.version;
                    return match gate.enter() {
                        Some(pass) if gate.reads_redis() => {
                            Way::Ask(Ask { command, proof, mapping, version, pass })
                        }
                        // Its strategy was changed just now.
                        Some(_) | None => Way::Apart(Apart::Mapped(command)),
                    };
                }
                Touch::Asks(..) | Touch::Mapped if command.arity_ok(count) => {
                    return Way::Apart(Apart::Mapped(command));
                }
                Touch::Asks(..) | Touch::Mapped => {
                    return Way::Apart(Apart::Tell(Reply::Error(command.arity_error())));
                }
                Touch::Reserved => return reserved(),
            }
        }
        if !may_be_mapped
            && engine.has_mappings()
            && let Some(refusal) = engine.reaches_into_mapped_database(command, count, argument)
        {
            return tell(refusal);
        }
        let pinned = session.pin.is_some();
        let path = match command.path {
            Path::Keyspace if !may_be_mapped => Path::Forward,
            path => path,
        };
        match path {
            Path::Keyspace => Way::Apart(Apart::Survey(command)),
            Path::Forward | Path::Script if !pinned && self.writes_paused.get() => {
                Way::Apart(Apart::Alone(command))
            }
            Path::Forward if !pinned => Way::Forward,
            // The client's requests before it are under way there already.
            Path::Script if !pinned && self.client.on_scripts_lane.get() => Way::Forward,
            Path::Script if !pinned => Way::Apart(Apart::Script),
            Path::Blocking if is_script_debug(command, count, argument) => {
                tell("ERR SCRIPT DEBUG works only with a direct connection to Redis".to_owned())
            }
            Path::Blocking if !pinned && !command.is_blocking(count, argument) => Way::Forward,
            Path::Forward
            | Path::Script
            | Path::Blocking
            | Path::Transaction
            | Path::Subscription
            | Path::Stream => Way::Apart(Apart::Pinned(command)),
            Path::Local => Way::Apart(Apart::Local(command)),
            Path::Info if info::wants_section((1..count).map(argument)) => Way::Apart(Apart::Info),
            // In a transaction it is counted.
            Path::Info if pinned => Way::Apart(Apart::Pinned(command)),
            Path::Info => Way::Forward,
            Path::Flush => {
                let touched = match command.name {
                    "flushdb" => may_be_mapped,
                    "swapdb" => swaps(engine.database(), count, argument),
                    _ => true,
                };
                let touches = engine.has_mappings() && touched;
                match self.event_loop.shared.upstream.flush {
                    _ if !touches => {}
                    // Not what Redis alone has.
                    Flush::Cache if command.name != "swapdb" && engine.needs_what_redis_has() => {
                        return Way::Apart(Apart::Survey(command));
                    }
                    Flush::Cache if command.name != "swapdb" => {}
                    Flush::Truncate if command.name != "swapdb" => {
                        return Way::Apart(Apart::Survey(command));
                    }
                    Flush::Refuse | Flush::Cache | Flush::Truncate => {
                        return tell(format!(
                            "ERR {} is refused while mappings exist; see upstream.flush in the configuration",
                            command.name.to_ascii_uppercase()
                        ));
                    }
                }
                if pinned { Way::Apart(Apart::Pinned(command)) } else { Way::Forward }
            }
            Path::Refused(why) => tell(format!("ERR {}: {why}", command.name.to_ascii_uppercase())),
        }
    }

    /// Whether mapped keys must not be touched: asked once for all requests that are taken together.
    fn is_fenced(&self) -> bool {
        self.fenced.get().unwrap_or_else(|| {
            let is_fenced = self.event_loop.shared.engine.is_fenced();
            self.fenced.set(Some(is_fenced));
            is_fenced
        })
    }

    /// What the client is told instead, if the request concerns the server as a whole and such
    /// requests are not allowed.
    pub(super) fn guard(
        &self,
        command: &Command,
        request: &Request<'_>,
        in_multi: bool,
    ) -> Option<String> {
        if self.event_loop.shared.upstream.admin_commands {
            return None;
        }
        command.guard(request.count(), |at| request.argument(at), in_multi)
    }
}

fn tell(text: String) -> Way {
    Way::Apart(Apart::Tell(Reply::Error(text)))
}

/// Whether SWAPDB exchanges this database for another.
fn swaps<'a>(database: u16, count: usize, argument: impl Fn(usize) -> &'a [u8]) -> bool {
    (1..count).any(|at| parse_i64(argument(at)) == Some(i64::from(database)))
}

fn is_script_debug<'a>(
    command: &Command,
    count: usize,
    argument: impl Fn(usize) -> &'a [u8],
) -> bool {
    command.name == "script"
        && count == 3
        && argument(1).eq_ignore_ascii_case(b"debug")
        && !argument(2).eq_ignore_ascii_case(b"no")
}

/// What Redis says of a command that it does not know (`commandCheckExistence`).
fn unknown_command(request: &Request<'_>) -> String {
    const MOST: usize = 128;
    let shown = |bytes: &[u8], most: usize| {
        String::from_utf8_lossy(&bytes[..bytes.len().min(most)]).into_owned()
    };
    let mut arguments = String::new();
    for at in 1..request.count() {
        if arguments.len() >= MOST {
            break;
        }
        let argument = shown(request.argument(at), MOST - arguments.len());
        arguments.push_str(&format!("'{argument}' "));
    }
    let name = shown(request.argument(0), MOST);
    format!("ERR unknown command '{name}', with args beginning with: {arguments}")
}

fn no_auth() -> Way {
    tell("NOAUTH Authentication required.".to_owned())
}

fn reserved() -> Way {
    tell("ERR keys that begin with \"respgres:\" are reserved for respgres".to_owned())
}

/// A command that is not in the table, of a client with a connection of its own.
fn pinned_forward() -> Way {
    static UNKNOWN: Command = Command {
        name: "",
        arity: -1,
        flags: Flags(0),
        keys: Keys::None,
        path: Path::Forward,
        mapped: Mapped::NotApplicable,
        guarded: Guarded::Nothing,
    };
    Way::Apart(Apart::Pinned(&UNKNOWN))
}
