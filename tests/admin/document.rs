//! docs/admin-api.yaml beside the server: every path and method of it is there and answers as it says, and
//! nothing answers that it does not name.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use crate::house::{House, MAPPINGS, TOKEN};
use crate::http::{Answer, send};

/// Of each operation, as `GET /path`, the statuses that it may answer with, and what their bodies are.
struct Document {
    root: Json,
}

impl Document {
    fn read() -> Self {
        let text = include_str!("../../docs/admin-api.yaml");
        Self { root: serde_yaml_ng::from_str(text).expect("the document is YAML") }
    }

    fn operations(&self) -> Vec<(String, String, &Json)> {
        let mut operations = Vec::new();
        for (path, methods) in self.root["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                operations.push((method.to_uppercase(), path.clone(), operation));
            }
        }
        operations
    }

    /// What a `$ref` leads to.
    fn resolve<'d>(&'d self, part: &'d Json) -> &'d Json {
        match part["$ref"].as_str() {
            Some(place) => {
                let found = self.root.pointer(place.strip_prefix('#').unwrap());
                self.resolve(found.unwrap_or_else(|| panic!("{place} leads nowhere")))
            }
            None => part,
        }
    }

    /// A schema; of one that has all of several others, what these have.
    fn whole(&self, schema: &Json) -> Json {
        let schema = self.resolve(schema);
        let Some(parts) = schema["allOf"].as_array() else { return schema.clone() };
        let (mut properties, mut required) = (serde_json::Map::new(), Vec::new());
        for part in parts {
            let part = self.whole(part);
            assert_eq!(part["type"], "object", "{schema}");
            properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
            required.extend(part["required"].as_array().cloned().unwrap_or_default());
        }
        serde_json::json!({"type": "object", "properties": properties, "required": required})
    }

    fn statuses(&self, operation: &Json) -> BTreeSet<u16> {
        let statuses = operation["responses"].as_object().unwrap().keys();
        statuses.map(|status| status.parse().unwrap()).collect()
    }

    /// Fails unless the answer is one that the operation names.
    fn check(&self, operation: &Json, answer: &Answer) {
        let response = &operation["responses"][answer.status.to_string()];
        assert!(!response.is_null(), "{} is not told of: {answer:?}", answer.status);
        let content = self.resolve(response)["content"].as_object().unwrap();
        let kind = answer.header("content-type").unwrap().split(';').next().unwrap();
        let schema =
            &content.get(kind).unwrap_or_else(|| panic!("{kind} is not told of"))["schema"];
        if kind == "application/json" {
            self.fits(schema, &answer.json(), "");
        }
    }

    /// Fails unless the value is as the schema has it: no more and no less.
    fn fits(&self, schema: &Json, value: &Json, place: &str) {
        let schema = &self.whole(schema);
        if let Some(words) = schema["enum"].as_array() {
            assert!(words.contains(value), "{place}: {value}");
            return;
        }
        if !schema["const"].is_null() {
            assert_eq!(schema["const"], *value, "{place}");
            return;
        }
        let types = match &schema["type"] {
            Json::String(one) => vec![one.as_str()],
            Json::Array(several) => several.iter().map(|one| one.as_str().unwrap()).collect(),
            _ => panic!("{place}: the schema has no type: {schema}"),
        };
        let is = match value {
            Json::Null => "null",
            Json::Bool(_) => "boolean",
            Json::Number(number) if number.is_u64() && !types.contains(&"number") => "integer",
            Json::Number(_) => "number",
            Json::String(_) => "string",
            Json::Array(_) => "array",
            Json::Object(_) => "object",
        };
        assert!(types.contains(&is), "{place}: {value} is not {types:?}");
        for (at, item) in value.as_array().into_iter().flatten().enumerate() {
            self.fits(&schema["items"], item, &format!("{place}[{at}]"));
        }
        let Some(entries) = value.as_object() else { return };
        for (name, entry) in entries {
            let known = &schema["properties"][name];
            let any = &schema["additionalProperties"];
            let place = format!("{place}.{name}");
            assert!(!known.is_null() || any.is_object(), "{place} is not told of");
            self.fits(if known.is_null() { any } else { known }, entry, &place);
        }
        for required in schema["required"].as_array().into_iter().flatten() {
            assert!(entries.contains_key(required.as_str().unwrap()), "{place} has no {required}");
        }
    }
}

