//! The plot: a bar for each row and proxy, throughput as a share of direct Redis, as SVG.

use std::fmt::Write as _;

use crate::figures::Figures;
use crate::goal;
use crate::target::Kind;

/// All lengths are pixels.
const LABELS: f64 = 140.0;
const BARS: f64 = 600.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 56.0;
const BAR: f64 = 9.0;
const GAP: f64 = 10.0;
const BOTTOM: f64 = 12.0;

/// Longer bars are cut off here; their figure says how long they are.
const MOST: f64 = 2.0;

fn color(kind: Kind) -> &'static str {
    match kind {
        Kind::Direct => "#444444",
        Kind::Twemproxy => "#9fb3c8",
        Kind::Haproxy => "#e0b973",
        Kind::Respgres => "#1f6f54",
    }
}

pub(crate) fn draw(figures: &Figures) -> String {
    let proxies: Vec<Kind> =
        Kind::PROXIES.into_iter().filter(|kind| figures.has_target(*kind)).collect();
    let pitch = proxies.len() as f64 * BAR + GAP;
    let bottom = TOP + figures.rows.len() as f64 * pitch;
    let (width, height) = (LABELS + BARS + RIGHT, bottom + BOTTOM);
    let largest = figures
        .rows
        .iter()
        .flat_map(|row| {
            proxies.iter().map(|kind| figures.throughput_ratio(row, *kind, Kind::Direct))
        })
        .filter(|ratio| ratio.is_finite())
        .fold(1.0, f64::max);
    // The axis ends at a multiple of a quarter.
    let end = ((largest * 4.0).ceil() / 4.0).min(MOST);
    let x = |ratio: f64| LABELS + BARS * ratio.min(end) / end;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\" font-family=\"sans-serif\" \
         font-size=\"11\" fill=\"#222222\">\n\
         <title>Throughput of each proxy as a share of direct Redis</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    legend(&mut svg, &proxies);
    grid(&mut svg, end, bottom, x);
    for (index, row) in figures.rows.iter().enumerate() {
        let y = TOP + index as f64 * pitch + GAP / 2.0;
        let middle = y + proxies.len() as f64 * BAR / 2.0 + 4.0;
        element(
            &mut svg,
            &format!(
                "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{row}</text>",
                LABELS - 8.0
            ),
        );
        for (place, kind) in proxies.iter().enumerate() {
            let ratio = figures.throughput_ratio(row, *kind, Kind::Direct);
            if ratio.is_finite() {
                bar(&mut svg, row, *kind, ratio, y + place as f64 * BAR, x);
            }
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn bar(svg: &mut String, row: &str, kind: Kind, ratio: f64, y: f64, x: impl Fn(f64) -> f64) {
    element(
        svg,
        &format!(
            "<rect x=\"{LABELS}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" fill=\"{}\">\
             <title>{row}, {}: {ratio:.2}</title></rect>",
            x(ratio) - LABELS,
            BAR - 1.0,
            color(kind),
            kind.name()
        ),
    );
    if kind != Kind::Respgres {
        return;
    }
    if let Some(goal) = goal::share_of_direct(row) {
        element(
            svg,
            &format!(
                "<rect x=\"{:.1}\" y=\"{}\" width=\"2\" height=\"{}\" fill=\"#c62828\"/>",
                x(goal) - 1.0,
                y - 2.0,
                BAR + 3.0
            ),
        );
    }
    // Beyond the goal's mark where that would hide it.
    let figure = x(ratio.max(goal::share_of_direct(row).unwrap_or(0.0))) + 5.0;
    element(
        svg,
        &format!(
            "<text x=\"{figure:.1}\" y=\"{}\" font-size=\"10\" stroke=\"#ffffff\" \
             stroke-width=\"3\" paint-order=\"stroke\">{ratio:.2}</text>",
            y + BAR - 1.0
        ),
    );
}

fn legend(svg: &mut String, proxies: &[Kind]) {
    let mut x = LABELS;
    for kind in proxies {
        element(
            svg,
            &format!(
                "<rect x=\"{x}\" y=\"8\" width=\"11\" height=\"11\" fill=\"{}\"/>\
                 <text x=\"{}\" y=\"18\">{}</text>",
                color(*kind),
                x + 16.0,
                kind.name()
            ),
        );
        x += 90.0;
    }
    element(
        svg,
        &format!(
            "<rect x=\"{x}\" y=\"7\" width=\"2\" height=\"13\" fill=\"#c62828\"/>\
             <text x=\"{}\" y=\"18\">goal of issue 3</text>\
             <text x=\"{}\" y=\"18\">requests/s, direct Redis = 1</text>",
            x + 8.0,
            x + 110.0
        ),
    );
}

fn grid(svg: &mut String, end: f64, bottom: f64, x: impl Fn(f64) -> f64) {
    for quarter in 0..=(end * 4.0).round() as u32 {
        let ratio = f64::from(quarter) / 4.0;
        let place = x(ratio);
        let (stroke, width) = if quarter == 4 { ("#444444", 1.5) } else { ("#dddddd", 1.0) };
        element(
            svg,
            &format!(
                "<line x1=\"{place:.1}\" y1=\"{}\" x2=\"{place:.1}\" y2=\"{bottom}\" \
                 stroke=\"{stroke}\" stroke-width=\"{width}\"/>\
                 <text x=\"{place:.1}\" y=\"{}\" text-anchor=\"middle\">{ratio:.2}</text>",
                TOP - 6.0,
                TOP - 12.0
            ),
        );
    }
}

fn element(svg: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(svg, "{text}");
}
