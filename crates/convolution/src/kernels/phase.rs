//! The input gradient of a strided convolution: pixels whose coordinates leave the same rest when
//! divided by the stride meet the same taps of the kernel. They are a phase.

use crate::problem::Problem;

/// A tap of the kernel, as an input pixel sees it: which output pixel is `shift` from its own.
pub(crate) struct PhaseTap {
    pub(crate) index: usize,
    shift: [isize; 2],
}

/// The input pixels that meet the same taps.
pub(crate) struct Phase {
    first: [usize; 2],
    pub(crate) taps: Vec<PhaseTap>,
}

/// The pixels of one phase in one row of the input.
pub(crate) struct PhaseRow {
    map: usize,
    /// Of the pixels, counted in strides.
    y: usize,
    xs: usize,
    /// Of the first pixel in the block, and from there to the next.
    place: usize,
    step: usize,
}

impl PhaseRow {
    pub(crate) const fn len(&self) -> usize {
        self.xs
    }

    pub(crate) fn places(&self) -> impl Iterator<Item = usize> {
        (0..self.xs).map(|x| self.place + x * self.step)
    }
}

/// Whole rows of the input, one after another.
pub(crate) struct RowBlock {
    /// `(map, row)`
    pub(crate) rows: Vec<[usize; 2]>,
    pub(crate) pixels: usize,
}

impl Phase {
    pub(crate) fn all(problem: &Problem) -> impl Iterator<Item = Self> {
        let [stride_y, stride_x] = problem.options.stride;
        (0..stride_y).flat_map(move |y| (0..stride_x).map(move |x| Self::new(problem, [y, x])))
    }

    fn new(problem: &Problem, first: [usize; 2]) -> Self {
        let options = problem.options;
        let shift = |axis: usize, tap: usize| {
            let reach = (first[axis] + options.padding[axis]) as isize
                - (tap * options.dilation[axis]) as isize;
            let stride = options.stride[axis] as isize;
            (reach % stride == 0).then_some(reach / stride)
        };
        let [height, width] = problem.kernel;
        let mut taps = Vec::new();
        for (tap_y, tap_x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            if let (Some(shift_y), Some(shift_x)) = (shift(0, tap_y), shift(1, tap_x)) {
                taps.push(PhaseTap {
                    index: tap_y * width + tap_x,
                    shift: [shift_y, shift_x],
                });
            }
        }
        Self { first, taps }
    }

    pub(crate) fn pixels(&self, problem: &Problem, block: &RowBlock) -> Vec<PhaseRow> {
        let [stride_y, stride_x] = problem.options.stride;
        let mut start = 0;
        let mut rows = Vec::new();
        for &[map, y] in &block.rows {
            let [_, width] = problem.maps_in.sizes()[map];
            if y % stride_y == self.first[0] && self.first[1] < width {
                rows.push(PhaseRow {
                    map,
                    y: y / stride_y,
                    xs: (width - self.first[1]).div_ceil(stride_x),
                    place: start + self.first[1],
                    step: stride_x,
                });
            }
            start += width;
        }
        rows
    }

    /// Writes the gradients that the pixels gather to `columns`, `[pixels, taps, outputs]`.
    pub(crate) fn gather(
        &self,
        problem: &Problem,
        group: usize,
        gradient: &[f32],
        pixels: &[PhaseRow],
        columns: &mut [f32],
    ) {
        let outputs = problem.outputs_per_group();
        let starts: Vec<usize> = problem.maps_out.ranges().map(|range| range.start).collect();
        let windows = pixels
            .iter()
            .flat_map(|row| (0..row.xs).map(move |x| (row, x)));
        let columns = columns.chunks_exact_mut(self.taps.len() * outputs);
        for ((row, x), window) in windows.zip(columns) {
            let [height, width] = problem.maps_out.sizes()[row.map];
            for (tap, values) in self.taps.iter().zip(window.chunks_exact_mut(outputs)) {
                let y = row.y as isize + tap.shift[0];
                let x = x as isize + tap.shift[1];
                if (0..height as isize).contains(&y) && (0..width as isize).contains(&x) {
                    let pixel = starts[row.map] + y as usize * width + x as usize;
                    let start = pixel * problem.outputs + group * outputs;
                    values.copy_from_slice(&gradient[start..start + outputs]);
                } else {
                    values.fill(0.0);
                }
            }
        }
    }
}
