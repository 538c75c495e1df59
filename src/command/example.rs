//! How the tests of commands are written: a state, a request, its reply, the state after it.
//!
//! States are written `a=1 b=2 @5000` (fields, then the expiry in milliseconds), an absent key is
//! the empty text. It is always `NOW_MS`. Replies are written as redis-cli shows them, on one line.

use bytes::Bytes;

use super::{Mapped, Need, lookup};
use crate::protocol::Reply;
use crate::value::{Draft, Record};

pub(crate) const NOW_MS: i64 = 10_000;

/// Runs `request` on `before`; what a write leaves is compared, and that an error leaves nothing.
pub(crate) fn check(before: &str, request: &str, reply: &str, after: &str) {
    let args: Vec<Bytes> = request.split(' ').map(|word| Bytes::from(word.to_owned())).collect();
    let command = lookup(&args[0]).expect("a known command");
    assert!(command.arity_ok(args.len()), "{request}");
    let mut draft = Draft::new(state(before));
    let given = match command.mapped {
        Mapped::Read(read) => {
            let record = draft.record().map(|record| part(record, &(read.need)(&args)));
            (read.reply)(&args, record.as_ref(), NOW_MS)
        }
        Mapped::Write(write) => (write.run)(&args, &mut draft, NOW_MS),
        Mapped::NotApplicable | Mapped::Refused(_) => panic!("{request} is not served"),
    };
    assert_eq!(show(&given), reply, "{request} on {before:?}");
    assert_eq!(draft.record().cloned(), state(after), "{request} on {before:?}");
    if let Reply::Error(_) = given {
        assert!(!draft.is_changed(), "{request} on {before:?}");
    }
}

fn state(text: &str) -> Option<Record> {
    let mut record = Record::default();
    for word in text.split_whitespace() {
        match (word.strip_prefix('@'), word.split_once('=')) {
            (Some(expiry), _) => record.expires_at_ms = Some(expiry.parse().expect("a time")),
            (_, Some((field, value))) => {
                record.fields.insert(field.to_owned().into(), value.to_owned().into());
            }
            _ => panic!("no state: {word}"),
        }
    }
    (!record.fields.is_empty()).then_some(record)
}

/// What a store gives that was asked for `need`, and not more.
fn part(record: &Record, need: &Need) -> Record {
    let mut part = record.clone();
    match need {
        Need::Whole => part.expires_at_ms = None,
        Need::Fields(fields) => {
            part.expires_at_ms = None;
            part.fields.retain(|field, _| fields.contains(field));
        }
        Need::Existence => part = Record::default(),
        Need::Expiry => part.fields.clear(),
    }
    part
}

fn show(reply: &Reply) -> String {
    let list = |replies: &[Reply]| replies.iter().map(show).collect::<Vec<_>>().join(", ");
    match reply {
        Reply::Status(status) => (*status).to_owned(),
        Reply::Error(error) => format!("(error) {error}"),
        Reply::Integer(integer) => format!("(integer) {integer}"),
        Reply::Bulk(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        Reply::Nil => "(nil)".to_owned(),
        Reply::Array(replies) => format!("[{}]", list(replies)),
        Reply::Map(pairs) => {
            let pair = |(key, value): &(Reply, Reply)| format!("{}: {}", show(key), show(value));
            format!("{{{}}}", pairs.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        other => panic!("no command here answers {other:?}"),
    }
}
