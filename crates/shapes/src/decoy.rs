use std::f32::consts::{PI, TAU};

use rand::{Rng, RngExt};

use super::outline::Outline;
use super::scene::Blend;

/// What looks like an object and is none.
#[derive(Debug)]
pub(super) struct Decoy {
    pub(super) outline: Outline,
    pub(super) colors: Blend,
}

/// The forms of decoys: none is a shape of a class, and each has something of one.
#[derive(Clone, Copy, Debug)]
pub(super) enum DecoyForm {
    Cross,
    Corner,
    HalfDisc,
    Arrowhead,
    Bar,
}

impl DecoyForm {
    pub(super) const ALL: [Self; 5] = [
        Self::Cross,
        Self::Corner,
        Self::HalfDisc,
        Self::Arrowhead,
        Self::Bar,
    ];

    /// Draws an outline of this form around the origin, turned at random, whose box has a longer
    /// side of `size` pixels.
    pub(super) fn outline(self, size: f32, rng: &mut impl Rng) -> Outline {
        let thickness = rng.random_range(THICKNESS);
        let points = match self {
            Self::Cross => cross(thickness),
            Self::Corner => corner(2.0 * thickness),
            Self::HalfDisc => half_disc(),
            Self::Arrowhead => vec![
                [1.0, 0.0],
                [-1.0, 0.9],
                [-1.0 + 4.0 * thickness, 0.0],
                [-1.0, -0.9],
            ],
            Self::Bar => vec![
                [1.0, thickness],
                [-1.0, thickness],
                [-1.0, -thickness],
                [1.0, -thickness],
            ],
        };
        Outline::turned_to_size(&points, rng.random_range(0.0..TAU), size)
    }
}

fn cross(arm: f32) -> Vec<[f32; 2]> {
    let arms = [[1.0, arm], [arm, arm], [arm, 1.0], [-arm, 1.0]];
    let other = arms.map(|[x, y]: [f32; 2]| [-x, -y]);
    // From the right arm over the upper one to the left, and on.
    [
        &arms[..],
        &[[-arm, arm], [-1.0, arm]],
        &other[..],
        &[[arm, -arm], [1.0, -arm]],
    ]
    .concat()
}

fn corner(width: f32) -> Vec<[f32; 2]> {
    vec![
        [-1.0, -1.0],
        [1.0, -1.0],
        [1.0, -1.0 + width],
        [-1.0 + width, -1.0 + width],
        [-1.0 + width, 1.0],
        [-1.0, 1.0],
    ]
}

fn half_disc() -> Vec<[f32; 2]> {
    (0..=ARC_STEPS)
        .map(|step| PI * f32::from(step) / f32::from(ARC_STEPS))
        .map(|angle| [angle.cos(), angle.sin()])
        .collect()
}

/// Of arms and bars, against half their length.
const THICKNESS: std::ops::RangeInclusive<f32> = 0.15..=0.35;

const ARC_STEPS: u8 = 32;

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn forms_are_as_large_as_asked_for_and_do_not_cross_themselves() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for form in DecoyForm::ALL {
            for _ in 0..20 {
                let outline = form.outline(20.0, &mut rng);
                let bounds = outline.bounds();
                assert!((bounds.width().max(bounds.height()) - 20.0).abs() < 1e-3);
                // By counting points on a grid: an outline that crosses itself has another area.
                let inside = (0..200 * 200)
                    .map(|place| [place % 200, place / 200].map(|it| it as f32 / 10.0 - 9.95))
                    .filter(|point| outline.contains(*point))
                    .count();
                let counted = inside as f64 / 100.0;
                assert!(
                    (counted - outline.area()).abs() < 0.03 * outline.area() + 0.5,
                    "{form:?}: {counted}, not {}",
                    outline.area()
                );
            }
        }
    }
}
