//! INFO: the upstream's answer with a `# respgres` section of our own.

use std::fmt::Write as _;

use super::Shared;
use crate::protocol::reply::write_bulk;

/// Our own section.
pub(super) fn section(shared: &Shared) -> String {
    let mut text = String::from("# respgres\r\n");
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        let _ = write!(text, "{name}:{value}\r\n");
    };
    line("respgres_version", &env!("CARGO_PKG_VERSION"));
    line("respgres_uptime_in_seconds", &shared.started.elapsed().as_secs());
    line("respgres_connected_clients", &shared.roster.len());
    line("respgres_maxclients", &shared.max_clients);
    line("respgres_mappings", &shared.engine.registry().mappings().count());
    let health = shared.engine.health();
    let standing = match (health.is_lost, health.is_degraded) {
        (true, _) => "lost",
        (false, true) => "catching_up",
        (false, false) => "up",
    };
    line("respgres_postgres", &standing);
    line("respgres_postgres_lost_for_seconds", &health.seconds);
    line("respgres_degraded_mappings", &shared.engine.degraded_mappings().join(","));
    if shared.engine.has_mappings() {
        let fleet = shared.engine.fleet();
        line("respgres_proxy_id", &fleet.id);
        line("respgres_proxies", &fleet.proxies);
        line("respgres_proxies_missing_in_redis", &fleet.missing_in_redis);
        line("respgres_proxies_missing_in_postgres", &fleet.missing_in_postgres);
        line("respgres_fenced", &u8::from(fleet.is_fenced));
        line("respgres_apart", &u8::from(fleet.is_apart));
    }
    let journal = shared.engine.journal();
    line("respgres_journal_entries", &journal.entries);
    line("respgres_journal_changes", &journal.changes);
    line("respgres_journal_lag_ms", &journal.lag_ms);
    line("respgres_journal_flushed_changes", &journal.flushed);
    line("respgres_dead_letters", &journal.dead_letters);
    text
}

/// Whether a request for INFO asks for our section: without a section named, or for everything, or
/// by name.
pub(super) fn wants_section<'a>(mut sections: impl Iterator<Item = &'a [u8]>) -> bool {
    let ours: [&[u8]; 4] = [b"respgres", b"all", b"default", b"everything"];
    let mut any = false;
    let named = sections.any(|section| {
        any = true;
        ours.iter().any(|name| section.eq_ignore_ascii_case(name))
    });
    named || !any
}

/// Adds our section to the upstream's reply, a bulk or verbatim string; any other reply (an error)
/// stays as it is.
pub(super) fn with_section(reply: &[u8], section: &str) -> Vec<u8> {
    let text = match reply.first() {
        Some(b'$' | b'=') => {
            memchr::memchr(b'\n', reply).and_then(|end| reply[end + 1..].strip_suffix(b"\r\n"))
        }
        _ => None,
    };
    let Some(text) = text else { return reply.to_vec() };
    let is_verbatim = reply.first() == Some(&b'=');
    let mut body = Vec::with_capacity(text.len() + section.len() + 2);
    body.extend_from_slice(text);
    if !text.is_empty() && text != b"txt:" {
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(section.as_bytes());
    let mut out = bytes::BytesMut::with_capacity(body.len() + 16);
    write_bulk(&mut out, &body);
    if is_verbatim {
        out[0] = b'=';
    }
    out.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_is_added_to_a_bulk_and_to_a_verbatim_string() {
        let check = |reply: &[u8], expected: &[u8]| {
            assert_eq!(with_section(reply, "# s\r\n"), expected);
        };
        check(b"$4\r\na:1\n\r\n", b"$11\r\na:1\n\r\n# s\r\n\r\n");
        check(b"=8\r\ntxt:a:1\n\r\n", b"=15\r\ntxt:a:1\n\r\n# s\r\n\r\n");
        check(b"$0\r\n\r\n", b"$5\r\n# s\r\n\r\n");
        check(b"-ERR no\r\n", b"-ERR no\r\n");
    }

    #[test]
    fn the_section_comes_unless_others_are_named() {
        let wants = |sections: &[&'static str]| {
            wants_section(sections.iter().map(|section| section.as_bytes()))
        };
        assert!(wants(&[]));
        assert!(wants(&["RESPGRES"]));
        assert!(wants(&["server", "all"]));
        assert!(!wants(&["server"]));
    }
}
