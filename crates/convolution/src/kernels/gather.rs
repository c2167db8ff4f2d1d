//! Columns of a convolution ("im2col"), a block at a time, so that the whole matrix never exists.

use std::ops::Range;

use crate::problem::Problem;
use crate::shape::{ConvOptions, Maps};

/// Which part of the columns is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    /// Taps of the kernel, counted row by row.
    pub(crate) taps: Range<usize>,
    /// Channels of each tap.
    pub(crate) channels: Range<usize>,
}

impl Columns {
    pub(crate) fn len(&self) -> usize {
        self.taps.len() * self.channels.len()
    }

    /// The same with channels counted from the first of their group, which has so many.
    pub(crate) fn in_group_of(&self, size: usize) -> Self {
        let first = self.channels.start % size;
        Self {
            taps: self.taps.clone(),
            channels: first..first + self.channels.len(),
        }
    }
}

/// The input of a convolution and how its windows lie on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows<'a, T> {
    /// `[pixels, channels]`
    input: &'a [T],
    /// What lies around the maps.
    zero: T,
    channels: usize,
    maps_in: &'a Maps,
    maps_out: &'a Maps,
    kernel: [usize; 2],
    options: ConvOptions,
}

impl<'a, T: Copy> Windows<'a, T> {
    pub(crate) const fn new(problem: &'a Problem, input: &'a [T], zero: T) -> Self {
        Self {
            input,
            zero,
            channels: problem.inputs,
            maps_in: &problem.maps_in,
            maps_out: &problem.maps_out,
            kernel: problem.kernel,
            options: problem.options,
        }
    }

    /// Writes the windows of the output pixels `pixels` to `columns`, `[pixels, taps, channels]`.
    pub(crate) fn gather(&self, pixels: Range<usize>, part: &Columns, columns: &mut [T]) {
        let starts: Vec<usize> = self.maps_in.ranges().map(|range| range.start).collect();
        let window = part.len();
        let mut rest = columns;
        for row in self.maps_out.rows_in(pixels) {
            let size = self.maps_in.sizes()[row.map];
            let map = &self.input[starts[row.map] * self.channels..];
            let (block, after) = rest.split_at_mut(row.x.len() * window);
            rest = after;
            for (x, window) in row.x.zip(block.chunks_exact_mut(window)) {
                self.gather_window(map, size, [row.y, x], part, window);
            }
        }
    }

    /// One window, kernel row by kernel row.
    fn gather_window(
        &self,
        map: &[T],
        [height, width]: [usize; 2],
        [y, x]: [usize; 2],
        part: &Columns,
        mut window: &mut [T],
    ) {
        let [_, kernel_width] = self.kernel;
        let ConvOptions {
            stride,
            padding,
            dilation,
            ..
        } = self.options;
        let mut tap = part.taps.start;
        while tap < part.taps.end {
            let (tap_y, tap_x) = (tap / kernel_width, tap % kernel_width);
            let taps = (kernel_width - tap_x).min(part.taps.end - tap);
            tap += taps;
            let (row, after) = window.split_at_mut(taps * part.channels.len());
            window = after;
            let in_y = (y * stride[0] + tap_y * dilation[0]).wrapping_sub(padding[0]);
            if in_y >= height {
                row.fill(self.zero);
                continue;
            }
            let line = &map[in_y * width * self.channels..][..width * self.channels];
            let first = (x * stride[1] + tap_x * dilation[1]) as isize - padding[1] as isize;
            self.gather_line(line, first, part, row);
        }
    }

    /// The taps of one kernel row, the first at pixel `first` of the line.
    fn gather_line(&self, line: &[T], first: isize, part: &Columns, row: &mut [T]) {
        let step = self.options.dilation[1] as isize;
        let width = (line.len() / self.channels) as isize;
        let taps = (row.len() / part.channels.len()) as isize;
        if step == 1 && part.channels.len() == self.channels && first >= 0 && first + taps <= width
        {
            row.copy_from_slice(&line[first as usize * self.channels..][..row.len()]);
            return;
        }
        let pixels = (0..taps).map(|tap| first + tap * step);
        for (pixel, values) in pixels.zip(row.chunks_exact_mut(part.channels.len())) {
            if (0..width).contains(&pixel) {
                let start = pixel as usize * self.channels + part.channels.start;
                values.copy_from_slice(&line[start..start + values.len()]);
            } else {
                values.fill(self.zero);
            }
        }
    }
}
