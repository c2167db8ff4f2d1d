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

/// Words that a piece has in the buffer: its first byte, left and upper end, width, height, and whether it is mirrored
/// and upside down.
pub(super) const PIECE_WORDS: usize = 6;

/// Normalises, mirrors and pads: `images` is `[items, height, width, 3]`, `first_pieces` says where the pieces of each
/// image begin and end, and `numbers` has means, deviations and places of the channels, then the pieces' weights.
#[cube(launch)]
pub(super) fn normalize(
    bytes: &[u32],
    first_pieces: &[u32],
    pieces: &[u32],
    numbers: &[f32],
    images: &mut [f32],
    height: usize,
    width: usize,
) {
    let place = ABSOLUTE_POS;
    if place < images.len() {
        let channel = place % 3;
        let column = place / 3 % width;
        let row = place / 3 / width % height;
        let item = place / 3 / width / height;
        let mut sum = 0.0f32;
        for piece in first_pieces[item] as usize..first_pieces[item + 1] as usize {
            let word = piece * PIECE_WORDS;
            let left = pieces[word + 1] as usize;
            let top = pieces[word + 2] as usize;
            let piece_width = pieces[word + 3] as usize;
            let piece_height = pieces[word + 4] as usize;
            let inside = column >= left
                && column < left + piece_width
                && row >= top
                && row < top + piece_height;
            if inside {
                let flags = pieces[word + 5];
                let x = column - left;
                let y = row - top;
                let x = select(flags & 1u32 == 1u32, piece_width - 1 - x, x);
                let y = select(flags & 2u32 == 2u32, piece_height - 1 - y, y);
                let byte = pieces[word] as usize
                    + (y * piece_width + x) * 3
                    + numbers[6 + channel] as usize;
                let value = (bytes[byte / 4] >> ((byte % 4) as u32 * 8u32)) & 255u32;
                let number = (value as f32 - numbers[channel]) / numbers[3 + channel];
                sum += numbers[9 + piece] * number;
            }
        }
        images[place] = sum;
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