#[tokio::test]
async fn every_documented_path_answers_as_documented() {
    let document = Document::read();
    let house = House::build(MAPPINGS).await;
    house.stack.sql_execute("alter table fast add check (size < 100)").await;
    let mut client = house.stack.client().await;
    client.say("HSET thing:1 name a size 1").await;
    client.say("HSET fast:1 size 101").await;
    client.say("HSET fast:2 size 102").await;
    house.stack.flushed().await;
    house.stack.sql_execute("alter table fast drop constraint fast_size_check").await;
    let (done, _, error) = house.stack.run(&["phase", "set", "dual_write", "--force"]);
    assert!(done, "{error}");
    let bearer = format!("Bearer {TOKEN}");
    let authorized = [("Authorization", &*bearer)];
    let mut met: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
    for (method, path, operation) in document.operations() {
        let name = format!("{method} {path}");
        let is_open = operation["security"].as_array().is_some_and(Vec::is_empty);
        let met = met.entry(name.clone()).or_default();
        let mut note = |answer: Answer| {
            document.check(operation, &answer);
            met.insert(answer.status);
            answer.status
        };
        // Without the token.
        let status = note(send(&house.address, &method, &path, &[], "").await);
        assert_eq!(status == 401, !is_open, "{name}");
        // What is not so, first: nothing is changed by it.
        if path.contains("{id}") {
            for id in ["x", "-1", "9223372036854775808", "4711", "%00", "1%2F2"] {
                let path = path.replace("{id}", id);
                note(send(&house.address, &method, &path, &authorized, "").await);
            }
        }
        if !operation["parameters"].is_null() && method == "GET" {
            for query in ["?limit=x", "?after=-1", "?limit=1001", "?%=%", "?limit=1"] {
                note(
                    send(&house.address, &method, &format!("{path}{query}"), &authorized, "").await,
                );
            }
        }
        if !operation["requestBody"].is_null() {
            let json = [authorized[0], ("Content-Type", "application/json")];
            let large = "x".repeat(20_000);
            let path = path.replace("{strategy}", "dual-write");
            for body in ["{", "[]", "null", r#"{"mapping": 1}"#, r#"{"mapping": "none"}"#, &large] {
                note(send(&house.address, &method, &path, &json, body).await);
            }
            note(send(&house.address, &method, &path, &authorized, "{}").await);
        }
        let id = if path.ends_with("drop") { "2" } else { "1" };
        let whole = path.replace("{id}", id).replace("{strategy}", "dual-write");
        note(send(&house.address, &method, &whole, &authorized, "").await);
        let json = [authorized[0], ("Content-Type", "application/json")];
        if path.ends_with("consistency-fix") {
            note(send(&house.address, &method, &whole, &json, r#"{"repair": "redis"}"#).await);
        }
        // Other jobs are to have their turn.
        house.wait_for_jobs().await;
        // Nobody has told of other methods.
        for other in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let is_known = document.operations().iter().any(|(m, p, _)| m == other && *p == path);
            if !is_known {
                let path = path.replace("{id}", "1");
                let answer = send(&house.address, other, &path, &authorized, "").await;
                assert_eq!(answer.status, 405, "{other} {path}");
            }
        }
    }
    // What needs a store that is away, somebody else at it, or a letter that Postgres takes, is met by the
    // other tests.
    let elsewhere: BTreeSet<u16> = [404, 409, 503].into();
    for (method, path, operation) in document.operations() {
        let told = document.statuses(operation);
        let met = &met[&format!("{method} {path}")];
        let missing: Vec<&u16> = told.difference(met).filter(|s| !elsewhere.contains(s)).collect();
        assert!(missing.is_empty(), "{method} {path} was never answered with {missing:?}");
    }
    house.stack.stop_expecting(&["Postgres refuses a change"]).await;
}

#[test]
fn every_route_of_the_source_is_documented() {
    let source = include_str!("../../src/admin/routes.rs");
    let router = source.split("pub(super) fn router").nth(1).unwrap().split("\n}").next().unwrap();
    let (database, root) = router.split_once("Router::new()\n        .route(\"/live\"").unwrap();
    let root = format!(".route(\"/live\"{root}");
    let routes = |text: &str, prefix: &str| -> BTreeSet<String> {
        let routes = text.split(".route(\"").skip(1);
        routes
            .map(|route| {
                let (path, rest) = route.split_once("\", ").unwrap();
                let method = rest.split('(').next().unwrap().to_uppercase();
                format!("{method} {prefix}{path}")
            })
            .collect()
    };
    let mut expected = routes(database, "/admin/database");
    expected.append(&mut routes(&root, ""));
    let document = Document::read();
    let told =
        document.operations().into_iter().map(|(method, path, _)| format!("{method} {path}"));
    assert_eq!(told.collect::<BTreeSet<_>>(), expected);
}
