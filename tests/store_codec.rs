//! The codecs against a real Postgres: what they say a column holds is what it holds, and every
//! value that SQL puts into a column is given to clients in bytes that mean the same.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod stack;

use respgres::config;
use respgres::mapping::codec::Codec;
use respgres::mapping::shape::TableName;
use respgres::store::Session;
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use stack::{Cluster, Random};

/// Values a type, of which most are mutations of the nasty ones.
const VALUES: usize = 6_000;

/// A column of some type in a database of a test's own.
struct Column {
    connection: PgConnection,
    session: Session,
    type_name: &'static str,
}

impl Column {
    async fn of(type_name: &'static str) -> Self {
        let cluster = Cluster::shared().await;
        let database = cluster.create_database().await;
        let mut connection = cluster.connect(&database).await;
        let table = format!(
            "create type mood as enum ('sad', 'Ok', 'it''s \"fine\"');
             create domain small as integer check (value < 1000);
             create table t (n integer primary key, c {type_name});"
        );
        connection.execute(sqlx::raw_sql(AssertSqlSafe(table))).await.unwrap();
        connection.execute("set timezone = 'UTC'").await.unwrap();
        let session = Session::connect(&postgres(cluster.url(&database))).await.unwrap();
        Self { connection, session, type_name }
    }

    async fn codec(&mut self, format: Option<&str>) -> Codec {
        let shape = self.session.table_shape(&TableName::parse("t")).await.unwrap().unwrap();
        Codec::new(shape.column("c").unwrap(), format).unwrap()
    }

