//! The program: see `respgres --help`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where people are told")]

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use respgres::app::moving::Comparison;
use respgres::app::{self, Setup};
use respgres::cli::{
    self, CheckConfig, ConfigFile, DeadLetterVerb, Infer, JournalVerb, PhaseVerb, ProxiesVerb,
    StrategyVerb, Verb,
};
use respgres::engine::moving::{Repair, Speed};
use respgres::infer::Sampling;
use respgres::mapping::Phase;
use respgres::{command, config, metrics, store};

/// Runs the program; its exit code is 0, 1 when something went wrong, 2 for a bad command line.
fn main() -> ExitCode {
    let done = match cli::parse().verb {
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
        Verb::Status { file, json } => status(&file.config, json),
        Verb::Metrics { file, watch } => tell_metrics(&file.config, watch),
        Verb::PrintMetrics => {
            print!("{}", metrics::document());
            Ok(())
        }
        Verb::Explain { file, key } => explain(&file.config, key),
        Verb::Infer(arguments) => infer(arguments),
        Verb::Journal(verb) => journal(&verb),
        Verb::Proxies(verb) => proxies(&verb),
        Verb::Phase(verb) => phase(&verb),
        Verb::Strategy(verb) => strategy(&verb),
        Verb::Rollback { file, mapping, force } => {
            rollback(&file.config, mapping.as_deref(), force)
        }
        Verb::Backfill { file, mapping, speed } => {
            let speed = speed_of(&speed);
            moved(&file, |setup| {
                let mapping = mapping.as_deref();
                app::moving::backfill(setup, mapping, speed).map_err(|error| error.to_string())
            })
        }
        Verb::Verify(arguments) => verify(&arguments),
        Verb::Sync { file, from, to, mapping, speed } => {
            let speed = speed_of(&speed);
            let mapping = mapping.as_deref();
            moved(&file, |setup| {
                let done = match (&from[..], &to[..]) {
                    ("redis", "postgres") => app::moving::backfill(setup, mapping, speed),
                    ("postgres", "redis") => app::moving::warm(setup, mapping, speed),
                    _ => return Err(format!("both sides are {from}")),
                };
                done.map_err(|error| error.to_string())
            })
        }
        Verb::Schema { file, triggers, apply } => schema(&file.config, triggers, apply),
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

fn explain(path: &Path, key: String) -> Result<(), String> {
    let setup = Setup::load(path).map_err(|problems| problems.to_string())?;
    let told = app::explain(&setup, key)
        .map_err(|error| format!("the key could not be explained: {error}"))?;
    for (name, text) in told {
        println!("{name:>10}: {text}");
    }
    Ok(())
}

fn status(path: &Path, as_json: bool) -> Result<(), String> {
    let setup = Setup::load(path).map_err(|problems| problems.to_string())?;
    let told = app::admin::status(&setup, as_json).map_err(|error| error.to_string())?;
    println!("{told}");
    Ok(())
}

fn tell_metrics(path: &Path, watch: bool) -> Result<(), String> {
    let setup = Setup::load(path).map_err(|problems| problems.to_string())?;
    let tell = |text: &str| println!("{text}");
    let told =
        if watch { app::admin::watch(&setup, tell) } else { app::admin::metrics(&setup, tell) };
    told.map_err(|error| error.to_string())
}

fn infer(arguments: Infer) -> Result<(), String> {
    let address = config::RedisUrl::parse(&arguments.redis)
        .map_err(|text| format!("--redis: {text}").replace("upstream.database", "--database"))?;
    let sampling = Sampling {
        address,
        database: arguments.database,
        rate: arguments.rate,
        limit: arguments.limit,
        samples: usize::try_from(arguments.samples).unwrap_or(usize::MAX),
        timeout_ms: config::Config::default().upstream.request_timeout_ms,
    };
    let proposal = app::infer::infer(&sampling)
        .map_err(|error| format!("nothing can be proposed: {error}"))?;
    eprint!("{}", proposal.summary);
    if let Some(directory) = &arguments.output {
        app::infer::write(&proposal, directory).map_err(|error| error.to_string())?;
    }
    if arguments.json {
        println!("{:#}", proposal.json);
    } else if arguments.output.is_none() {
        print!("{}", proposal.config);
        // As comments, so that what is printed is one valid file.
        println!("\n# === The tables, as `respgres schema` prints them ===\n#");
        for line in proposal.schema.lines() {
            println!("# {line}");
        }
    }
    Ok(())
}

fn journal(verb: &JournalVerb) -> Result<(), String> {
    let load = |file: &ConfigFile| Setup::load(&file.config).map_err(|all| all.to_string());
    let told = match verb {
        JournalVerb::Status(file) => app::journal::status(&load(file)?),
        JournalVerb::Dlq(DeadLetterVerb::List(file)) => app::journal::list(&load(file)?),
        JournalVerb::Dlq(DeadLetterVerb::Show { file, id }) => {
            app::journal::show(&load(file)?, *id)
        }
        JournalVerb::Dlq(DeadLetterVerb::Retry { file, id }) => {
            app::journal::retry(&load(file)?, *id)
        }
        JournalVerb::Dlq(DeadLetterVerb::Drop { file, id }) => {
            app::journal::forget(&load(file)?, *id)
        }
    };
    for line in told.map_err(|error| error.to_string())? {
        println!("{line}");
    }
    Ok(())
}

fn proxies(verb: &ProxiesVerb) -> Result<(), String> {
    let load = |file: &ConfigFile| Setup::load(&file.config).map_err(|all| all.to_string());
    let told = match verb {
        ProxiesVerb::List(file) => app::proxies::list(&load(file)?),
        ProxiesVerb::Forget { file, id } => app::proxies::forget(&load(file)?, id),
    };
    for line in told.map_err(|error| error.to_string())? {
        println!("{line}");
    }
    Ok(())
}

fn phase(verb: &PhaseVerb) -> Result<(), String> {
    let load = |file: &ConfigFile| Setup::load(&file.config).map_err(|all| all.to_string());
    let told = match verb {
        PhaseVerb::Get { file, mapping } => app::phase::get(&load(file)?, mapping.as_deref()),
        PhaseVerb::Set { file, phase, mapping, force } => {
            let (setup, mapping) = (load(file)?, mapping.as_deref());
            let phase = Phase::parse(phase).ok_or("there is no such phase")?;
            if !force {
                let dangers = app::phase::dangers(&setup, phase, mapping);
                confirm(&dangers.map_err(|error| error.to_string())?)?;
            }
            app::phase::set(&setup, phase, mapping)
        }
    };
    for line in told.map_err(|error| error.to_string())? {
        println!("{line}");
    }
    Ok(())
}

fn strategy(verb: &StrategyVerb) -> Result<(), String> {
    let load = |file: &ConfigFile| Setup::load(&file.config).map_err(|all| all.to_string());
    let told = match verb {
        StrategyVerb::Get { file, mapping } => app::strategy::get(&load(file)?, mapping.as_deref()),
        StrategyVerb::Set { file, strategy, mapping, timeout, discard_rows } => {
            let limit = Duration::from_secs(*timeout);
            app::strategy::set(&load(file)?, strategy, mapping.as_deref(), limit, *discard_rows)
        }
    };
    for line in told.map_err(|error| error.to_string())? {
        println!("{line}");
    }
    Ok(())
}

fn rollback(path: &Path, mapping: Option<&str>, force: bool) -> Result<(), String> {
    let setup = Setup::load(path).map_err(|problems| problems.to_string())?;
    if !force {
        confirm(&[
            "what is in the tables is put into Redis, and they are not looked at any more".into()
        ])?;
    }
    let mapping = mapping.filter(|mapping| *mapping != "all");
    let told = app::rollback::roll_back(&setup, mapping, &mut |line| eprintln!("{line}"));
    for line in told.map_err(|error| error.to_string())? {
        println!("{line}");
    }
    println!(
        "The app may be pointed at Redis itself. Keys there that begin with \"respgres:\" are not read by any app, and \
         may be deleted once all mappings are back."
    );
    Ok(())
}

fn speed_of(speed: &cli::Speed) -> Speed {
    Speed { keys_per_second: speed.rate, parallel: speed.parallel.into() }
}

fn verify(arguments: &cli::Verify) -> Result<(), String> {
    let comparison = Comparison {
        sample: arguments.sample,
        is_complete: arguments.complete,
        repair: arguments.repair.as_deref().map(|side| match side {
            "redis" => Repair::Redis,
            _ => Repair::Postgres,
        }),
        json: arguments.json,
    };
    let (mapping, speed) = (arguments.mapping.as_deref(), speed_of(&arguments.speed));
    moved(&arguments.file, |setup| {
        app::moving::verify(setup, mapping, speed, comparison).map_err(|error| error.to_string())
    })
}

/// Runs a job, and tells what it has come to.
fn moved(
    file: &ConfigFile,
    job: impl FnOnce(&Setup) -> Result<app::moving::Report, String>,
) -> Result<(), String> {
    let setup = Setup::load(&file.config).map_err(|problems| problems.to_string())?;
    let report = job(&setup)?;
    println!("{}", report.lines.join("\n"));
    if report.is_clean { Ok(()) } else { Err("not all keys are as they are to be".to_owned()) }
}

/// Asks whether to go on all the same.
fn confirm(dangers: &[String]) -> Result<(), String> {
    if dangers.is_empty() {
        return Ok(());
    }
    eprintln!("{}", dangers.join("\n"));
    eprint!("go on all the same? [y/N] ");
    let mut answer = String::new();
    let told = std::io::stdin().read_line(&mut answer);
    if told.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err("nothing was changed (--force does not ask)".to_owned())
}

fn schema(path: &Path, triggers: bool, apply: bool) -> Result<(), String> {
    let setup = Setup::load(path).map_err(|problems| problems.to_string())?;
    let mut statements: Vec<String> =
        setup.plans.iter().map(store::schema::create_statements).collect();
    if triggers {
        statements.extend(setup.plans.iter().map(store::triggers::trigger_statements));
    }
    let statements = statements.join("\n");
    if !apply {
        print!("{statements}");
        return Ok(());
    }
    app::apply_schema(&setup, &statements)
        .map_err(|error| format!("the tables were not made: {error}"))?;
    let what = if triggers { "tables and triggers" } else { "tables" };
    println!("the {what} of {} mappings are there", setup.plans.len());
    Ok(())
}
