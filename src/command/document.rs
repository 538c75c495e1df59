//! docs/commands.md, printed from the command table.

use std::fmt::Write as _;

use super::{COMMANDS, Command, Guarded, Mapped, Path, Read, Write};
use crate::value::ValueKind;

const HEAD: &str = "\
# Commands

What respgres does with each command. This page is printed from the command table by
`respgres print-commands > docs/commands.md`; a test compares the two.

Two things decide: whether one of the command's keys matches a mapping, and of which kind, and if none
does, which way the request takes to the upstream Redis. Mappings of the kinds `hash` and `hash_entries` hold
hashes, those of kind `set` hold sets.

Without a mapped key:

- *forwarded*: as it came, over a connection that many clients share.
- *forwarded, over the scripts' connection*: as it came, over another shared connection. While a
  script runs for long, Redis tells everybody else `-BUSY`, except for SCRIPT KILL and the like.
- *forwarded, own connection*: as it came, over a connection that this client alone has while it
  waits, subscribes, watches or is in a transaction.
- *answered by respgres*: it concerns the client's connection, which ends at respgres, or respgres
  itself.
- *forwarded, or over both stores*: as it came while no mapping with a table is for the client's
  database; else answered by respgres, with the keys of the mapped tables and those of Redis that are not
  mapped.
- *refused*: never answered through a proxy.
- *guarded*, or some of its subcommands: changes or stops the Redis server as a whole. Refused as by a Redis
  that denies it to its user (`-NOPERM`), unless `upstream.admin_commands` is true. All that Redis flags as
  `admin` is guarded, but for what only looks (CONFIG GET, MONITOR, LATENCY and SLOWLOG without their RESET,
  MODULE LIST, CLUSTER REPLICAS and COUNT-FAILURE-REPORTS), and for CLIENT: that is about the clients of
  respgres, except that PAUSE pauses all of Redis. Scripts can call of it what Redis lets them call.

With a mapped key:

- *served, read* and *served, write*: with the replies and error texts of Redis 7.0; where the value
  is read from and written to is the mapping's strategy.
- *run by Redis*: on the key's true value, which is lent to Redis for one atomic step; what it made of
  the value is written to Postgres before the client is told. The reply is Redis' own, byte for byte. A key
  that would become something else than its mapping holds is an error, and nothing is written.
- *watched*: EXEC does nothing if the value has changed.
- anything else is an error that names the command, the mapping and the reason. Neither store is
  touched.

Between MULTI and EXEC all of these are run by Redis, in one atomic step and one transaction of Postgres.

Commands that are not listed are unknown to respgres.

| command | without a mapped key | on a mapped hash | on a mapped set |
| --- | --- | --- | --- |
";

/// The text of docs/commands.md.
pub fn document() -> String {
    let mut commands: Vec<&Command> = COMMANDS.iter().collect();
    commands.sort_by_key(|command| command.name);
    let mut text = HEAD.to_owned();
    for command in commands {
        let name = command.name.to_uppercase();
        let unmapped = unmapped(command);
        let [hash, set] =
            [ValueKind::Hash, ValueKind::Set].map(|holds| mapped(command.mapped, holds));
        writeln!(text, "| {name} | {unmapped} | {hash} | {set} |")
            .expect("a String takes any text");
    }
    text
}

fn unmapped(command: &Command) -> String {
    let way = match command.path {
        Path::Forward => "forwarded",
        Path::Script => "forwarded, over the scripts' connection",
        Path::Blocking => "forwarded, own connection while it waits",
        Path::Transaction => "forwarded, own connection until the transaction ends",
        Path::Subscription => "forwarded, own connection while subscribed",
        Path::Stream => "forwarded, own connection until the client leaves",
        Path::Local => "answered by respgres",
        Path::Info => "forwarded, a `respgres` section added",
        Path::Keyspace => "forwarded, or over both stores",
        Path::Flush => "refused while there are mappings, unless `upstream.flush` allows it",
        Path::Refused(why) => return format!("refused: {why}"),
    };
    match command.guarded {
        Guarded::Nothing => way.to_owned(),
        Guarded::Whole => format!("{way}; guarded"),
        Guarded::Subcommands(subcommands) => {
            let names: Vec<String> =
                subcommands.iter().map(|(name, _)| name.to_uppercase()).collect();
            format!("{way}; guarded: {}", names.join(", "))
        }
    }
}

fn mapped(mapped: Mapped, holds: ValueKind) -> String {
    match mapped {
        Mapped::Read(Read { of: Some(of), .. }) | Mapped::Write(Write { of: Some(of), .. })
            if of != holds =>
        {
            format!("run by Redis: the key holds a {}", holds.name())
        }
        Mapped::NotApplicable => "no keys".to_owned(),
        Mapped::Read(_) => "served, read".to_owned(),
        Mapped::Write(_) => "served, write".to_owned(),
        Mapped::Lent => "run by Redis".to_owned(),
        Mapped::Watched => "watched".to_owned(),
        Mapped::Refused(why) => format!("refused: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_the_table_says() {
        let page = include_str!("../../docs/commands.md");
        let printed = document();
        for (written, expected) in page.lines().zip(printed.lines()) {
            assert_eq!(written, expected, "docs/commands.md is old; see its head");
        }
        assert_eq!(page, printed, "docs/commands.md is old; see its head");
    }
}
