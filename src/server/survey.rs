//! Requests about many keys, or about how one is kept, on their way to the engine: KEYS, SCAN, DBSIZE,
//! RANDOMKEY, FLUSHALL and FLUSHDB while there are mappings; RESPGRES.
//!
//! They look at both stores over connections of their own. So each starts when everything before it has
//! been answered, and what the client sends behind it waits for its reply.

use std::any::Any;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::conversation::{Flow, Request, Talk};
use super::mapped::NO_WRITER;
use crate::command::Command;
use crate::config;
use crate::engine::{Ask, Survey};
use crate::protocol::Reply;

const HELP: [&str; 8] = [
    "RESPGRES <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "EXPLAIN <key>",
    "    Tell the mapping of a key, the SQL that reads it, and what either store has of it.",
    "STRATEGY [<mapping> [<strategy>]]",
    "    Tell by which strategy mappings go, or change it for all proxies at once, while clients go on.",
    "    The latter takes upstream.admin_commands.",
    "HELP",
    "    Print this help.",
];

// === impl Talk ===

impl Talk {
    /// Hands over a request that looks at many keys.
    pub(super) fn survey(&self, command: &'static Command, request: &Request<'_>) -> Flow {
        if !command.arity_ok(request.count()) {
            self.refuse(&Reply::Error(command.arity_error()));
            return Flow::Done;
        }
        let name = command.name.to_ascii_uppercase();
        let why = format!("{name} is not supported inside MULTI while mappings exist");
        if self.is_refused_in_multi(&why) {
            return Flow::Done;
        }
        let argument = |at: usize| Bytes::copy_from_slice(request.argument(at));
        let arguments = || (0..request.count()).map(argument).collect();
        self.ask(|| match command.name {
            "keys" => Ask::Keys(argument(1)),
            "scan" => Ask::Scan(arguments()),
            "dbsize" => Ask::Count,
            "randomkey" => Ask::Random,
            _ if self.event_loop.shared.upstream.flush == config::Flush::Cache => {
                Ask::Empty(arguments())
            }
            _ => Ask::Flush(arguments()),
        })
    }

    /// RESPGRES; its arity has been checked.
    pub(super) fn about_respgres(&self, request: &Request<'_>) -> Flow {
        if self.is_refused_in_multi("RESPGRES is not supported inside MULTI") {
            return Flow::Done;
        }
        let subcommand = request.argument(1);
        let is = |name: &str| subcommand.eq_ignore_ascii_case(name.as_bytes());
        let text = |at: usize| String::from_utf8_lossy(request.argument(at)).into_owned();
        match request.count() {
            3 if is("explain") => {
                self.ask(|| Ask::Explain(Bytes::copy_from_slice(request.argument(2))))
            }
            2 if is("strategy") => self.ask(|| Ask::Strategy { mapping: None, target: None }),
            3 if is("strategy") => {
                self.ask(|| Ask::Strategy { mapping: Some(text(2)), target: None })
            }
            4 if is("strategy") => {
                if !self.event_loop.shared.upstream.admin_commands {
                    self.refuse(&Reply::Error(
                        "NOPERM RESPGRES STRATEGY changes what holds for all clients; see \
                         upstream.admin_commands in the configuration, or `respgres strategy set`"
                            .to_owned(),
                    ));
                    return Flow::Done;
                }
                self.ask(|| Ask::Strategy { mapping: Some(text(2)), target: Some(text(3)) })
            }
            2 if is("help") => {
                self.client.answer(&Reply::Array(HELP.map(Reply::Status).to_vec()));
                Flow::Done
            }
            _ => {
                let subcommand = String::from_utf8_lossy(subcommand);
                let known = ["explain", "strategy", "help"].into_iter().find(|name| is(name));
                self.refuse(&match known {
                    Some(name) => Reply::err(format!(
                        "wrong number of arguments for 'respgres|{name}' command"
                    )),
                    None => {
                        Reply::err(format!("unknown subcommand '{subcommand}'. Try RESPGRES HELP."))
                    }
                });
                Flow::Done
            }
        }
    }

    /// The store's part of a transaction would be missing.
    fn is_refused_in_multi(&self, why: &str) -> bool {
        let in_multi = self.client.session.borrow().pin.as_ref().is_some_and(|pin| pin.multi);
        if in_multi {
            self.refuse(&Reply::err(why));
        }
        in_multi
    }

    fn ask(&self, ask: impl FnOnce() -> Ask) -> Flow {
        if !self.drained() {
            return Flow::Wait;
        }
        let client = &self.client;
        client.writer.set(NO_WRITER);
        client.writes.set(1);
        let muted = client.take_muted();
        let slot = client.expected.borrow_mut().slot(muted);
        // The roster and the client drop it when the client leaves.
        let entry: Arc<dyn Any + Send + Sync> = Arc::clone(&client.entry) as _;
        let presence: Weak<dyn Any + Send + Sync> = Arc::downgrade(&entry);
        let survey = Survey::new(ask(), self.reply_to(slot), presence);
        self.event_loop.shared.engine.survey(survey);
        Flow::Done
    }
}
