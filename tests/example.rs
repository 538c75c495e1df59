//! The example of config/: read, made into tables, and every mapping bound to its table.

mod stack;

use respgres::config::Config;
use respgres::mapping::Layout;
use respgres::mapping::registry::plan;
use respgres::mapping::shape::TableName;
use respgres::store::Session;
use respgres::store::schema::create_statements;
use stack::Cluster;

#[tokio::test]
async fn every_mapping_of_the_example_fits_the_table_that_schema_makes() {
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
    for plan in &plans {
        let table = TableName::parse(&plan.config.table);
        let shape = session.table_shape(&table).await.expect("the catalog can be read");
        let layout = Layout::bind(plan, shape.as_ref());
        layout.unwrap_or_else(|problems| panic!("{}: {problems:?}", plan.config.name));
    }
}
