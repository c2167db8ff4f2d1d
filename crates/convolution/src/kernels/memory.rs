//! The memory of maps that nobody needs any more, for the next that fit into it.
//!
//! What is given back to the system comes again page by page, each to be mapped and cleared; on large maps that takes
//! longer than what is computed on them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

/// Values below which the allocator keeps memory itself: those of 32 MiB, where glibc's `M_MMAP_THRESHOLD` ends.
const FEWEST: usize = 1 << 23;

/// How much larger memory may be than what it is used for: by this part.
const SLACK: usize = 8;

/// Values that a thread sets at once.
const CHUNK: usize = 1 << 16;

static FREE: Mutex<Free> = Mutex::new(Free(Vec::new()));

/// Memory for so many values, all 0.
pub(crate) fn zeros(length: usize) -> Vec<f32> {
    if !keeps(length) {
        return vec![0.0; length];
    }
    let Some(mut memory) = free().take(length) else {
        return vec![0.0; length];
    };
    memory.truncate(length);
    let chunks = memory.par_chunks_mut(CHUNK);
    chunks.for_each(|chunk| chunk.fill(0.0));
    memory.resize(length, 0.0);
    memory
}

/// A copy.
pub(crate) fn copied(values: &[f32]) -> Vec<f32> {
    let mut copy = zeros(values.len());
    let chunks = copy.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK));
    chunks.for_each(|(copy, values)| copy.copy_from_slice(values));
    copy
}

/// Whether memory for so many values is kept.
pub(crate) const fn keeps(length: usize) -> bool {
    length >= FEWEST
}

/// Keeps memory for the next.
pub(crate) fn hand_on(memory: Vec<f32>) {
    if keeps(memory.capacity()) {
        free().put(memory);
    }
}

fn free() -> MutexGuard<'static, Free> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory that nobody uses, by its capacity, with whatever was left in it.
struct Free(Vec<Vec<f32>>);

impl Free {
    fn put(&mut self, memory: Vec<f32>) {
        let smaller = self.smaller(memory.capacity());
        self.0.insert(smaller, memory);
    }

    /// The smallest memory that so many values fit into. Where there is none, other memory for as many values is given
    /// up, so that no more is held in all than was in use at once.
    fn take(&mut self, length: usize) -> Option<Vec<f32>> {
        let mut smaller = self.smaller(length);
        let fits = |memory: &Vec<f32>| memory.capacity() - length <= length / SLACK;
        if self.0.get(smaller).is_some_and(fits) {
            return Some(self.0.remove(smaller));
        }
        let mut given_up = 0;
        while given_up < length && !self.0.is_empty() {
            smaller = smaller.saturating_sub(1);
            given_up += self.0.remove(smaller).capacity();
        }
        None
    }

    /// How many have room for fewer values.
    fn smaller(&self, length: usize) -> usize {
        self.0.partition_point(|memory| memory.capacity() < length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_best_is_taken_and_else_as_much_is_given_up() {
        let capacities = |free: &Free| -> Vec<usize> { free.0.iter().map(Vec::capacity).collect() };
        let mut free = Free(Vec::new());
        for capacity in [300, 100, 200, 110] {
            free.put(Vec::with_capacity(capacity));
        }
        assert_eq!(free.take(98).unwrap().capacity(), 100);
        assert_eq!(free.take(98).unwrap().capacity(), 110);
        assert_eq!(capacities(&free), [200, 300]);
        // What is smaller goes first, then what is larger.
        free.put(Vec::with_capacity(100));
        assert!(free.take(150).is_none());
        assert_eq!(capacities(&free), [300]);
        assert!(free.take(301).is_none() && free.take(1).is_none());
        assert!(free.0.is_empty());
    }

    #[test]
    fn nothing_of_what_was_there_is_left() {
        for length in [FEWEST, FEWEST + 5, FEWEST - 1, 3] {
            hand_on(vec![f32::NAN; FEWEST + 9]);
            assert_eq!(zeros(length), vec![0.0; length]);
            hand_on(vec![f32::NAN; FEWEST + 9]);
            let values: Vec<f32> = (0..length).map(|place| place as f32).collect();
            assert_eq!(copied(&values), values);
        }
    }
}