    /// Stores canonical texts as respgres does, and returns what the column then holds.
    async fn store(&mut self, texts: &[Option<String>]) -> Vec<Option<String>> {
        self.connection.execute("truncate t").await.unwrap();
        let sql = format!(
            "insert into t select n, c
             from unnest($1::text[]::{}[]) with ordinality as u(c, n)",
            self.type_name
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(texts);
        query.execute(&mut self.connection).await.unwrap();
        self.texts().await
    }

    async fn texts(&mut self) -> Vec<Option<String>> {
        let query = sqlx::query_scalar("select c::text from t order by n");
        query.fetch_all(&mut self.connection).await.unwrap()
    }

    /// Fails on the first of these values whose canonical text is not Postgres' own.
    async fn check(&mut self, format: Option<&str>, values: &[Vec<u8>]) {
        let codec = self.codec(format).await;
        let encoded: Vec<_> = values.iter().map(|value| codec.encode(value)).collect();
        let texts: Vec<Option<String>> =
            encoded.iter().map(|e| e.column.as_deref().map(str::to_owned)).collect();
        let typed = texts.iter().flatten().count();
        assert!(typed * 20 > values.len(), "{}: only {typed} values are typed", self.type_name);
        let held = self.store(&texts).await;
        for (((value, text), held), encoded) in values.iter().zip(&texts).zip(&held).zip(&encoded) {
            let shown = String::from_utf8_lossy(value);
            assert_eq!(text, held, "{} {format:?} of {shown:?}", self.type_name);
            let Some(held) = held else { continue };
            let given = codec.render(held);
            assert_eq!(encoded.exact, given == value[..], "{} {shown:?}", self.type_name);
            assert_eq!(codec.encode(&given).column.as_deref(), Some(held.as_str()), "{shown:?}");
            assert!(codec.still_means(value, Some(held)), "{} {shown:?}", self.type_name);
        }
    }

    /// Fills the column by SQL and sees that the clients' bytes mean the same value.
    async fn check_sql(&mut self, format: Option<&str>, rows: &str) {
        let codec = self.codec(format).await;
        self.connection.execute("truncate t").await.unwrap();
        let sql = format!(
            "insert into t select row_number() over (), v::{} from ({rows}) as r(v)",
            self.type_name
        );
        self.connection.execute(AssertSqlSafe(sql)).await.unwrap();
        let texts = self.texts().await;
        assert!(!texts.is_empty());
        for text in texts.iter().flatten() {
            let given = codec.render(text);
            let encoded = codec.encode(&given);
            assert_eq!(encoded.column.as_deref(), Some(text.as_str()), "{}", self.type_name);
            assert!(encoded.exact, "{} {text:?}", self.type_name);
        }
    }
}

fn postgres(url: String) -> config::Postgres {
    config::Postgres {
        url,
        writers: 1,
        readers: 2,
        streams: 1,
        stream_timeout_ms: 60_000,
        batch_operations: 1000,
        connect_timeout_ms: 10_000,
        statement_timeout_ms: 60_000,
    }
}

/// One of the nasty values, with up to three bytes of the alphabet put in, put over, left out.
fn mutation(random: &mut Random, nasty: &[&str], alphabet: &str) -> Vec<u8> {
    let mut value = random.pick(nasty).as_bytes().to_vec();
    for _ in 0..random.below(4) {
        let byte = alphabet.as_bytes()[random.below(alphabet.len())];
        let place = random.below(value.len() + 1);
        match random.below(3) {
            0 => value.insert(place, byte),
            1 if place < value.len() => value[place] = byte,
            _ if place < value.len() => drop(value.remove(place)),
            _ => {}
        }
    }
    value
}

fn mutations(random: &mut Random, nasty: &[&str], alphabet: &str) -> Vec<Vec<u8>> {
    let mut values: Vec<Vec<u8>> = nasty.iter().map(|text| text.as_bytes().to_vec()).collect();
    while values.len() < VALUES {
        values.push(mutation(random, nasty, alphabet));
    }
    values
}

const NUMBERS: &[&str] = &[
    "0",
    "5",
    "-5",
    "+5",
    " 5",
    "5 ",
    "\t5\n",
    "007",
    "-0",
    "+0",
    "32767",
    "32768",
    "-32768",
    "-32769",
    "2147483647",
    "2147483648",
    "-2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "1.5",
    "1.50",
    "9.90",
    "1e-7",
    "1e+21",
    "1e21",
    "1E5",
    "1.25e1",
    ".5",
    "5.",
    "0x10",
    "1_000",
    "",
    "-",
    "abc",
    "NaN",
    "inf",
    "-Infinity",
    "12.4472437",
    "0.0527563",
    "99999999.995",
    "99999999.994",
    "0.005",
    "-0.005",
    "0.0049",
    "123456789012345678901234567890.123456789",
    "0e5",
    "0.000",
    "-0.00",
    "1e3",
    "15e-1",
    "00.10",
    "1e-400",
    "1e400",
    "5e-324",
    "2.2250738585072014e-308",
    "1.7976931348623157e308",
    "3.4028235e38",
    "1e-45",
    "0.1",
    "1e15",
    "1e14",
    "123456789012345",
    "1234567890123456",
    "1e6",
    "999999",
    "1000000",
    "1e-4",
    "1e-5",
    "16777217",
    "9007199254740993",
];
const NUMBER_BYTES: &str = "0123456789.-+eE x";

const MOMENTS: &[&str] = &[
    "2026-11-20T22:20:35.142Z",
    "2026-11-20T22:20:35Z",
    "2026-11-20 22:20:35.142+00",
    "2030-01-01",
    "2026-11-20T22:20:35.142857Z",
    "2026-11-20T22:20:35.1428575Z",
    "2026-11-20T22:20:35.9999999Z",
    "2024-02-29T00:00:00.000Z",
    "1999-12-31T23:59:59.999999Z",
    "1969-12-31T23:59:59.999Z",
    "0001-01-01T00:00:00.000Z",
    "0044-03-15 12:00:00+00 BC",
    "4713-01-01 00:00:00+00 BC",
    "4714-11-24 00:00:00+00 BC",
    "294276-12-31 23:59:59.999999+00",
    "+010000-01-01T00:00:00.000Z",
    "-000001-06-15T12:30:00.5Z",
    "2026-11-20T22:20:35.142+02:00",
    "2026-11-20T22:20:35-0530",
    "2026-11-20T22:20",
    "infinity",
    "-infinity",
    "",
    "now",
    "0",
    "-1",
    "1893456000000",
    "1893456000",
    "1893456000.5",
    "-62135596800000",
    "946684800000.001",
    "1.5",
    "9223372036854775",
    "5874897-12-31",
    "5874898-01-01",
    "2026-1-5",
    "10000-01-01",
    "99999-12-31T23:59:59.123Z",
    " 2026-11-20 ",
];
const MOMENT_BYTES: &str = "0123456789-:.TZ +BC";

#[tokio::test]
async fn integers_are_what_postgres_makes_of_them() {
    let values = mutations(&mut Random::new(1), NUMBERS, NUMBER_BYTES);
    for type_name in ["smallint", "integer", "bigint"] {
        let mut column = Column::of(type_name).await;
        column.check(None, &values).await;
        column.check_sql(None, "select generate_series(-300, 300)").await;
    }
}

#[tokio::test]
async fn numerics_are_what_postgres_makes_of_them() {
    let values = mutations(&mut Random::new(2), NUMBERS, NUMBER_BYTES);
    for type_name in ["numeric", "numeric(10,2)", "numeric(30)", "numeric(3,5)", "numeric(5,-2)"] {
        let mut column = Column::of(type_name).await;
        column.check(None, &values).await;
    }
    let mut column = Column::of("numeric").await;
    let rows =
        "select (random()::numeric * 10::numeric ^ (i % 60 - 30)) from generate_series(1, 2000) i
                union all select '1e131071' union all select '1e-16383' union all select 'NaN'
                union all select '-Infinity'";
    column.check_sql(None, rows).await;
    let ends = ["1e131071", "1e131072", "1e-16383", "1e-16384", "0e-16384"].map(|t| t.into());
    column.check(None, &ends).await;
}

#[tokio::test]
async fn floats_are_what_postgres_makes_of_them() {
    let mut random = Random::new(3);
    let mut values = mutations(&mut random, NUMBERS, NUMBER_BYTES);
    for exponent in -330..330 {
        for digits in ["1", "2", "5", "9", "9007199254740993", "1.1754943", "4.4501477170144023"] {
            values.push(format!("{digits}e{exponent}").into());
        }
    }
    for power in -1074..1024 {
        let value = 2f64.powi(power);
        values.push(format!("{value:e}").into());
        values.push(format!("{:e}", value * 3.0).into());
        values.push(format!("{:e}", value * 1_234_567.0).into());
    }
    for _ in 0..VALUES {
        let bits = random.bits();
        values.push(format!("{:e}", f64::from_bits(bits)).into());
        values.push(format!("{:e}", f32::from_bits((bits >> 32) as u32)).into());
        values.push(format!("{}", (bits >> 40) as f64 / 1e3).into());
    }
    for type_name in ["double precision", "real"] {
        let mut column = Column::of(type_name).await;
        column.check(None, &values).await;
        let rows =
            "select (random() - 0.5) * 10::float8 ^ (i % 60 - 30) from generate_series(1, 3000) i
                    union all select 'NaN' union all select '-Infinity' union all select '-0'";
        column.check_sql(None, rows).await;
    }
}

#[tokio::test]
async fn dates_and_timestamps_are_what_postgres_makes_of_them() {
    let values = mutations(&mut Random::new(4), MOMENTS, MOMENT_BYTES);
    let rows = "select timestamp '4714-11-24 00:00:00 BC' + random() * i * interval '1 year'
                from generate_series(1, 3000) as i
                union all select '294276-12-31 23:59:59' union all select 'infinity'
                union all select '-infinity' union all select '1970-01-01' union all select '2000-01-01'";
    let formats = ["iso8601-ms", "iso8601", "epoch-s", "epoch-ms", "postgres"];
    for type_name in [
        "timestamptz",
        "timestamp",
        "timestamp(3) with time zone",
        "timestamp(0)",
        "timestamptz(5)",
    ] {
        let mut column = Column::of(type_name).await;
        for format in formats {
            column.check(Some(format), &values).await;
            column.check_sql(Some(format), rows).await;
        }
    }
    let mut column = Column::of("date").await;
    column.check(None, &values).await;
    column.check_sql(None, rows).await;
    let rows = "select date '4714-11-24 BC' + i * 100003 from generate_series(0, 21474) as i
                union all select date '5874897-12-31'";
    column.check_sql(None, rows).await;
}

#[tokio::test]
async fn words_are_what_postgres_makes_of_them() {
    let mut random = Random::new(5);
    let booleans =
        ["true", "false", "TRUE", "1", "0", "t", "f", "yes", "no", "on", "off", "of", "", " y "];
    let values = mutations(&mut random, &booleans, "tTfFyYnNoO01 resaluf");
    let mut column = Column::of("boolean").await;
    for format in [None, Some("true/false"), Some("1/0"), Some("yes/no"), Some("0/1"), Some("on/")]
    {
        column.check(format, &values).await;
        column.check_sql(format, "values (true), (false), (null)").await;
    }
    let uuids = [
        "6f2a1a52-2a0c-4a8e-9a39-0d6f5bb1c111",
        "6F2A1A52-2A0C-4A8E-9A39-0D6F5BB1C111",
        "{6f2a1a522a0c4a8e9a390d6f5bb1c111}",
        "6f2a-1a52-2a0c-4a8e-9a39-0d6f-5bb1-c111",
    ];
    let values = mutations(&mut random, &uuids, "0123456789abcdefABCDEF-{}");
    Column::of("uuid").await.check(None, &values).await;
    let moods = ["sad", "Ok", "ok", "it's \"fine\"", "", "\\"];
    Column::of("mood").await.check(None, &mutations(&mut random, &moods, "sad Ok'\"")).await;
    let values = mutations(&mut random, &["1", "999", " 7"], "0123456789").into_iter();
    let values: Vec<_> = values.filter(|v| v.len() < 4).collect();
    Column::of("small").await.check(None, &values).await;
}

#[tokio::test]
async fn texts_and_bytes_are_kept() {
    let mut random = Random::new(6);
    let texts =
        ["", "plain", "ünï 键 \u{1f600}", "a\0b", "\\x41", "{\"a\",NULL}", "NULL", "'", " x "];
    let mut values = mutations(&mut random, &texts, "\\\"'{},\n\0 xN");
    values.push(b"\xff\xfe".to_vec());
    values.push("é".repeat(8).into());
    values.push("é".repeat(9).into());
    for type_name in ["text", "varchar", "varchar(8)", "bytea"] {
        Column::of(type_name).await.check(None, &values).await;
    }
}

#[tokio::test]
async fn json_is_what_postgres_makes_of_it() {
    let documents = [
        "{}",
        "[]",
        "null",
        "true",
        " [1, 2.50e3]\n",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"\\ud83d\\ude00\"",
        "-0",
        "{\"bb\":1,\"a\":2,\"a\":3}",
        "[1.50,1e3,-0.0,1E-2]",
        "\"\\u0041\\u001f\\/\\b\\f\\n\\r\\t\"",
        "",
        "{",
        "{\"success\":true,\"balance\":null,\"currency\":\"USD\",\"l\":[{\"x\":[[]]}]}",
        "1e131071",
        "1e131072",
        "\"ünï 键\"",
        "{\"\":{\"z\":1,\"aa\":2,\"b\":3}}",
        "\"\u{7f}\"",
        "01",
        "1.",
        "NaN",
        "[\"\\\\\", \"\\\"\"]",
        "1e-20000",
        "{\"a\\u0000\":1}",
        "\u{feff}1",
        "[1,]",
    ];
    let values =
        mutations(&mut Random::new(7), &documents, "{}[]\",:0123456789eE+-.\\untrulfa \n\t");
    for type_name in ["json", "jsonb"] {
        Column::of(type_name).await.check(None, &values).await;
    }
    let rows = "select jsonb_build_object('n', random(), repeat('k', i % 9), array[i, null], 'o',
                jsonb_build_object('t', chr(i), 's', '\\\"')) from generate_series(1, 500) as i
                union all select jsonb 'null'";
    Column::of("jsonb").await.check_sql(None, rows).await;
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels)).into_bytes();
    let values = [deep(127), deep(128), deep(512), deep(513), deep(20_000)];
    Column::of("json").await.check(None, &values).await;
    Column::of("jsonb").await.check(None, &values).await;
}
