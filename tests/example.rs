//! The example of config/: read, made into tables, every mapping bound to its table; and what the
//! relay app wrote in the record, through the rows of these tables and back.

mod stack;
#[path = "relay/traffic.rs"]
mod traffic;

use bytes::Bytes;
use respgres::config::Config;
use respgres::mapping::Layout;
use respgres::mapping::registry::plan;
use respgres::mapping::shape::TableName;
use respgres::store::Session;
use respgres::store::schema::create_statements;
use respgres::value::Fields;
use stack::Cluster;

#[tokio::test]
async fn the_example_holds_what_the_app_wrote_byte_for_byte() {
    let cluster = Cluster::shared().await;
    let database = cluster.create_database().await;
    let url = ("RESPGRES__POSTGRES__URL".to_owned(), cluster.url(&database));
    let config = Config::from_toml(include_str!("../config/relay.toml"), [url]);
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    let plans = plan(&config).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert!(plans.len() > 30, "the example has {} mappings", plans.len());
    let mut session = Session::connect(&config.postgres).await.expect("the database is there");
    for plan in &plans {
        let statements = create_statements(plan);
        session.apply(&statements).await.unwrap_or_else(|error| panic!("{error}:\n{statements}"));
    }
    let mut layouts = Vec::new();
    for plan in &plans {
        let table = TableName::parse(&plan.config.table);
        let shape = session.table_shape(&table).await.expect("the catalog can be read");
        let layout = Layout::bind(plan, shape.as_ref());
        let name = &plan.config.name;
        layouts.push(layout.unwrap_or_else(|problems| panic!("{name}: {problems:?}")));
    }

    let (mut values, mut kept) = (0, 0);
    for recorded in traffic::recorded() {
        if !matches!(recorded.name().as_str(), "hset" | "hmset") {
            continue;
        }
        let key = recorded.argument(1);
        let Some(at) = plans.iter().position(|plan| plan.pattern.matches(key)) else { continue };
        let written: Fields = recorded.command[2..]
            .chunks(2)
            .map(|pair| (Bytes::from(pair[0].clone()), Bytes::from(pair[1].clone())))
            .collect();
        let row = layouts[at].encode(&written).unwrap_or_else(|error| panic!("{error}"));
        let read =
            layouts[at].decode(row.columns.iter().map(Option::as_deref), row.extra.as_deref());
        assert_eq!(read, written, "{}", recorded.text());
        values += written.len();
        let extra: serde_json::Map<String, serde_json::Value> =
            row.extra.map_or_else(Default::default, |extra| {
                serde_json::from_str(&extra).expect("extra is a JSON object")
            });
        kept += extra.len();
    }
    // Most values of a real app are what their column's type writes: extra is for the rest.
    assert!(values > 2500 && kept * 10 < values, "{kept} of {values} values needed extra");
}
