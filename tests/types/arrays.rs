//! Arrays of every type, and domains over them.

use crate::moments::spelled_oddly;
use crate::property::House;
use crate::subject::{Subject, spelled};
use crate::values::{around, random, strangers};

#[rustfmt::skip]
const ARRAYS: &[&str] = &[
    "{}", " { } ", "{1,2}", " { 1 , 2 } ", "{1,NULL}", "{null,NULL,NuLl}", "{\"NULL\"}", "{1,}", "{,1}",
    "{,}", "{{1,2},{3,4}}", "{{1},{2,3}}", "{{}}", "{{1},2}", "{1,{2}}", "{{{{{{1}}}}}}", "{{{{{{{1}}}}}}}",
    "[0:1]={1,2}", "[1:2]={1,2}", "[2]={1,2}", "[1:2][1:1]={{1},{2}}", "[0:1] = {1,2}", "[0:0]={1,2}",
    "[-1:0]={1,2}", "[+1:2]={1,2}", "[1:0]={}", "[5:4]={1}", "[1:1]={}", "[2147483647:2147483647]={1}",
    "[2147483646:2147483646]={1}", "{1 2}", "{\"1\"}", "{\" 1 \"}", "{\\1}", "{1\\,2}", "{1}x", "{1} ", "{",
    "}", "{a,b}", "{\"a b\",  c d  , e}", "{\"\"}", "{a\"b\"}", "{\"a\"b}", "{ \"a\" }", "{a\\ }", "{\\ a}",
    "{\"\\\\\"}", "{a\\\"b}", "{'a'}", "{a\tb}", "{é,\u{1f600}}", "{\"{\"}", "{[a]}", "{=}", "{nullx}",
    "{\\NULL}", "{\"a\nb\"}", "{+5,007}", "{1.50,1e-7,NaN}", "{t,f,true}", "{TRUE,0}", "[\"a\"]", "{abc}",
    "{abcd}", "{\"abc  \"}", "{\"a  \"}", "{\"\\\\x41\",abc}", "{\"\\\\101\"}", "{10.1.2.3,::1/64}",
    "{2026-11-20,\"2026-11-20 10:11:12+02\"}", "{infinity,NULL}", "{\"2026-11-20 00:00:00+00\"}",
    "{\"{\\\"a\\\":1}\",null}", "{\"{\\\"a\\\": 1}\"}", "{6F2A1A52-2A0C-4A8E-9A39-0D6F5BB1C111}",
    "{6f2a1a52-2a0c-4a8e-9a39-0d6f5bb1c111}",
    "{{6f2a1a52-2a0c-4a8e-9a39-0d6f5bb1c111},{NULL}}", "{ 6f2a1a522a0c4a8e9a390d6f5bb1c111, null }",
    "[0:0]={6f2a1a52-2a0c-4a8e-9a39-0d6f5bb1c111}", "{\"{6f2a1a522a0c4a8e9a390d6f5bb1c111}\"}", "{sad,Ok}", "{\"it's \\\"fine\\\"\",\" x \"}", "{happy}",
    "{999}", "{1000}", "{13}", "{0.005,1.005}", "{1e131071}", "{1e131072}",
];

#[tokio::test]
async fn arrays_of_texts_and_bytes() {
    let types = [
        "text[]",
        "varchar(3)[]",
        "char(3)[]",
        "bpchar[]",
        "bytea[]",
        "code[]",
        "padded[]",
        "tags",
    ];
    examine(&types).await;
}

#[tokio::test]
async fn arrays_of_numbers() {
    #[rustfmt::skip]
    let types = [
        "smallint[]", "integer[]", "bigint[]", "numeric[]", "numeric(4,1)[]", "real[]", "double precision[]",
        "small[]",
    ];
    examine(&types).await;
}

#[tokio::test]
async fn arrays_of_words() {
    examine(&["boolean[]", "uuid[]", "inet[]", "json[]", "jsonb[]", "mood[]"]).await;
}

