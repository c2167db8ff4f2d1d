//! Where the cells of a level are.

use std::ops::Range;

/// The centres of a level's cells along one side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Centers {
    pub(crate) count: usize,
    pub(crate) spacing: usize,
    /// Where the first centre is, in cells.
    pub(crate) offset: f32,
}

impl Centers {
    /// The centre of a cell.
    pub(crate) fn position(self, index: usize) -> f32 {
        (index as f32 + self.offset) * self.spacing as f32
    }

    /// The places of the centres that are within so many steps of a point, or of the end that it lies beyond.
    pub(crate) fn within(self, point: f32, steps: usize) -> Range<usize> {
        let place = point / self.spacing.max(1) as f32 - self.offset;
        let last = self.count.saturating_sub(1);
        let nearest = (place.round().max(0.0) as usize).min(last);
        nearest.saturating_sub(steps)..self.count.min(nearest + steps + 1)
    }

    /// The nearest centres on both sides of a point; one more on each, since rounding may move the
    /// point over a centre.
    pub(crate) fn around(self, point: f32) -> impl Iterator<Item = f32> {
        let place = point / self.spacing.max(1) as f32 - self.offset;
        let last = self.count.saturating_sub(1);
        let first = (place.floor().max(0.0) as usize)
            .saturating_sub(1)
            .min(last);
        (first..self.count.min(first + 4)).map(move |index| self.position(index))
    }
}
