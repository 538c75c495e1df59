//! A Redis that one waits for: these tests do one thing at a time, in an order of their own.

use tokio::runtime::{Builder, Runtime};

use crate::stack::{Client, Redis, Value};

pub(crate) struct Blocking {
    runtime: Runtime,
    client: Client,
    _redis: Redis,
}

impl Blocking {
    pub(crate) fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let redis = runtime.block_on(Redis::start());
        let client = runtime.block_on(Client::connect(&redis));
        Self { runtime, client, _redis: redis }
    }

    pub(crate) fn call(&mut self, request: &[impl AsRef<[u8]>]) -> Value {
        self.runtime.block_on(self.client.command(request))
    }
}
