use std::f32::consts::{PI, TAU};

use rand::{Rng, RngExt};

use crate::outline::Outline;

/// What an object is, whatever its surface: a family of outlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Disc,
    Slab,
    Wedge,
    Star,
    Cross,
    Crescent,
    Flower,
    Rod,
}

impl Form {
    pub(super) const ALL: [Self; 8] = [
        Self::Disc,
        Self::Slab,
        Self::Wedge,
        Self::Star,
        Self::Cross,
        Self::Crescent,
        Self::Flower,
        Self::Rod,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Disc => "disc",
            Self::Slab => "slab",
            Self::Wedge => "wedge",
            Self::Star => "star",
            Self::Cross => "cross",
            Self::Crescent => "crescent",
            Self::Flower => "flower",
            Self::Rod => "rod",
        }
    }

    /// Samples an outline around the origin, stretched and turned, whose box has a longer side of `size` pixels.
    pub(super) fn outline(self, size: f32, rng: &mut impl Rng) -> Outline {
        let points = match self {
            Self::Disc => polar(rng.random_range(0.6..=1.0), |_| 1.0),
            Self::Slab => slab(rng),
            Self::Wedge => (0..3_u8)
                .map(|corner| {
                    let jitter = rng.random_range(-0.3..=0.3);
                    on_circle(jitter + f32::from(corner) * TAU / 3.0)
                })
                .collect(),
            Self::Star => star(rng),
            Self::Cross => cross(rng.random_range(0.18..=0.4)),
            Self::Crescent => crescent(rng.random_range(0.35..=0.75)),
            Self::Flower => {
                let petals = f32::from(rng.random_range(5..=9_u8));
                let depth = rng.random_range(0.12..=0.3);
                polar(1.0, |angle| 1.0 + depth * (petals * angle).cos())
            }
            Self::Rod => rod(rng.random_range(0.12..=0.28), rng.random_range(-0.5..=0.5)),
        };
        varied(&points, size, rng)
    }

    /// An outline of no form: a blob of a few random waves.
    pub(super) fn clutter(size: f32, rng: &mut impl Rng) -> Outline {
        let waves: Vec<(f32, f32, f32)> = (2..=6_u8)
            .map(|count| {
                let count = f32::from(count);
                let height = rng.random_range(0.0..=1.2 / count);
                (count, height, rng.random_range(0.0..TAU))
            })
            .collect();
        let radius = |angle: f32| {
            let wave =
                |&(count, height, phase): &(f32, f32, f32)| height * (count * angle + phase).cos();
            (1.0 + waves.iter().map(wave).sum::<f32>()).max(0.15)
        };
        varied(&polar(rng.random_range(0.3..=1.0), radius), size, rng)
    }
}

/// Stretches a little, as a view from aside does, and turns.
fn varied(points: &[[f32; 2]], size: f32, rng: &mut impl Rng) -> Outline {
    let stretch = rng.random_range(0.8..=1.25_f32);
    let shear = rng.random_range(-0.2..=0.2_f32);
    let points: Vec<_> = points
        .iter()
        .map(|[x, y]| [x * stretch + y * shear, *y])
        .collect();
    Outline::turned_to_size(&points, rng.random_range(0.0..TAU), size)
}

fn slab(rng: &mut impl Rng) -> Vec<[f32; 2]> {
    let (aspect, taper) = (rng.random_range(0.5..=1.0), rng.random_range(0.75..=1.0));
    vec![
        [-1.0, -aspect],
        [1.0, -aspect],
        [taper, aspect],
        [-taper, aspect],
    ]
}

fn star(rng: &mut impl Rng) -> Vec<[f32; 2]> {
    let tips = rng.random_range(4..=7_u8);
    let inner = rng.random_range(0.35..=0.55);
    let corners = 2 * tips;
    (0..corners)
        .map(|corner| {
            let radius = if corner % 2 == 0 { 1.0 } else { inner };
            on_circle(TAU * f32::from(corner) / f32::from(corners)).map(|it| it * radius)
        })
        .collect()
}

fn cross(arm: f32) -> Vec<[f32; 2]> {
    let quarter = [[1.0, -arm], [1.0, arm], [arm, arm]];
    let quarters = (0..4).scan(quarter, |points, _| {
        let these = *points;
        *points = these.map(|[x, y]| [-y, x]);
        Some(these)
    });
    quarters.flatten().collect()
}

/// Half a ring that thins towards its ends.
fn crescent(depth: f32) -> Vec<[f32; 2]> {
    let arc = |height: f32| {
        (0..=ARC_STEPS).map(move |step| {
            let angle = PI * f32::from(step) / f32::from(ARC_STEPS);
            [angle.cos(), height * angle.sin()]
        })
    };
    let inner: Vec<_> = arc(1.0 - depth).collect();
    arc(1.0).chain(inner.into_iter().rev()).collect()
}

/// A bar with round ends, bent along a parabola.
fn rod(thickness: f32, bend: f32) -> Vec<[f32; 2]> {
    let edge = |side: f32| {
        (0..=ARC_STEPS).map(move |step| {
            let x = side * (1.0 - 2.0 * f32::from(step) / f32::from(ARC_STEPS));
            let round = (1.0 - x.abs().powi(8)).sqrt();
            [x, side * thickness * round + bend * x * x]
        })
    };
    edge(1.0).chain(edge(-1.0)).collect()
}

fn polar(aspect: f32, radius: impl Fn(f32) -> f32) -> Vec<[f32; 2]> {
    (0..CORNERS)
        .map(|corner| {
            let angle = TAU * f32::from(corner) / f32::from(CORNERS);
            let [x, y] = on_circle(angle).map(|it| it * radius(angle));
            [x, y * aspect]
        })
        .collect()
}

fn on_circle(angle: f32) -> [f32; 2] {
    [angle.cos(), angle.sin()]
}

const CORNERS: u8 = 96;

const ARC_STEPS: u8 = 32;

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn outlines_are_as_large_as_asked_for_and_fill_some_of_their_box() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for form in Form::ALL {
            for _ in 0..50 {
                let outline = form.outline(40.0, &mut rng);
                let bounds = outline.bounds();
                assert!((bounds.width().max(bounds.height()) - 40.0).abs() < 1e-3);
                let filled = outline.area() / f64::from(bounds.area());
                assert!((0.1..=1.0).contains(&filled), "{form:?}: {filled}");
            }
        }
    }
}
