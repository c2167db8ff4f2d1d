use std::f32::consts::{PI, TAU};

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

/// What an object is made of, whatever its form: a family of patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surface {
    Plain,
    Striped,
    Spotted,
    Checked,
    Marbled,
    Grained,
}

impl Surface {
    pub(super) const ALL: [Self; 6] = [
        Self::Plain,
        Self::Striped,
        Self::Spotted,
        Self::Checked,
        Self::Marbled,
        Self::Grained,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Striped => "striped",
            Self::Spotted => "spotted",
            Self::Checked => "checked",
            Self::Marbled => "marbled",
            Self::Grained => "grained",
        }
    }

    pub(super) fn any(rng: &mut impl Rng) -> Self {
        *Self::ALL.choose(rng).expect("there are surfaces")
    }
}

/// A pattern of a surface: how far each point is on the way from one colour to the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pattern {
    surface: Surface,
    turn: f32,
    /// Against the spacing: of stripes, spots, checks.
    duty: f32,
    seed: u32,
}

impl Pattern {
    pub(super) fn sample(surface: Surface, rng: &mut impl Rng) -> Self {
        Self {
            surface,
            turn: rng.random_range(0.0..TAU),
            duty: rng.random_range(0.3..=0.6),
            seed: rng.random(),
        }
    }

    /// The share of the second colour at a point, in units of the pattern's spacing.
    pub(super) fn at(&self, [x, y]: [f32; 2]) -> f32 {
        let (sin, cos) = self.turn.sin_cos();
        let [x, y] = [x * cos - y * sin, x * sin + y * cos];
        match self.surface {
            Surface::Plain => 0.15 * waves([0.3 * x, 0.3 * y], self.seed),
            Surface::Striped => edge(triangle(x + 0.15 * waves([x, y], self.seed)), self.duty),
            Surface::Spotted => self.spots([x, y]),
            Surface::Checked => {
                let [across, down] = [x, y].map(|it| edge(triangle(it), 0.5));
                across * down + (1.0 - across) * (1.0 - down)
            }
            Surface::Marbled => {
                let bent = x + 2.0 * waves([0.7 * x, 0.7 * y], self.seed);
                0.5 + 0.5 * (PI * bent).sin()
            }
            Surface::Grained => {
                let fine = noise([0.25 * x, 4.0 * y], self.seed);
                0.5 * (fine + noise([0.6 * x, 9.0 * y], self.seed ^ 1))
            }
        }
    }

    /// Discs around the middles of a grid's cells, each a little off.
    fn spots(&self, [x, y]: [f32; 2]) -> f32 {
        let cell = [x.floor(), y.floor()];
        let shift = [0, 1].map(|axis| 0.3 * (hash(cell, self.seed ^ axis) - 0.5));
        let off = [x - cell[0] - 0.5 - shift[0], y - cell[1] - 0.5 - shift[1]];
        edge(1.0 - off[0].hypot(off[1]), 1.0 - 0.6 * self.duty)
    }
}

/// 0 at whole numbers, 1 halfway between.
fn triangle(x: f32) -> f32 {
    1.0 - (2.0 * (x - x.floor()) - 1.0).abs()
}

/// From 0 below a limit to 1 above it, without a hard step.
fn edge(value: f32, limit: f32) -> f32 {
    ((value - limit) / 0.15 + 0.5).clamp(0.0, 1.0)
}

/// Noise of four octaves, in `[0, 1]`.
pub(super) fn waves(point: [f32; 2], seed: u32) -> f32 {
    let octaves = [(1.0, 0.5), (2.0, 0.25), (4.0, 0.15), (8.0, 0.1)];
    let of = |(frequency, weight): (f32, f32)| weight * noise(point.map(|it| it * frequency), seed);
    octaves.into_iter().map(of).sum()
}

/// Value noise: random at whole points, smooth between, in `[0, 1]`.
pub(super) fn noise([x, y]: [f32; 2], seed: u32) -> f32 {
    let [left, top] = [x.floor(), y.floor()];
    let [right_share, low_share] = [x - left, y - top].map(|it| it * it * (3.0 - 2.0 * it));
    let row = |y: f32| {
        let (a, b) = (hash([left, y], seed), hash([left + 1.0, y], seed));
        a + (b - a) * right_share
    };
    let (upper, lower) = (row(top), row(top + 1.0));
    upper + (lower - upper) * low_share
}

/// A number in `[0, 1)` for each whole point; the mixing is that of `MurmurHash3`'s finaliser.
fn hash(point: [f32; 2], seed: u32) -> f32 {
    let [x, y] = point.map(|it| it as i32 as u32);
    let mut bits = x.wrapping_mul(0x9E37_79B1) ^ y.wrapping_mul(0x85EB_CA77) ^ seed;
    bits ^= bits >> 16;
    bits = bits.wrapping_mul(0x85EB_CA6B);
    bits ^= bits >> 13;
    bits = bits.wrapping_mul(0xC2B2_AE35);
    bits ^= bits >> 16;
    (bits >> 8) as f32 / (1 << 24) as f32
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn patterns_stay_within_their_two_colours_and_use_both() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for surface in Surface::ALL {
            let pattern = Pattern::sample(surface, &mut rng);
            let values: Vec<f32> = (0..100 * 100)
                .map(|place| pattern.at([(place % 100) as f32 * 0.07, (place / 100) as f32 * 0.07]))
                .collect();
            assert!(
                values.iter().all(|it| (0.0..=1.0).contains(it)),
                "{surface:?}"
            );
            let least = values.iter().copied().fold(1.0, f32::min);
            let most = values.iter().copied().fold(0.0, f32::max);
            let range = if surface == Surface::Plain { 0.03 } else { 0.5 };
            assert!(most - least > range, "{surface:?}: {least} to {most}");
        }
    }
}
