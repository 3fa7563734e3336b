//! Round trips in buckets of at most a sixteenth of their value.

use std::time::Duration;

const BUCKETS: usize = 1024;
/// Buckets of each power of two.
const PARTS: u64 = 16;

#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            max: Duration::ZERO,
        }
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, time: Duration) {
        self.counts[bucket(time)] += 1;
        self.max = self.max.max(time);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (own, count) in self.counts.iter_mut().zip(&other.counts) {
            *own += count;
        }
        self.max = self.max.max(other.max);
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(crate) fn max(&self) -> Duration {
        self.max
    }

    /// The time that so many of a thousand do not pass.
    pub(crate) fn quantile(&self, per_thousand: u64) -> Duration {
        let wanted = (self.count() * per_thousand).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return ceiling(bucket).min(self.max);
            }
        }
        self.max
    }
}

/// Microseconds up to [`PARTS`] have buckets of their own.
fn bucket(time: Duration) -> usize {
    let micros = time.as_micros() as u64;
    if micros < PARTS {
        return micros as usize;
    }
    let shift = u64::from(micros.ilog2() - PARTS.ilog2());
    let index = (shift + 1) * PARTS + (micros >> shift) - PARTS;
    (index as usize).min(BUCKETS - 1)
}

fn ceiling(bucket: usize) -> Duration {
    let bucket = bucket as u64;
    if bucket < PARTS {
        return Duration::from_micros(bucket);
    }
    let shift = bucket / PARTS - 1;
    Duration::from_micros(((bucket % PARTS + PARTS + 1) << shift) - 1)
}
