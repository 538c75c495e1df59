//! A worker that panics tells every client of its batch, and goes on.

use std::sync::Arc;

use bytes::Bytes;
use respgres::command::{
    Command, Flags, Guarded, Keys, Mapped, Need, Path, Proof, Read, Write, lookup,
};
use respgres::config::{Config, OnExpire, OnPostgresDown, RedisUrl};
use respgres::engine::fleet::Fleet;
use respgres::engine::{Engine, EngineSettings, Health, Mail, Mailbox, Operation, ReplyTo};
use respgres::mapping::registry::plan;
use respgres::mapping::shape::TableName;
use respgres::mapping::{Layout, Mapping, Registry};
use respgres::metrics::Metrics;
use respgres::protocol::{Reply, Version};
use respgres::store::Session;
use respgres::tasks::Tasks;
use respgres::upstream::control::ControlSettings;
use respgres::upstream::lane::Owner;

use crate::stack::{Cluster, Redis};

static BAD_WRITE: Command = Command {
    name: "badwrite",
    arity: 2,
    flags: Flags(0),
    keys: Keys::First,
    path: Path::Forward,
    mapped: Mapped::Write(Write {
        of: None,
        need: |_| Need::Whole,
        run: |_, _, _| panic!("on purpose"),
    }),
    guarded: Guarded::Nothing,
};

static BAD_READ: Command = Command {
    mapped: Mapped::Read(Read {
        of: None,
        proof: Proof::Never,
        need: |_| Need::Whole,
        reply: |_, _, _| panic!("on purpose"),
    }),
    name: "badread",
    ..BAD_WRITE
};

struct House {
    engine: Engine,
    mailbox: Arc<Mailbox>,
    tasks: Tasks,
    _redis: Redis,
}

async fn house() -> House {
    let redis = Redis::start().await;
    let cluster = Cluster::shared().await;
    let database = cluster.create_database().await;
    let url = cluster.url(&database);
    let text = format!(
        "[postgres]\nurl = \"{url}\"\n[[mapping]]\nname = \"things\"\nkey = \"thing:{{id:int}}\"\n\
         table = \"things\"\nextra = \"extra\"\n"
    );
    let config = Config::from_toml(&text, []).unwrap();
    let plans = plan(&config).unwrap();
    let mut session = Session::connect(&config.postgres).await.unwrap();
    session.migrate().await.unwrap();
    session.apply("create table things (id bigint primary key, extra jsonb)").await.unwrap();
    let shape = session.table_shape(&TableName::parse("things")).await.unwrap();
    let mapping = Mapping {
        index: 0,
        name: "things".into(),
        pattern: plans[0].pattern.clone(),
        gate: respgres::mapping::Gate::new(plans[0].config.strategy, false),
        cache_ttl_ms: 60_000,
        negative_ttl_ms: 1000,
        on_expire: OnExpire::Delete,
        on_postgres_down: Some(OnPostgresDown::RedisOnly),
        layout: Layout::bind(&plans[0], shape.as_ref()).unwrap(),
    };
    let control = ControlSettings {
        address: RedisUrl::parse(&redis.url()).unwrap(),
        database: 0,
        connect_timeout_ms: 1000,
        request_timeout_ms: 5000,
    };
    let fleet = Arc::new(Fleet::new(config.proxies.split));
    let settings = EngineSettings {
        journal: config.journal.clone(),
        postgres: config.postgres,
        control,
        health: Arc::new(Health::new(Arc::clone(&fleet))),
        metrics: Arc::new(Metrics::new(0, 1)),
        fleet,
        redis_loss: config.proxies.redis_loss,
        lease_ms: 10_000,
        cache_max_elements: 10_000,
        verify_hits: 0.0,
        plans,
        reply_most_bytes: 1 << 20,
        part: None,
    };
    let engine = Engine::new(Registry::new(vec![Arc::new(mapping)], Vec::new()), &settings);
    let tasks = Tasks::new();
    engine.start(&settings, &tasks).expect("there is a thread");
    House { engine, mailbox: Arc::default(), tasks, _redis: redis }
}

impl House {
    fn operation(&self, command: &'static Command, words: &[&'static str], slot: u32) -> Operation {
        let arguments: Vec<Bytes> = words.iter().map(|word| Bytes::from(*word)).collect();
        let key = self.engine.registry().mapped_key(&arguments[1]).unwrap();
        let mailbox = Arc::clone(&self.mailbox);
        let reply_to = ReplyTo { mailbox, owner: Owner(1), slot, version: Version::Resp2 };
        Operation::new(command, arguments, vec![key], Vec::new(), reply_to)
    }

    /// Waits for this many answers and sorts them by slot.
    async fn answers(&self, count: usize) -> Vec<String> {
        let mut answers = Vec::new();
        while answers.len() < count {
            answers.extend(self.mailbox.take().await.into_iter().map(|mail| match mail {
                Mail::Answer(answer) => answer,
                other => panic!("nobody has asked for {other:?}"),
            }));
        }
        answers.sort_by_key(|answer| answer.slot);
        let slots: Vec<u32> = answers.iter().map(|answer| answer.slot).collect();
        assert!(
            slots.iter().zip(0..).all(|(slot, at)| *slot == at),
            "answered otherwise: {slots:?}"
        );
        answers.iter().map(|answer| String::from_utf8_lossy(&answer.reply).into_owned()).collect()
    }
}

#[tokio::test]
async fn a_panic_costs_one_batch_and_every_client_is_told() {
    let house = house().await;
    let (set, get) = (lookup(b"hset").unwrap(), lookup(b"hget").unwrap());
    let told = "-ERR internal error; a write may have happened\r\n";
    for round in 0..3 {
        house.engine.write(house.operation(set, &["HSET", "thing:1", "a", "1"], 0), 0);
        house.engine.write(house.operation(&BAD_WRITE, &["BADWRITE", "thing:2"], 1), 0);
        house.engine.write(house.operation(set, &["HSET", "thing:3", "a", "1"], 2), 0);
        let answers = house.answers(3).await;
        assert_eq!(answers[1], told);
        house.engine.read(house.operation(&BAD_READ, &["BADREAD", "thing:1"], 0));
        assert_eq!(house.answers(1).await, [told]);
        // The workers live, and nothing of the broken batch was kept half.
        house.engine.write(house.operation(set, &["HSET", "thing:4", "a", "1"], 0), 0);
        let added = Reply::Integer(i64::from(round == 0));
        let mut expected = bytes::BytesMut::new();
        added.write(Version::Resp2, &mut expected);
        assert_eq!(house.answers(1).await[0].as_bytes(), expected);
        house.engine.read(house.operation(get, &["HGET", "thing:4", "a"], 0));
        assert_eq!(house.answers(1).await, ["$1\r\n1\r\n"]);
    }
    house.tasks.stop();
    house.tasks.ended().await;
}
