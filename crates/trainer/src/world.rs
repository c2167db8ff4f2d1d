//! The processes that train together.

/// The processes that train together: each computes the gradients of its share of every batch, and
/// all take the same step. What is said here is said by all of them, in the same order.
///
/// Where one of them dies, the others are ended by who started them.
pub trait World {
    /// Which of them this is, from 0; the first leads.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Adds up the values of all, place by place; all get the same bits.
    fn sum(&self, values: &mut [f32]);

    /// What each of them gives, in the order of their ranks, for all.
    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>>;

    /// What the first gives, for all; what the others give is not used.
    fn broadcast(&self, bytes: Vec<u8>) -> Vec<u8>;
}
