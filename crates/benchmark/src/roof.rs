//! What the CPU can do at most: the roofline of Williams, Waterman and Patterson (2009), measured.
#![expect(
    clippy::inline_always,
    reason = "what is not inlined is not compiled for the CPU at hand"
)]

use std::hint::black_box;
use std::time::Instant;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::Measurement;
use crate::measurement::Timing;

/// How often each is measured.
const REPEATS: usize = 5;
/// Rounds of the chains of products and sums: some 50 ms.
const ROUNDS: usize = 10_000_000;
/// Chains that do not wait for each other: more than two units with a latency of four keep busy, and fewer than the 16
/// registers of AVX2.
const CHAINS: usize = 12;
/// Values of each of three arrays, far beyond all caches.
const VALUES: usize = 1 << 25;
/// Values that a thread takes at once.
const CHUNK: usize = 1 << 16;

/// The most that all threads together can do.
pub(crate) struct Roof {
    operations: Work,
    memory: Work,
}

/// So much work, and the seconds that it took, each time.
struct Work {
    amount: f64,
    seconds: Vec<f64>,
}

impl Roof {
    pub(crate) fn measure() -> Self {
        Self {
            operations: operations(),
            memory: memory(),
        }
    }

    /// The seconds that so much work takes at least: its operations or its memory, whichever takes longer.
    pub(crate) fn least_s(&self, operations: f64, bytes: f64) -> f64 {
        let computing = operations / self.operations.rate();
        let moving = bytes / self.memory.rate();
        computing.max(moving)
    }

    /// What was measured.
    pub(crate) fn measurements(&self) -> [Measurement; 2] {
        let timing = |work: &Work| Timing {
            seconds: work.seconds.clone(),
            device: None,
        };
        let operations = Measurement::new(
            "machine",
            "products and sums in registers".to_owned(),
            timing(&self.operations),
        );
        let memory = format!(
            "{:.1} GB/s of memory, a = b + s·c",
            self.memory.rate() / 1e9
        );
        [
            operations.with_operations(self.operations.amount),
            Measurement::new("machine", memory, timing(&self.memory)),
        ]
    }
}

impl Work {
    /// Of the fastest time: what else runs only slows down.
    fn rate(&self) -> f64 {
        let fastest = self.seconds.iter().copied().fold(f64::INFINITY, f64::min);
        self.amount / fastest
    }
}

fn timed(mut work: impl FnMut() -> f64) -> Work {
    let mut amount = 0.0;
    let seconds = (0..REPEATS).map(|_| {
        let start = Instant::now();
        amount = work();
        start.elapsed().as_secs_f64()
    });
    let seconds = seconds.collect();
    Work { amount, seconds }
}

/// Fused products and sums, on vectors as wide as the CPU has them.
fn operations() -> Work {
    struct Chains;

    impl WithSimd for Chains {
        type Output = f64;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> f64 {
            // Numbers that the compiler does not know, or it would work out the sums itself.
            let [factor, summand] = black_box([0.5, 0.25]).map(|value| simd.splat_f32s(value));
            let mut chains = [simd.splat_f32s(1.0); CHAINS];
            for _ in 0..ROUNDS {
                for chain in &mut chains {
                    *chain = simd.mul_add_f32s(*chain, factor, summand);
                }
            }
            for chain in chains {
                black_box(simd.reduce_sum_f32s(chain));
            }
            2.0 * (ROUNDS * CHAINS * S::F32_LANES) as f64
        }
    }

    timed(|| {
        let of_threads = rayon::broadcast(|_| Arch::new().dispatch(Chains));
        of_threads.iter().sum()
    })
}

/// STREAM's triad: bytes read and written.
fn memory() -> Work {
    let [mut a, b, c] = [0.0_f32, 1.0, 2.0].map(|value| vec![value; VALUES]);
    timed(|| {
        let chunks = a.par_chunks_mut(CHUNK);
        let chunks = chunks.zip(b.par_chunks(CHUNK)).zip(c.par_chunks(CHUNK));
        chunks.for_each(|((a, b), c)| {
            for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
                *a = b + 3.0 * c;
            }
        });
        black_box(&mut a);
        (3 * size_of::<f32>() * VALUES) as f64
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_computing_and_moving_decides() {
        let work = |amount: f64| Work {
            amount,
            seconds: vec![2.0, 1.0],
        };
        let roof = Roof {
            operations: work(100.0),
            memory: work(10.0),
        };
        assert_eq!(roof.least_s(300.0, 10.0), 3.0);
        assert_eq!(roof.least_s(300.0, 50.0), 5.0);
    }
}
