//! The command table says of each command what a Redis 7.0.15 says.

mod stack;

use std::collections::BTreeSet;

use respgres::command::{COMMANDS, Command, Guarded, Keys, lookup};
use stack::{Client, Random, Redis, Value};

/// In the table, and unknown to Redis 7.0.
const NEWER: &str = "
    delex delifeq digest hexpire hexpireat hexpiretime hgetdel hgetex hpersist hpexpire hpexpireat
    hpexpiretime hpttl hsetex httl msetex vadd vcard vdim vemb vgetattr vinfo vismember vlinks
    vrandmember vrange vrem vsetattr vsim waitaof xackdel xcfgset xdelex";

/// In the table, and unknown to any Redis.
const OURS: &str = "respgres";

/// What COMMAND says of one command, or of one subcommand.
struct Described {
    name: String,
    arity: i64,
    flags: BTreeSet<String>,
    /// First key, last key, step.
    range: (i64, i64, i64),
    /// Its "keys" are channels.
    not_keys: bool,
    subcommands: Vec<Described>,
}

impl Described {
    fn new(row: &Value) -> Self {
        let row = row.elements();
        Self {
            name: text(&row[0]),
            arity: row[1].integer(),
            flags: row[2].elements().iter().map(text).collect(),
            range: (row[3].integer(), row[4].integer(), row[5].integer()),
            not_keys: format!("{:?}", row[8]).contains(r#"Status("not_key")"#),
            subcommands: row[9].elements().iter().map(Self::new).collect(),
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Status(text) => text.clone(),
        Value::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => panic!("not a text: {other:?}"),
    }
}

async fn described_by_redis() -> Vec<Described> {
    let rows = Redis::start().await.say("COMMAND").await;
    rows.elements().iter().map(Described::new).collect()
}

fn known(name: &str) -> &'static Command {
    lookup(name.as_bytes()).unwrap_or_else(|| panic!("{name} is not in the table"))
}

/// First key, last key and step, as COMMAND shows them for such keys.
fn range(keys: Keys) -> (i64, i64, i64) {
    match keys {
        Keys::None | Keys::Streams | Keys::Counted { also: 0, .. } => (0, 0, 0),
        Keys::First | Keys::Sort | Keys::GeoRadius => (1, 1, 1),
        Keys::Counted { also, .. } => (also.into(), also.into(), 1),
        Keys::Migrate => (3, 3, 1),
        Keys::Range { first, last, step } => (first.into(), last.into(), step.into()),
    }
}

#[tokio::test]
async fn names_are_those_of_redis() {
    let expected: BTreeSet<String> =
        described_by_redis().await.into_iter().map(|described| described.name).collect();
    let newer: BTreeSet<String> =
        format!("{NEWER} {OURS}").split_whitespace().map(str::to_owned).collect();
    let table: BTreeSet<String> = COMMANDS.iter().map(|command| command.name.to_owned()).collect();
    assert_eq!(table.len(), COMMANDS.len(), "a name stands in the table twice");
    assert_eq!(table, expected.union(&newer).cloned().collect());
    assert!(expected.is_disjoint(&newer));
    assert!(expected.len() > 230, "COMMAND gave {} commands", expected.len());
}

#[tokio::test]
async fn arities_and_flags_are_those_of_redis() {
    for described in described_by_redis().await {
        let command = known(&described.name);
        assert_eq!(i64::from(command.arity), described.arity, "{}", described.name);
        let mut flags: BTreeSet<String> = command.flags.names().map(str::to_owned).collect();
        let moving = matches!(
            command.keys,
            Keys::Counted { .. } | Keys::Streams | Keys::Sort | Keys::GeoRadius | Keys::Migrate
        );
        if moving {
            flags.insert("movablekeys".to_owned());
        }
        assert_eq!(flags, described.flags, "{}", described.name);
    }
}

/// Redis flags these as `admin`, and they are not guarded: they only look, or are answered by
/// respgres for its own clients.
const OPEN: &str = "
    client|kill client|list client|no-evict client|pause client|unblock client|unpause
    cluster|count-failure-reports cluster|replicas cluster|slaves config|get latency|doctor
    latency|graph latency|histogram latency|history latency|latest module|list monitor slowlog|get
    slowlog|len";

#[tokio::test]
async fn what_redis_keeps_for_operators_is_guarded_or_stated_to_be_open() {
    let mut expected = BTreeSet::new();
    for described in described_by_redis().await {
        for described in described.subcommands.iter().chain([&described]) {
            if described.flags.contains("admin") {
                expected.insert((described.name.clone(), described.arity));
            }
        }
    }
    for name in OPEN.split_whitespace() {
        let before = expected.len();
        expected.retain(|(described, _)| described != name);
        assert_eq!(expected.len() + 1, before, "{name} is not flagged");
    }
    let mut guarded = BTreeSet::new();
    for command in COMMANDS {
        match command.guarded {
            Guarded::Nothing => {}
            Guarded::Whole => {
                guarded.insert((command.name.to_owned(), i64::from(command.arity)));
            }
            Guarded::Subcommands(subcommands) => guarded.extend(
                subcommands
                    .iter()
                    .map(|(name, arity)| (format!("{}|{name}", command.name), i64::from(*arity))),
            ),
        }
    }
    assert_eq!(guarded, expected);
}

#[tokio::test]
async fn fixed_key_positions_are_those_of_redis() {
    for described in described_by_redis().await {
        let command = known(&described.name);
        if described.not_keys {
            assert_eq!(command.keys, Keys::None, "{}: channels are not keys", described.name);
        } else if described.subcommands.iter().any(|subcommand| subcommand.range != (0, 0, 0)) {
            assert_eq!(range(command.keys), (2, 2, 1), "{}", described.name);
            for subcommand in described.subcommands {
                let keyless = subcommand.range == (0, 0, 0) && subcommand.arity == 2;
                assert!(keyless || subcommand.range == (2, 2, 1), "{}", subcommand.name);
            }
        } else {
            assert_eq!(range(command.keys), described.range, "{}", described.name);
        }
    }
}

/// Requests made by chance: wherever Redis names keys, so does the table.
#[tokio::test]
async fn key_positions_are_those_of_redis_in_random_requests() {
    let server = Redis::start().await;
    let mut redis = Client::connect(&server).await;
    let mut random = Random::new(7);
    let mut compared = 0;
    for described in redis.say("COMMAND").await.elements().iter().map(Described::new) {
        if described.not_keys || !described.subcommands.is_empty() {
            continue;
        }
        let command = known(&described.name);
        let rounds = if described.flags.contains("movablekeys") { 400 } else { 10 };
        for _ in 0..rounds {
            let request = random_request(&described, &mut random);
            let asked = [&["COMMAND", "GETKEYS"], &request[..]].concat();
            let Value::Array(expected) = redis.command(&asked).await else { continue };
            let mut expected: Vec<String> = expected.iter().map(text).collect();
            let mut found = Vec::new();
            command.for_each_key(
                request.len(),
                |position| request[position].as_bytes(),
                |position| found.push(request[position].to_owned()),
            );
            if matches!(command.keys, Keys::Sort | Keys::GeoRadius | Keys::Migrate) {
                // Redis names the last destination only, and MIGRATE's placeholder for a key.
                found.push(String::new());
                expected.retain(|key| !found.contains(key));
                assert!(expected.is_empty(), "{request:?}: {expected:?} beside {found:?}");
            } else {
                // Redis puts ZUNIONSTORE's destination last.
                expected.sort();
                found.sort();
                assert_eq!(found, expected, "{request:?}");
            }
            compared += 1;
        }
    }
    assert!(compared > 3000, "only {compared} requests were compared");
}

/// COMMAND GETKEYS finds options by their words alone; so these are put where they belong.
fn random_request(described: &Described, random: &mut Random) -> Vec<&'static str> {
    const STREAM_OPTIONS: &[&str] = &["COUNT 2", "BLOCK 0", "NOACK"];
    const STREAM_KEYS: &[&str] = &["STREAMS a 0", "streams a b 0 0", "STREAMS a b c 0 0 0"];
    const SORT_OPTIONS: &[&str] = &["LIMIT 0 1", "GET #", "BY nosort", "ASC", "ALPHA", "STORE d"];
    const GEO_OPTIONS: &[&str] = &["COUNT 1", "ASC", "STORE d", "storedist e", "WITHDIST"];
    const MIGRATE_OPTIONS: &[&str] = &["COPY", "REPLACE", "AUTH p", "AUTH2 u p"];
    const WORDS: &[&str] = &["0", "1", "2", "3", "a", "b", "c", "d", "e"];
    let command = known(&described.name);
    let (head, options, tail): (_, _, &[&str]) = match command.name {
        "xread" => ("", &STREAM_OPTIONS[..2], STREAM_KEYS),
        "xreadgroup" => ("GROUP g c", STREAM_OPTIONS, STREAM_KEYS),
        "sort" | "sort_ro" => ("k", SORT_OPTIONS, &[""]),
        "georadius" => ("k 1 2 3 m", GEO_OPTIONS, &[""]),
        "georadiusbymember" => ("k m 3 m", GEO_OPTIONS, &[""]),
        "migrate" if random.below(2) == 0 => ("h 1 k 0 10", MIGRATE_OPTIONS, &[""]),
        "migrate" => ("h 1 - 0 10", MIGRATE_OPTIONS, &["KEYS a", "keys a b c"]),
        _ => {
            let least = described.arity.unsigned_abs() as usize;
            let more = if described.arity < 0 { random.below(8) } else { 0 };
            let mut request = vec![command.name];
            request.extend((1..least + more).map(|_| random.pick(WORDS)));
            return request;
        }
    };
    let mut parts = vec![command.name, head];
    parts.extend((0..random.below(4)).map(|_| random.pick(options)));
    parts.push(random.pick(tail));
    let words = parts.iter().flat_map(|part| part.split_whitespace());
    words.map(|word| if word == "-" { "" } else { word }).collect()
}