async fn examine(types: &[&'static str]) {
    let mut house = House::new().await;
    let long = format!("{{{}}}", vec!["7"; 20_000].join(", "));
    let arrays: Vec<&str> = ARRAYS.iter().copied().chain([long.as_str()]).collect();
    for (place, type_name) in types.iter().enumerate() {
        let alphabet = "{}\",\\ 0123456789NULnulabtf[]:=";
        let seed = 30 + u64::try_from(place).unwrap();
        // A sign alone is a bound for some versions only; `-nan` is for the C library to read.
        let mut documented = r"v !~ '^[^{]*[-+][]:]'".to_owned();
        if matches!(*type_name, "real[]" | "double precision[]") {
            documented += r" and v !~* '0x|[-+]nan|nan\('";
        }
        let subject = Subject::new(type_name, around(seed, &arrays, alphabet));
        let subject = subject.documented(&documented);
        house.examine(&subject).await;
    }
}

#[tokio::test]
async fn arrays_of_dates_and_times() {
    let mut house = House::new().await;
    #[rustfmt::skip]
    let arrays = [
        "{}", "{NULL}", "{2026-11-20}", "{2026-1-5,infinity}", "{\"2026-11-20 10:11:12+02\"}",
        "{\"2026-11-20 10:11:12.5+00\"}", "{2026-11-20T10:11:12.1235Z}", "{\"0044-03-15 BC\"}",
        "{\"2026-11-20 24:00\"}", "{{2026-11-20},{2026-11-21}}", "{\"2026-11-20 00:00:00+00\"}",
        "{\"2026-11-20 10:11:12.5\"}", "{x}", "{2026-02-30}", "[3:3]={2026-11-20}",
    ];
    for type_name in ["date[]", "timestamptz[]", "timestamptz(3)[]", "timestamp[]"] {
        let mut random = random(31);
        let mut values: Vec<Vec<u8>> = arrays.map(|array| array.as_bytes().to_vec()).into();
        for _ in 0..500 {
            values.push(format!("{{NULL,\"{}\"}}", spelled_oddly(&mut random)).into());
        }
        values.extend(strangers(&mut random));
        // A sign before the year, and an offset that is applied where Postgres would drop it, are
        // read otherwise than by Postgres.
        let zoned = |value: &[u8]| {
            value.iter().any(|byte| b"+Zz".contains(byte)) || value.windows(3).any(|w| w == b"UTC")
        };
        values
            .retain(|value| !(value.starts_with(b"{NULL,\"+") || value.starts_with(b"{NULL,\"-")));
        values.retain(|value| type_name != "timestamp[]" || !zoned(value) && !has_offset(value));
        let element = spelled::MOMENT.replace("v ~*", "split_part(v, '\"', 2) ~*");
        let documented = format!("v !~ '^.NULL,\"' or {element}");
        house.examine(&Subject::new(type_name, values).documented(&documented)).await;
    }
    let arrays =
        ["{10:11}", "{24:00,NULL}", "{\"10:11:12.5 +02\"}", "{10:11:12}", "{1:2:3+02}", "{25:00}"];
    for type_name in ["time[]", "timetz(1)[]"] {
        let mut random = random(32);
        let mut values: Vec<Vec<u8>> = arrays.map(|array| array.as_bytes().to_vec()).into();
        for _ in 0..100 {
            let (hour, minute, second) = (random.below(25), random.below(61), random.below(62));
            values.push(
                format!("{{ {hour}:{minute:02}:{second}.{}, NULL}}", random.below(999)).into(),
            );
        }
        values.extend(strangers(&mut random));
        house.examine(&Subject::new(type_name, values)).await;
    }
}

/// A minus after the time.
fn has_offset(value: &[u8]) -> bool {
    let time = value.iter().position(|byte| *byte == b':');
    time.is_some_and(|time| value[time..].contains(&b'-'))
}
