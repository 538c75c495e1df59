//! Figures: medians over rounds, quantiles over latencies, and how a table shows them.

/// The middle value; the mean of the two middle ones when their number is even. `NAN` for none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// The value that the share `q` (0 to 1) of `sorted` does not exceed. `NAN` for none.
pub(crate) fn quantile(sorted: &[u32], q: f64) -> f64 {
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map_or(f64::NAN, |value| f64::from(*value))
}

/// A number with thousands separated: `123,456`.
pub(crate) fn grouped(value: f64) -> String {
    if !value.is_finite() {
        return String::from("-");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with two decimals, or a dash for "not measured".
pub(crate) fn decimal(value: f64) -> String {
    if value.is_finite() { format!("{value:.2}") } else { String::from("-") }
}

/// "yes" or "NO": whether a goal holds; a dash when it could not be judged.
pub(crate) fn verdict(holds: Option<bool>) -> &'static str {
    match holds {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "-",
    }
}
