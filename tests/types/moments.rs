//! Dates, times, timestamps in every format.

use crate::property::House;
use crate::stack::Random;
use crate::subject::{Subject, spelled};
use crate::values::{around, random};

#[rustfmt::skip]
const MOMENTS: &[&str] = &[
    "2026-11-20T22:20:35.142Z", "2026-11-20T22:20:35Z", "2026-11-20 22:20:35.142+00", "2030-01-01",
    "2026-11-20T22:20:35.142857Z", "2026-11-20T22:20:35.1428575Z", "2026-11-20T22:20:35.9999999Z",
    "2026-11-20 00:00:00.0000005", "2026-11-20 00:00:00.0000015", "2024-02-29T00:00:00.000Z",
    "2026-02-29", "1999-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999Z", "0001-01-01T00:00:00.000Z",
    "0000-01-01", "0044-03-15 12:00:00+00 BC", "4713-01-01 00:00:00+00 BC", "4714-11-24 00:00:00+00 BC",
    "4714-11-23 00:00:00+00 BC", "294276-12-31 23:59:58.999999+00", "294277-01-01 00:00:00+00",
    "+010000-01-01T00:00:00.000Z", "-000001-06-15T12:30:00.5Z", "-000000-01-01", "+002026-11-20",
    "2026-11-20T22:20:35.142+02:00", "2026-11-20T22:20:35-0530", "2026-11-20T22:20:35+2",
    "2026-11-20T22:20:35 +02:30:15", "2026-11-20T22:20:35+16", "2026-11-20T22:20", "2026-11-20T22",
    "infinity", "-infinity", "Infinity", "+infinity", "epoch", "EPOCH", "2026-11-20 24:00",
    "2026-12-31T24:00:00Z", "2026-11-20 24:00:01", "2016-12-31T23:59:60Z", "2026-11-20 23:59:60.5",
    "2026-11-20 10:11:60.5", "2026-11-20t1:2:3z", "2026-11-20  10:11:12 UTC", "2026-11-20 10:11:12 gmt",
    "2026-11-20 10:11:12.", "2026-11-20 bc", "2026-11-20BC", "2026-11-20 10:11 AD", "2026-11-20Z",
    "2026-11-20 -02", "2026-11-20-02", "2026-11-20+02", "0", "-1", "1893456000000", "1893456000",
    "1893456000.5", "-62135596800000", "946684800000.001", "1.5", "-0", "-1.5", "0.000001",
    "0.0000001", "9223372036854775", "99999999999999999999", "5874897-12-31", "5874898-01-01",
    "2026-1-5", "10000-01-01", "99999-12-31T23:59:59.123Z", " 2026-11-20 ", "2026-11-20T10:11ZBC",
    "now", "today", "tomorrow", "20261120", "20261120T101112", "Nov 20 2026", "20.11.2026", "11/20/2026",
    "2026-324", "J2451187", "2026-11-20 10:11 PM", "2026-11-20 10:11 Europe/Berlin", "26-11-20",
];
const BYTES: &str = "0123456789-:.TZ +BCad";

fn values(seed: u64) -> Vec<Vec<u8>> {
    let mut values = around(seed, MOMENTS, BYTES);
    let mut random = random(seed);
    for _ in 0..600 {
        values.push(spelled_oddly(&mut random).into());
        let micros = random.bits() as i64 >> random.below(40);
        values.push(format!("{micros}").into());
        values.push(format!("{}.{:03}", micros / 1000, random.below(1000)).into());
    }
    values
}

/// A moment in one of the ways that are documented, a little out of range now and then.
pub fn spelled_oddly(random: &mut Random) -> String {
    let year = match random.below(5) {
        0 => format!("{:04}", random.below(4800)),
        1 => format!("{:05}", random.below(99_999)),
        2 => format!("+{:06}", random.below(294_300)),
        3 => format!("-{:06}", random.below(4720)),
        _ => format!("{}", 1900 + random.below(200)),
    };
    let (month, day) = (random.below(13), random.below(32));
    let mut text = match random.below(4) {
        0 => format!("{year}-{month}-{day}"),
        _ => format!("{year}-{month:02}-{day:02}"),
    };
    if random.below(6) > 0 {
        let (hour, minute, second) = (random.below(26), random.below(61), random.below(62));
        text += random.pick(&["T", " ", "t", "  "]);
        text += &format!("{hour:02}:{minute:02}");
        if random.below(5) > 0 {
            text += &format!(":{second:02}");
            let digits = random.below(10);
            let fraction = format!("{:09}", random.below(1_000_000_000));
            text += &["".to_owned(), format!(".{}", &fraction[..digits])][random.below(2)];
        }
        let offset = format!("{:02}", random.below(17));
        text += &match random.below(6) {
            0 => "Z".to_owned(),
            1 => format!("+{offset}"),
            2 => format!("-{offset}:{:02}", random.below(61)),
            3 => format!(" -{offset}{:02}", random.below(60)),
            4 => " UTC".to_owned(),
            _ => String::new(),
        };
    }
    if random.below(8) == 0 && !text.starts_with(['+', '-']) {
        text += random.pick(&[" BC", " AD", " bc"]);
    }
    text
}

