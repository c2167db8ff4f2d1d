//! The processes that train together.

/// The processes that train together: each computes the gradients of its shard of every batch, and
/// all take the same step. All of them call the same operations, in the same order.
///
/// Where one of them dies, the others are ended by who started them.
pub trait Communicator {
    /// Which of them this is, from 0; the first leads.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Sums the values of all, place by place; all get the same bits.
    fn all_reduce(&self, values: &mut [f32]);

    /// Values of all, in the order of their ranks, for all.
    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>>;

    /// The value of rank 0, for all; those of the others are not used.
    fn broadcast(&self, bytes: Vec<u8>) -> Vec<u8>;
}
