//! The kernels that find candidates on GPUs, in `CubeCL`'s subset of Rust. A cube is a workgroup, a unit a thread.

#![expect(
    clippy::needless_range_loop,
    reason = "kernels know loops over numbers alone"
)]

use cubecl::prelude::*;

/// Bins of a histogram of logits.
pub(super) const BINS: usize = 1024;

/// Below it all logits are in the first bin, and [`HIGHEST`] and above in the last: no two logits with the same
/// score in f32 are further apart than a bin between them.
const LOWEST: f32 = -12.0;
const HIGHEST: f32 = 10.0;

/// Values that a candidate has in the buffer: its logit and its deltas.
pub(super) const VALUES: usize = 5;

/// Where a logit is: image and level as one place, and its place within the level.
#[derive(CubeType)]
struct Position {
    group: usize,
    index: usize,
    level: usize,
    anchor: usize,
}

/// Makes all counts 0.
#[cube(launch)]
pub(super) fn clear(counts: &mut [u32]) {
    if ABSOLUTE_POS < counts.len() {
        counts[ABSOLUTE_POS] = 0u32;
    }
}

/// Counts the logits above the bar of their level: `histogram` is `[images, levels, BINS]`, `starts` the first anchor
/// of each level and the end, `bars` one for each level.
#[cube(launch)]
pub(super) fn count(
    logits: &[f32],
    starts: &[u32],
    bars: &[f32],
    histogram: &[Atomic<u32>],
    anchors: usize,
    classes: usize,
) {
    if ABSOLUTE_POS < logits.len() {
        let logit = logits[ABSOLUTE_POS];
        let at = position(ABSOLUTE_POS, starts, anchors, classes, bars.len());
        if logit > bars[at.level] {
            histogram[at.group * BINS + bin(logit)].fetch_add(1u32);
        }
    }
}

/// The lowest bin of each image's level from which on there are `wanted` logits, and one more: two logits of the same
/// score may be in two bins.
#[cube(launch)]
pub(super) fn choose(histogram: &[u32], lowest: &mut [u32], wanted: u32) {
    let group = ABSOLUTE_POS;
    if group < lowest.len() {
        let mut total = 0u32;
        let mut chosen = 0u32;
        let mut open = true;
        for step in 0..BINS {
            let place = BINS - 1 - step;
            if open {
                total += histogram[group * BINS + place];
                if total >= wanted {
                    chosen = select(place > 0, place as u32, 1u32) - 1;
                    open = false;
                }
            }
        }
        lowest[group] = chosen;
    }
}

/// Collects the logits from those bins on: `found` counts those of each image's level, `places` `[groups, room]` and
/// `values` `[groups, room, VALUES]` are filled in any order, as far as there is room.
#[cube(launch)]
pub(super) fn collect(
    logits: &[f32],
    deltas: &[f32],
    starts: &[u32],
    bars: &[f32],
    lowest: &[u32],
    found: &[Atomic<u32>],
    places: &mut [u32],
    values: &mut [f32],
    anchors: usize,
    classes: usize,
    room: usize,
) {
    if ABSOLUTE_POS < logits.len() {
        let logit = logits[ABSOLUTE_POS];
        let at = position(ABSOLUTE_POS, starts, anchors, classes, bars.len());
        if logit > bars[at.level] && bin(logit) as u32 >= lowest[at.group] {
            let slot = found[at.group].fetch_add(1u32) as usize;
            if slot < room {
                let place = at.group * room + slot;
                places[place] = at.index as u32;
                values[place * VALUES] = logit;
                for edge in 0..4 {
                    values[place * VALUES + 1 + edge] = deltas[at.anchor * 4 + edge];
                }
            }
        }
    }
}

/// A logit's bin: a higher logit is never in a lower one.
#[cube]
fn bin(logit: f32) -> usize {
    let kept = clamp(logit, LOWEST, HIGHEST);
    let place = (kept - LOWEST) * comptime!((BINS - 1) as f32 / (HIGHEST - LOWEST));
    place as usize
}

#[cube]
fn position(
    place: usize,
    starts: &[u32],
    anchors: usize,
    classes: usize,
    levels: usize,
) -> Position {
    let anchor = place / classes;
    let image = anchor / anchors;
    let within = anchor % anchors;
    let mut level = 0;
    for next in 1..levels {
        if within >= starts[next] as usize {
            level = next;
        }
    }
    Position {
        group: image * levels + level,
        index: (within - starts[level] as usize) * classes + place % classes,
        level,
        anchor,
    }
}
