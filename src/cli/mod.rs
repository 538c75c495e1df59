//! The command line.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where people are told")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::app::{self, Setup};
use crate::{command, config, store};

/// A caching proxy that speaks Redis' protocol: existing apps connect to it instead of to Redis.
/// Keys that match no mapping pass straight through to the Redis behind it; hashes whose keys match
/// a mapping live in typed Postgres tables and are cached in Redis.
#[derive(Debug, Parser)]
#[command(name = "respgres", version)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the proxy until SIGINT or SIGTERM.
    ///
    /// Needs the Redis behind it and, if there are mappings, Postgres with their tables (see
    /// `respgres schema`).
    Run(ConfigFile),
    /// Say everything that is wrong with a configuration file, and its mappings' tables if Postgres
    /// is in reach.
    CheckConfig(CheckConfig),
    /// Print every setting with its default and a comment: a file to start from.
    PrintConfig {
        /// As a page of documentation.
        #[arg(long)]
        documentation: bool,
    },
    /// Print, as a page of documentation, what becomes of each Redis command.
    PrintCommands,
    /// Print the tables that the mappings want, as SQL.
    Schema {
        #[command(flatten)]
        file: ConfigFile,
        /// Run the SQL on the configured database, and respgres' own migrations.
        #[arg(long)]
        apply: bool,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file (TOML). Settings can be overridden by the environment:
    /// RESPGRES__POSTGRES__URL is postgres.url.
    #[arg(long, short, value_name = "FILE", env = "RESPGRES_CONFIG")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct CheckConfig {
    #[command(flatten)]
    file: ConfigFile,
    /// Only the file, without looking into the database.
    #[arg(long)]
    offline: bool,
}

/// Runs the program; its exit code is 0, 1 when something went wrong, 2 for a bad command line.
pub fn main() -> ExitCode {
    let done = match CommandLine::parse().verb {
        Verb::Run(file) => run(&file.config),
        Verb::CheckConfig(check) => check_config(&check),
        Verb::PrintConfig { documentation: true } => {
            print!("{}", config::print_documentation());
            Ok(())
        }
        Verb::PrintConfig { documentation: false } => {
            print!("{}", config::print_config());
            Ok(())
        }
        Verb::PrintCommands => {
            print!("{}", command::document());
            Ok(())
        }
        Verb::Schema { file, apply } => schema(&file.config, apply),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &Path) -> Result<(), String> {
    let setup = Setup::load(path).map_err(|problems| problems.to_string())?;
    app::run(setup).map_err(|error| format!("respgres cannot run: {error}"))
}

fn check_config(check: &CheckConfig) -> Result<(), String> {
    let path = &check.file.config;
    let setup = Setup::load(path).map_err(|problems| problems.to_string())?;
    if !check.offline && setup.needs_postgres() {
        app::check(&setup).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    println!("{} is valid: {} mappings", path.display(), setup.plans.len());
    Ok(())
}

fn schema(path: &Path, apply: bool) -> Result<(), String> {
    let setup = Setup::load(path).map_err(|problems| problems.to_string())?;
    let statements: Vec<String> =
        setup.plans.iter().map(store::schema::create_statements).collect();
    let statements = statements.join("\n");
    if !apply {
        print!("{statements}");
        return Ok(());
    }
    app::apply_schema(&setup, &statements)
        .map_err(|error| format!("the tables were not made: {error}"))?;
    println!("the tables of {} mappings are there", setup.plans.len());
    Ok(())
}