/// SQL for the text without its sign in front of the year: `-000001` is the year 2 BC.
const UNSIGNED: &str = r"(case
    when v ~ '^\s*\+000000' or v ~ '^\s*-000000' then
        case when v ~ '^\s*-' then 'none' else '0001' || regexp_replace(v, '^\s*\+\d{6}', '') || ' BC' end
    when v ~ '^\s*\+\d{6}' then regexp_replace(v, '^\s*\+0{0,2}(\d{4,6})', '\1')
    when v ~ '^\s*-\d{6}' then
        regexp_replace('000' || substring(v from '^\s*-(\d{6})')::integer + 1, '^0+(\d{4,})$', '\1')
            || regexp_replace(v, '^\s*-\d{6}', '') || ' BC'
    else v end)";

/// SQL for the moment that a number of units stands for, exact to the microsecond.
fn epoch(digits: usize) -> (String, String) {
    let number = format!(r"v ~ '^\s*-?\d{{1,20}}(\.\d{{1,{digits}}})?\s*$'");
    let micros = format!("(btrim(v, E' \\t\\n\\r\\f\\v')::numeric * 1e{digits})");
    let moment = format!(
        "timestamptz 'epoch' + div({micros}, 86400000000)::integer * interval '1 day'
             + mod({micros}, 86400000000)::bigint * interval '1 microsecond'"
    );
    (number, moment)
}

/// SQL for a timestamp as a client gets it.
fn rendering(format: &str) -> String {
    let micros = "(extract(microseconds from c)::bigint % 1000000)";
    // Of moments far away `extract(epoch from c)` itself is rounded.
    let seconds = "((c::date - date '1970-01-01')::numeric * 86400 + extract(epoch from c::time))";
    let year =
        "(extract(year from c)::integer + case when extract(year from c) < 0 then 1 else 0 end)";
    let iso = |fraction: &str| {
        format!(
            "case when {year} between 0 and 9999 then to_char({year}, 'FM0000')
                  when {year} < 0 then '-' || to_char(-{year}, 'FM000000')
                  else '+' || to_char({year}, 'FM000000') end
             || to_char(c, '-MM-DD\"T\"HH24:MI:SS') || {fraction} || 'Z'"
        )
    };
    let finite = match format {
        "iso8601-ms" => iso(&format!(
            "case when {micros} % 1000 = 0 then '.' || to_char({micros} / 1000, 'FM000')
                  else '.' || to_char({micros}, 'FM000000') end"
        )),
        "iso8601" => iso(&format!(
            "case when {micros} = 0 then '' else rtrim('.' || to_char({micros}, 'FM000000'), '0') end"
        )),
        "epoch-s" => format!("trim_scale({seconds})::text"),
        "epoch-ms" => format!("trim_scale({seconds} * 1000)::text"),
        _ => "c::text".into(),
    };
    format!("case when isfinite(c) then {finite} else c::text end")
}

#[tokio::test]
async fn timestamps_in_every_format() {
    let mut house = House::new().await;
    for type_name in ["timestamptz", "timestamp", "timestamptz(0)", "timestamp(3)"] {
        let at_utc = if type_name.starts_with("timestamptz") { "" } else { " at time zone 'UTC'" };
        for format in ["iso8601-ms", "iso8601", "epoch-s", "epoch-ms", "postgres"] {
            let text = format!("{UNSIGNED}::timestamptz");
            let (documented, reading) = match format {
                "epoch-s" | "epoch-ms" => {
                    let (number, moment) = epoch(if format == "epoch-s" { 6 } else { 3 });
                    (
                        format!("({number}) or ({})", spelled::MOMENT),
                        format!("case when {number} then {moment} else {text} end"),
                    )
                }
                _ => (spelled::MOMENT.to_owned(), text),
            };
            // What Postgres rounds beyond its own range it could not read back.
            let reading = format!(
                "(select case when m < '294276-12-31 23:59:59' or not isfinite(m) then m end
                  from (select {reading}) as read(m))"
            );
            let subject = Subject::new(type_name, values(20))
                .format(format)
                .documented(&documented)
                .reading(&format!("{reading}{at_utc}"))
                .rendering(&rendering(format));
            house.examine(&subject).await;
        }
    }
}

#[tokio::test]
async fn dates() {
    let subject = Subject::new("date", values(21));
    let subject = subject.documented(spelled::MOMENT).reading(&format!("{UNSIGNED}::date"));
    House::new().await.examine(&subject).await;
}

#[tokio::test]
async fn times_of_day() {
    #[rustfmt::skip]
    let times = [
        "10:11", "10:11:12", "1:2:3", "10:11:12.5", "10:11:12.1234567", "10:11:12.0000005", "24:00",
        "24:00:00", "24:00:00.0000001", "24:00:01", "23:59:60", "23:59:60.5", "10:11:60.5", "23:59:61",
        "23:59:59.9999999", "23:59:59.995", "10:60", "25:00", "10:11:12.", "10:11.5", "10:11:12Z",
        "10:11:12+02", "10:11:12 -02:30", "10:11:12+02:30:15", "10:11 utc", "24:00+02", "10:11+16", " 10:11 ",
        "10", "101112", "allballs", "10:11 PM", "2026-11-20 10:11", "noon", "T10:11",
    ];
    let values = || around(22, &times, "0123456789:. +-Z");
    let mut house = House::new().await;
    for type_name in ["time", "time(2)", "timetz", "timetz(0)"] {
        house.examine(&Subject::new(type_name, values()).documented(spelled::TIME)).await;
    }
}
