//! When a cached copy ends, and what its end says.
//!
//! A copy ends when the mapping says, or sooner when the key has an end of its own. Which of the two it was
//! can be told from the end: it is odd (in milliseconds) when the key has one of its own. Writing behind
//! needs to know, atomically with the write: a value with changes that Postgres lacks has no end in Redis, so
//! it must not be one that ends by itself (`lua/behind.lua`).

/// The end of a copy that may live for `left_ms` from now on; never later than that.
pub(super) fn ends_at_ms(now_ms: i64, left_ms: i64, expires: bool) -> i64 {
    let ends_at_ms = now_ms.saturating_add(left_ms);
    let is_odd = ends_at_ms.rem_euclid(2) == 1;
    if is_odd == expires { ends_at_ms } else { ends_at_ms.saturating_sub(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_says_whose_it_is_and_is_never_later() {
        for (left_ms, expires, expected) in
            [(10, false, 110), (10, true, 109), (11, false, 110), (11, true, 111), (0, true, 99)]
        {
            assert_eq!(ends_at_ms(100, left_ms, expires), expected, "{left_ms} {expires}");
        }
        assert_eq!(ends_at_ms(i64::MAX, 5, false), i64::MAX - 1);
    }
}
