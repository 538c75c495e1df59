//! How values are spread: counts of those up to each of a few bounds.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of values, which are whole numbers of some unit.
#[derive(Debug)]
pub struct Histogram {
    /// The largest value of each bucket, ascending; one more bucket takes what is above.
    bounds: &'static [u64],
    /// What a value of 1 is told as.
    unit: f64,
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// A histogram as it is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// For each bound how many values were not above it.
    pub buckets: Vec<(f64, u64)>,
    pub sum: f64,
    pub count: u64,
}

// === impl Histogram ===

impl Histogram {
    pub(super) fn new(bounds: &'static [u64], unit: f64) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, unit, counts, sum: AtomicU64::new(0) }
    }

    pub fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    #[allow(clippy::cast_precision_loss, reason = "what is told need not be exact beyond 2^52")]
    pub fn snapshot(&self) -> Snapshot {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(self.bounds.len());
        for (at, bucket) in self.counts.iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            if let Some(bound) = self.bounds.get(at) {
                // Divided, as 1e-6 has no exact form: 0.0025 is to be told as such.
                buckets.push((*bound as f64 / (1.0 / self.unit).round(), count));
            }
        }
        let sum = self.sum.load(Ordering::Relaxed) as f64 * self.unit;
        Snapshot { buckets, sum, count }
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Adds another one of the same bounds.
    pub(super) fn add(&mut self, other: Self) {
        if self.buckets.is_empty() {
            *self = other;
            return;
        }
        for (bucket, (_, count)) in self.buckets.iter_mut().zip(other.buckets) {
            bucket.1 += count;
        }
        self.sum += other.sum;
        self.count += other.count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_in_all_buckets_that_it_is_not_above() {
        let histogram = Histogram::new(&[500, 2500], 1e-6);
        for value in [1, 500, 501, 2500, 9000] {
            histogram.observe(value);
        }
        let told = histogram.snapshot();
        assert_eq!(told.buckets, [(0.0005, 2), (0.0025, 4)]);
        assert_eq!(told.count, 5);
        assert!((told.sum - 0.012_502).abs() < 1e-9, "{}", told.sum);
    }

    #[test]
    fn those_of_several_loops_are_one() {
        let histograms = [(); 2].map(|()| Histogram::new(&[500, 2500], 1e-6));
        histograms[0].observe(400);
        histograms[1].observe(600);
        histograms[1].observe(9000);
        let mut told = Snapshot::default();
        histograms.iter().for_each(|histogram| told.add(histogram.snapshot()));
        assert_eq!(told.buckets, [(0.0005, 1), (0.0025, 2)]);
        assert_eq!(told.count, 3);
        assert!((told.sum - 0.01).abs() < 1e-9, "{}", told.sum);
    }
}
