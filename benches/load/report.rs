//! The page: goals, medians, latencies, memory, as Markdown. The terminal shows the same.

use std::fmt::Write as _;

use crate::figures::{Figures, Measurement};
use crate::goal;
use crate::rig::figure::{decimal, grouped, verdict};
use crate::target::Kind;

const ISSUES: [u32; 2] = [2, 3];

/// The whole page, with the plot beside it.
pub(crate) fn page(figures: &Figures, plot: &str) -> String {
    format!(
        "# What passing through costs\n\n\
         Written by `make bench` (`cargo bench --bench load -- --write docs/performance.md`).\n\n\
         Commands on keys that no mapping matches: straight to Redis (\"direct\"), and through each \
         proxy to the same Redis. `c` is the number of clients, `P` the requests that each sends at \
         a time. Absolute figures drift by half from hour to hour where cores are shared: compare \
         ratios within one run only.\n\n{}\n\
         ![Throughput as a share of direct Redis]({plot})\n\n{}\n## Goals\n\n{}\n\
         A goal of the tables is judged by the figures of the same run.\n",
        setting(figures),
        tables(figures),
        goal::list()
    )
}

/// The tables alone.
pub(crate) fn tables(figures: &Figures) -> String {
    format!(
        "## Throughput and CPU\n\n{}\n## Latency\n\n{}\n## Memory\n\n{}",
        throughput(figures),
        latency(figures),
        memory(figures)
    )
}

fn setting(figures: &Figures) -> String {
    let absent: Vec<&str> =
        Kind::ALL.into_iter().filter(|kind| !figures.has_target(*kind)).map(Kind::name).collect();
    let mut text = figures.machine.list();
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(
        text,
        "- {} rounds; each runs every row against every target once, in turn, about {} s a run; \
         figures are medians, ratios and differences medians of each round's own",
        figures.rounds(),
        figures.seconds
    );
    let _ = writeln!(
        text,
        "- {} for respgres; one thread for each peer",
        match figures.threads {
            1 => String::from("one event loop"),
            more => format!("{more} event loops"),
        }
    );
    if !absent.is_empty() {
        let _ = writeln!(text, "- not measured: {}", absent.join(", "));
    }
    text
}

/// The proxies that there are figures of.
fn proxies(figures: &Figures) -> Vec<Kind> {
    Kind::PROXIES.into_iter().filter(|kind| figures.has_target(*kind)).collect()
}

fn heading(text: &mut String, columns: &[String]) {
    let _ = writeln!(text, "| {} |", columns.join(" | "));
    let _ = writeln!(text, "|{}", " --- |".repeat(columns.len()));
}

fn throughput(figures: &Figures) -> String {
    let proxies = proxies(figures);
    let mut text = String::from(
        "Requests a second of direct Redis and CPU seconds of Redis per million requests; for each \
         proxy its share of direct Redis' throughput / its own CPU seconds per million requests. \
         The next two columns compare respgres with twemproxy.\n\n",
    );
    let mut columns = vec![String::from("workload"), String::from("direct")];
    columns.extend(proxies.iter().map(|kind| kind.name().to_owned()));
    columns.extend(["requests/s to twemproxy", "CPU to twemproxy"].map(String::from));
    columns.extend(ISSUES.map(|issue| format!("goals of issue {issue}")));
    heading(&mut text, &columns);
    for row in &figures.rows {
        let mut cells = vec![
            row.clone(),
            format!(
                "{} / {}",
                grouped(figures.median(row, Kind::Direct, |one| one.requests_per_second)),
                decimal(figures.median(row, Kind::Direct, |one| one.redis_cpu))
            ),
        ];
        cells.extend(proxies.iter().map(|kind| {
            format!(
                "{} / {}",
                decimal(figures.throughput_ratio(row, *kind, Kind::Direct)),
                decimal(figures.median(row, *kind, |one| one.proxy_cpu.unwrap_or(f64::NAN)))
            )
        }));
        cells.push(decimal(figures.throughput_ratio(row, Kind::Respgres, Kind::Twemproxy)));
        cells.push(decimal(figures.cpu_ratio(row, Kind::Respgres, Kind::Twemproxy)));
        cells.extend(ISSUES.map(|issue| goal::judge(figures, row, issue)));
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

fn latency(figures: &Figures) -> String {
    const QUANTILES: [fn(&Measurement) -> f64; 3] =
        [|one| one.p50_us, |one| one.p99_us, |one| one.p999_us];
    let proxies = proxies(figures);
    let mut text = String::from(
        "p50 / p99 / p99.9 in µs, and how far each is above direct Redis. Latency and throughput \
         are of the same run: every client sends its next requests when the last are answered. \
         `c1` is measured by a client of the bench's own, the others by redis-benchmark, in steps \
         of 8 µs.\n\n",
    );
    let mut columns = vec![String::from("workload"), String::from("direct")];
    columns.extend(proxies.iter().map(|kind| kind.name().to_owned()));
    heading(&mut text, &columns);
    for row in &figures.rows {
        let absolute = |kind: Kind| {
            QUANTILES.map(|figure| grouped(figures.median(row, kind, figure))).join(" / ")
        };
        let mut cells = vec![row.clone(), absolute(Kind::Direct)];
        cells.extend(proxies.iter().map(|kind| {
            let above = QUANTILES
                .map(|figure| signed(figures.above_direct(row, *kind, figure)))
                .join(" / ");
            format!("{} ({above})", absolute(*kind))
        }));
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

fn memory(figures: &Figures) -> String {
    if figures.memory.is_empty() {
        return String::from("Not measured.\n");
    }
    let mut text = String::from(
        "Resident MB of a proxy that was just started, and with idle connections that have each \
         done one PING.\n\n",
    );
    heading(
        &mut text,
        &["proxy", "idle", "connections", "with them", "goals of issue 3"].map(String::from),
    );
    for one in &figures.memory {
        let _ = writeln!(
            text,
            "| {} | {:.1} | {} | {:.1} | {} |",
            one.target.name(),
            one.idle_mb,
            grouped(f64::from(one.connections)),
            one.connected_mb,
            verdict(goal::judge_memory(one))
        );
    }
    text
}

fn signed(value: f64) -> String {
    if value < 0.0 { format!("-{}", grouped(-value)) } else { format!("+{}", grouped(value)) }
}
