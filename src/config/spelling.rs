//! What an operator may have meant by a word that does not exist.

/// The word of `known` that is most like `word`, unless none is.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).max(1);
    let distances = known.iter().map(|known| (distance(word, known), *known));
    distances.filter(|(distance, _)| *distance <= allowed).min().map(|(_, known)| known)
}

/// The end of a complaint about an unknown word: the nearest known one, or all of them.
pub(super) fn advice(word: &str, known: &[&str]) -> String {
    match nearest(word, known) {
        Some(nearest) => format!("did you mean {nearest:?}?"),
        None => format!("there are: {}", known.join(", ")),
    }
}

/// How many characters one has to insert, remove or change, or neighbours to swap (optimal
/// string alignment distance); case and the kind of dash do not count.
fn distance(one: &str, other: &str) -> usize {
    let plain = |text: &str| text.to_lowercase().replace('-', "_").chars().collect::<Vec<_>>();
    let (one, other) = (plain(one), plain(other));
    let mut rows = vec![(0..=other.len()).collect::<Vec<_>>()];
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let mut cost =
                (rows[i][j] + usize::from(a != b)).min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                cost = cost.min(rows[i - 1][j - 1] + 1);
            }
            row.push(cost);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_offered_when_it_is_near() {
        let known = ["listen", "threads", "max_clients"];
        assert_eq!(nearest("lisetn", &known), Some("listen"));
        assert_eq!(nearest("maxClients", &known), Some("max_clients"));
        assert_eq!(nearest("max-clients", &known), Some("max_clients"));
        assert_eq!(nearest("port", &known), None);
        assert_eq!(nearest("", &known), None);
        assert_eq!(advice("port", &known), "there are: listen, threads, max_clients");
    }
}
