//! The keys of a page in as few passes as there is room for their values.
//!
//! A pass has no room for some of its keys. They go again, together: with values that are long but not too long for
//! company a page would else be as many round trips as it has keys. But what a pass has no room for was sent by Postgres
//! in vain, so that the next one has no more than twice as many keys as this one took.

use std::collections::VecDeque;

/// Those that are still to come, in their order.
pub(super) struct Passes<K> {
    to_come: VecDeque<K>,
    /// Keys of a pass.
    most: usize,
    /// So many of the first have come together, and none of them found room: each comes by itself.
    alone: usize,
}

// === impl Passes ===

impl<K: Clone> Passes<K> {
    pub(super) fn of(page: &[K]) -> Self {
        Self { to_come: page.to_vec().into(), most: page.len(), alone: 0 }
    }

    /// The keys of the next pass; `None`: it was the last one.
    pub(super) fn next(&mut self) -> Option<Vec<K>> {
        if self.to_come.is_empty() {
            return None;
        }
        let count = if self.alone > 0 { 1 } else { self.most.min(self.to_come.len()) };
        self.alone = self.alone.saturating_sub(1);
        Some(self.to_come.drain(..count).collect())
    }

    /// There was no room for the keys at these places of a pass; for one by itself there is.
    pub(super) fn put_back(&mut self, pass: Vec<K>, left: &[usize]) {
        if pass.len() == 1 {
            return;
        }
        match pass.len() - left.len() {
            0 => self.alone = left.len(),
            taken => self.most = 2 * taken,
        }
        for place in left.iter().rev() {
            self.to_come.push_front(pass[*place].clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The passes of values that take so much room, of which there is 10; what takes more than 5 has none beside others.
    fn passes(sizes: &[usize]) -> Vec<Vec<usize>> {
        let (mut passes, mut all) = (Passes::of(sizes), Vec::new());
        while let Some(pass) = passes.next() {
            let (mut room, mut left) = (10_usize, Vec::new());
            for (place, size) in pass.iter().enumerate().filter(|_| pass.len() > 1) {
                match room.checked_sub(*size).filter(|_| *size <= 5) {
                    Some(rest) => room = rest,
                    None => left.push(place),
                }
            }
            all.push(pass.clone());
            passes.put_back(pass, &left);
        }
        all
    }

    #[test]
    fn what_is_left_goes_again_in_passes_of_twice_what_was_taken() {
        assert_eq!(passes(&[1; 10]), [[1; 10]]);
        assert!(passes(&[]).is_empty());
        let told = passes(&[5; 9]);
        let counts: Vec<usize> = told.iter().map(Vec::len).collect();
        assert_eq!(counts, [9, 4, 4, 3, 1]);
    }

    #[test]
    fn only_what_has_no_room_beside_others_comes_by_itself() {
        assert_eq!(passes(&[9, 1, 8, 1]), [&[9, 1, 8, 1][..], &[9, 8], &[9], &[8]]);
        // The last one found no room as it came late.
        let expected = [&[8, 5, 7, 5, 5][..], &[8, 7, 5], &[8, 7], &[8], &[7]];
        assert_eq!(passes(&[8, 5, 7, 5, 5]), expected);
    }
}
