//! How the tests of commands are written: a state, a request, its reply, the state after it.
//!
//! States are written `a=1 b=2 @5000` (fields, then the expiry in milliseconds), those of sets `{a b}`,
//! an absent key is the empty text. It is always `NOW_MS`. Replies are written as redis-cli shows them, on one line.

use bytes::Bytes;

use super::{Mapped, Need, lookup};
use crate::protocol::Reply;
use crate::value::{Draft, Record, ValueKind};

pub(crate) const NOW_MS: i64 = 10_000;

/// Runs `request` on `before`; what a write leaves is compared, and that an error leaves nothing. The
/// command knows what it needs, and no more.
pub(crate) fn check(before: &str, request: &str, reply: &str, after: &str) {
    let args: Vec<Bytes> = request.split(' ').map(|word| Bytes::from(word.to_owned())).collect();
    let command = lookup(&args[0]).expect("a known command");
    assert!(command.arity_ok(args.len()), "{request}");
    let before_it = state(before);
    let known = |need: Need| before_it.as_ref().map(|record| part(record, need));
    let kind =
        before_it.as_ref().or(state(after).as_ref()).map(|record| record.kind).unwrap_or_default();
    let mut draft;
    let given = match command.mapped {
        Mapped::Read(read) => {
            draft = Draft::new(kind, before_it.clone());
            (read.reply)(&args, known((read.need)(&args)).as_ref(), NOW_MS)
        }
        Mapped::Write(write) => {
            draft = Draft::new(kind, known((write.need)(&args)));
            (write.run)(&args, &mut draft, NOW_MS)
        }
        Mapped::NotApplicable | Mapped::Lent | Mapped::Watched | Mapped::Refused(_) => {
            panic!("{request} is not served")
        }
    };
    assert_eq!(show(&given), reply, "{request} on {before:?}");
    assert_eq!(after_it(before_it, &draft), state(after), "{request} on {before:?}");
    if let Reply::Error(_) = given {
        assert!(!draft.is_changed(), "{request} on {before:?}");
    }
}

fn state(text: &str) -> Option<Record> {
    let mut record = Record::default();
    for word in text.split_whitespace() {
        if text.starts_with('{') {
            record.kind = ValueKind::Set;
        }
        let word = word.trim_matches(['{', '}']);
        match (word.strip_prefix('@'), word.split_once('=')) {
            (Some(expiry), _) => record.expires_at_ms = Some(expiry.parse().expect("a time")),
            (_, None) if record.kind == ValueKind::Set => {
                record.fields.insert(word.to_owned().into(), Bytes::new());
            }
            (_, Some((field, value))) => {
                record.fields.insert(field.to_owned().into(), value.to_owned().into());
            }
            _ => panic!("no state: {word}"),
        }
    }
    (!record.fields.is_empty()).then_some(record)
}

/// What a store gives that was asked for `need`, and not more.
fn part(record: &Record, need: Need) -> Record {
    let mut part = record.clone();
    match need {
        Need::Whole | Need::Each(_) => {}
        Need::Fields(fields) => part.fields.retain(|field, _| fields.contains(field)),
        Need::Existence | Need::Expiry | Need::Count => part.fields.clear(),
        Need::Sample(count) | Need::Repeated(count) => {
            part.fields.truncate(count);
            part.sample = part.fields.keys().cloned().collect();
        }
    }
    part.others = record.fields.len() - part.fields.len();
    part
}

/// What a store holds afterwards that held `before` and is told what the draft has touched.
fn after_it(before: Option<Record>, draft: &Draft) -> Option<Record> {
    let kept = before.filter(|_| !draft.replaced()).unwrap_or_default();
    let known = draft.record()?;
    let mut record = Record { fields: kept.fields, ..Record::default() };
    for field in draft.touched() {
        match known.fields.get(field) {
            Some(value) => record.fields.insert(field.clone(), value.clone()),
            None => record.fields.shift_remove(field),
        };
    }
    record.kind = known.kind;
    record.expires_at_ms = known.expires_at_ms;
    Some(record)
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
        Reply::Set(replies) => format!("{{{}}}", list(replies)),
        Reply::Map(pairs) | Reply::Pairs(pairs) => {
            let pair = |(key, value): &(Reply, Reply)| format!("{}: {}", show(key), show(value));
            format!("{{{}}}", pairs.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        other => panic!("no command here answers {other:?}"),
    }
}
