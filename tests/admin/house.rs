//! A proxy with its admin API in reach.

use std::sync::Arc;

use serde_json::Value;

use crate::http::{Answer, send};
use crate::stack::{Cluster, Proxy, Stack, wait_until};

pub const TOKEN: &str = "an-operator's-token";

pub const MAPPINGS: &str = r#"
[[mapping]]
name = "things"
key = "thing:{id:int}"
table = "things"
extra = "extra"
[mapping.columns]
name = "name"
size = { column = "size", type = "integer" }

[[mapping]]
name = "fast"
key = "fast:{id:int}"
table = "fast"
strategy = "cache_first"
[mapping.columns]
size = { column = "size", type = "integer" }
"#;

pub struct House {
    pub stack: Stack,
    pub address: String,
}

impl House {
    /// With the token.
    pub async fn build(config: &str) -> Self {
        Self::with(config, &[("RESPGRES__ADMIN__TOKEN", TOKEN)], None).await
    }

    /// With a Postgres of its own, which can be stopped.
    pub async fn with_cluster(cluster: &Arc<Cluster>) -> Self {
        let token = [("RESPGRES__ADMIN__TOKEN", TOKEN)];
        Self::with(MAPPINGS, &token, Some(Arc::clone(cluster))).await
    }

    pub async fn with(
        config: &str,
        settings: &[(&str, &str)],
        cluster: Option<Arc<Cluster>>,
    ) -> Self {
        let mut builder = Stack::builder(config).set("RESPGRES__ADMIN__LISTEN", "127.0.0.1:0");
        for (name, value) in settings {
            builder = builder.set(name, value);
        }
        if let Some(cluster) = cluster {
            builder = builder.cluster(cluster);
        }
        let stack = builder.start().await;
        let address = address_of(&stack.proxy);
        Self { stack, address }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path).await
    }

    pub async fn post(&self, path: &str) -> Answer {
        self.ask("POST", path).await
    }

    pub async fn ask(&self, method: &str, path: &str) -> Answer {
        let bearer = format!("Bearer {TOKEN}");
        send(&self.address, method, path, &[("Authorization", &bearer)], "").await
    }

    pub async fn post_json(&self, path: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {TOKEN}");
        let headers = [("Authorization", &*bearer), ("Content-Type", "application/json")];
        send(&self.address, "POST", path, &headers, body).await
    }

    /// The value of a sample of /metrics, by all that stands before it.
    pub async fn sample(&self, name: &str) -> Option<f64> {
        let page = self.get("/metrics").await.body;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    pub async fn wait_for_sample(&self, name: &str, expected: f64) {
        wait_until(&format!("{name} {expected}"), async || {
            self.sample(name).await == Some(expected)
        })
        .await;
    }

    /// Waits until no job runs.
    pub async fn wait_for_jobs(&self) {
        wait_until("no job runs", async || {
            let jobs = self.get("/admin/database/jobs").await.json();
            let state = jobs["jobs"][0]["state"].as_str().unwrap_or("none");
            !["running", "cancelling"].contains(&state)
        })
        .await;
    }

    /// Waits until the answer at a path has this value there.
    pub async fn wait_for(&self, path: &str, pointer: &str, expected: Value) {
        wait_until(&format!("{path} {pointer} {expected}"), async || {
            self.get(path).await.json().pointer(pointer) == Some(&expected)
        })
        .await;
    }
}

/// Where the admin API of a proxy is, as its log says.
pub fn address_of(proxy: &Proxy) -> String {
    let log = proxy.process().log();
    let line = log.iter().find(|line| line.contains("the admin API is there"));
    let line = line.unwrap_or_else(|| panic!("no admin API in {log:?}"));
    let words = line.split(|c: char| c.is_whitespace() || c == '=');
    words.into_iter().find(|word| word.parse::<std::net::SocketAddr>().is_ok()).unwrap().to_owned()
}
