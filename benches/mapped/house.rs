//! All servers of the comparison, and the CPU that they use.

use std::path::Path;

use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor, PgPool};
use tempfile::TempDir;

use crate::drive::Servers;
use crate::rig::Failure;
use crate::rig::cluster::Cluster;
use crate::rig::process::{self, Process};
use crate::{cache, flusher, relay, set, table};

/// Connections of the baseline's pool.
const POOL: u32 = 16;

/// Two respgres, as the relay app's mappings are not those of the other workloads, each with a Redis
/// and a database of its own (on one database they would have to share one Redis), and one Postgres.
pub(crate) struct House {
    pub(crate) servers: Servers,
    respgres: [Process; 2],
    redis: [Process; 2],
    cluster: Cluster,
    _directories: [TempDir; 2],
}

impl House {
    pub(crate) async fn start(binary: &Path) -> Result<Self, Failure> {
        let directories = [tempfile::tempdir()?, tempfile::tempdir()?];
        let [directory, relay_directory] = [directories[0].path(), directories[1].path()];
        let cluster = Cluster::start().await?;
        let pool = PgPoolOptions::new().max_connections(POOL).connect(cluster.url()).await?;
        table::create(&pool).await?;
        set::create(&pool).await?;
        flusher::create(&pool).await?;
        let (redis, redis_port) = process::start_redis(directory).await?;
        let (relay_redis, relay_redis_port) = process::start_redis(relay_directory).await?;
        let port = process::free_port()?;
        let config = format!(
            "[admin]\nlisten = \"\"\n\n[server]\nlisten = \"127.0.0.1:{port}\"\n\n\
             [upstream]\nurl = \"redis://127.0.0.1:{redis_port}\"\n\n\
             [postgres]\nurl = \"{}\"\n\n{}\n{}{}{}",
            cluster.url(),
            table::mapping(cache::MAPPED, "dual_write"),
            table::mapping(cache::BEHIND, "cache_first"),
            set::mapping(),
            flusher::mappings()
        );
        let respgres = start_respgres(binary, &config, port, directory).await?;
        let relay_port = process::free_port()?;
        pool.execute("CREATE DATABASE relay").await?;
        let config = relay::config(relay_port, relay_redis_port, &cluster.url_of("relay"));
        let relay_respgres = start_respgres(binary, &config, relay_port, relay_directory).await?;
        let postgres_url = cluster.url().to_owned();
        let servers = Servers { respgres_port: port, redis_port, relay_port, pool, postgres_url };
        cache::warm(&servers).await?;
        set::warm(&servers).await?;
        Ok(Self {
            servers,
            respgres: [respgres, relay_respgres],
            redis: [redis, relay_redis],
            cluster,
            _directories: directories,
        })
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.servers.pool
    }

    /// Used so far by respgres, Postgres and Redis.
    pub(crate) fn cpu_seconds(&self) -> Result<[f64; 3], Failure> {
        let of = |processes: &[Process; 2]| -> Result<f64, Failure> {
            Ok(processes[0].cpu_seconds()? + processes[1].cpu_seconds()?)
        };
        Ok([of(&self.respgres)?, self.cluster.cpu_seconds()?, of(&self.redis)?])
    }
}

async fn start_respgres(
    binary: &Path,
    config: &str,
    port: u16,
    directory: &Path,
) -> Result<Process, Failure> {
    let file = directory.join("schema.toml");
    std::fs::write(&file, config)?;
    let file = file.display().to_string();
    process::run(binary, &["schema", "--config", &file, "--apply"], None)?;
    process::start_respgres(binary, config, port, directory).await
}
