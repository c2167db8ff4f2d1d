use std::f32::consts::{PI, TAU};

use rand::{Rng, RngExt};
use retinanet_boxes::{BoundingBox, CategoryId};

/// What an object is; nothing but its outline tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Circle,
    Rectangle,
    Triangle,
    Star,
}

impl Shape {
    pub(super) const ALL: [Self; 4] = [Self::Circle, Self::Rectangle, Self::Triangle, Self::Star];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Circle => "circle",
            Self::Rectangle => "rectangle",
            Self::Triangle => "triangle",
            Self::Star => "star",
        }
    }

    /// The id in the file; with gaps, see [`ShapesConfig::classes`](super::ShapesConfig::classes).
    pub(super) const fn category(self) -> CategoryId {
        CategoryId(match self {
            Self::Circle => 1,
            Self::Rectangle => 2,
            Self::Triangle => 4,
            Self::Star => 7,
        })
    }

    /// Draws an outline of this shape around the origin, turned and varied at random, whose box
    /// has a longer side of `size` pixels.
    pub(super) fn outline(self, size: f32, rng: &mut impl Rng) -> Outline {
        let points = match self {
            Self::Circle => regular(CIRCLE_CORNERS, 0.0),
            Self::Rectangle => {
                let aspect = rng.random_range(RECTANGLE_ASPECT);
                let turn = rng.random_range(-RECTANGLE_TURN..=RECTANGLE_TURN);
                [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]
                    .map(|[x, y]: [f32; 2]| turned([x * aspect, y], turn))
                    .to_vec()
            }
            Self::Triangle => {
                let turn = rng.random_range(UPRIGHT_TRIANGLE);
                (0..3_u8)
                    .map(|corner| {
                        let jitter = rng.random_range(-TRIANGLE_JITTER..=TRIANGLE_JITTER);
                        on_circle(turn + jitter + f32::from(corner) * TAU / 3.0)
                    })
                    .collect()
            }
            Self::Star => {
                let turn = rng.random_range(UPRIGHT_STAR);
                let inner = rng.random_range(STAR_INNER_RADIUS);
                let mut points = regular(10, turn);
                for point in points.iter_mut().skip(1).step_by(2) {
                    *point = point.map(|coordinate| coordinate * inner);
                }
                points
            }
        };
        Outline(points).centered_with_size(size)
    }
}

/// A closed polygon, in pixels; circles have many corners.
///
/// Once [moved](Self::moved), its corners lie on a grid of 1/16 pixel: such numbers are exact in
/// `f32` and short in decimal, so that the file says precisely what is drawn.
#[derive(Clone, Debug)]
pub(super) struct Outline(Vec<[f32; 2]>);

impl Outline {
    /// Corners around the origin, turned by an angle in radians and then scaled so that the box
    /// has a longer side of `size` pixels.
    pub(super) fn turned_to_size(points: &[[f32; 2]], angle: f32, size: f32) -> Self {
        let points = points.iter().map(|&point| turned(point, angle));
        Self(points.collect()).centered_with_size(size)
    }

    pub(super) fn points(&self) -> &[[f32; 2]] {
        &self.0
    }

    #[must_use]
    pub(super) fn moved(&self, [dx, dy]: [f32; 2]) -> Self {
        let points = self.0.iter();
        Self(points.map(|&[x, y]| [snap(x + dx), snap(y + dy)]).collect())
    }

    /// The same form, smaller by a factor, around the mean of the corners.
    #[must_use]
    pub(super) fn shrunk(&self, factor: f32) -> Self {
        let [center_x, center_y] = self.mean();
        let points = self.0.iter();
        Self(
            points
                .map(|[x, y]| {
                    [
                        center_x + (x - center_x) * factor,
                        center_y + (y - center_y) * factor,
                    ]
                })
                .collect(),
        )
    }

    pub(super) fn bounds(&self) -> BoundingBox {
        let none = BoundingBox::new(
            f32::INFINITY,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NEG_INFINITY,
        );
        self.0.iter().fold(none, |bounds, &[x, y]| {
            BoundingBox::new(
                bounds.x1.min(x),
                bounds.y1.min(y),
                bounds.x2.max(x),
                bounds.y2.max(y),
            )
        })
    }

    /// The area in square pixels, by the shoelace formula.
    pub(super) fn area(&self) -> f64 {
        let twice: f64 = self
            .edges()
            .map(|([x1, y1], [x2, y2])| {
                f64::from(x1) * f64::from(y2) - f64::from(x2) * f64::from(y1)
            })
            .sum();
        0.5 * twice.abs()
    }

    /// Whether a point lies inside, by the even-odd rule.
    pub(super) fn contains(&self, [x, y]: [f32; 2]) -> bool {
        self.edges()
            .filter(|([x1, y1], [x2, y2])| {
                (*y1 > y) != (*y2 > y) && x < x1 + (y - y1) * (x2 - x1) / (y2 - y1)
            })
            .count()
            % 2
            == 1
    }

    /// The part inside an image of this size. A polygon that falls into pieces keeps them joined
    /// by lines along the image's edge, which add nothing to area or bounds.
    #[must_use]
    pub(super) fn clip(&self, width: f32, height: f32) -> Self {
        let points = clip_axis(&self.0, 0, |x| x, 0.0);
        let points = clip_axis(&points, 0, |x| width - x, width);
        let points = clip_axis(&points, 1, |y| y, 0.0);
        let points = clip_axis(&points, 1, |y| height - y, height);
        Self(points.into_iter().map(|point| point.map(snap)).collect())
    }

    fn edges(&self) -> impl Iterator<Item = ([f32; 2], [f32; 2])> {
        let next = self.0.iter().cycle().skip(1);
        self.0.iter().copied().zip(next.copied())
    }

    fn mean(&self) -> [f32; 2] {
        let count = self.0.len() as f32;
        [0, 1].map(|axis| self.0.iter().map(|point| point[axis]).sum::<f32>() / count)
    }

    fn centered_with_size(self, size: f32) -> Self {
        let bounds = self.bounds();
        let scale = size / bounds.width().max(bounds.height());
        let (center_x, center_y) = bounds.center();
        let points = self.0.iter();
        Self(
            points
                .map(|[x, y]| [(x - center_x) * scale, (y - center_y) * scale])
                .collect(),
        )
    }
}

/// One step of Sutherland and Hodgman's polygon clipping: keeps the side of the line
/// `point[axis] == edge` where `depth(point[axis]) >= 0`.
fn clip_axis(
    points: &[[f32; 2]],
    axis: usize,
    depth: impl Fn(f32) -> f32,
    edge: f32,
) -> Vec<[f32; 2]> {
    let mut kept = Vec::with_capacity(points.len() + 2);
    for (&from, &to) in points.iter().zip(points.iter().cycle().skip(1)) {
        let (depth_from, depth_to) = (depth(from[axis]), depth(to[axis]));
        if depth_from >= 0.0 {
            kept.push(from);
        }
        if (depth_from < 0.0) != (depth_to < 0.0) {
            // The depths differ in sign, so their difference is not 0.
            let share = depth_from / (depth_from - depth_to);
            let mut crossing = [0, 1].map(|axis| from[axis] + share * (to[axis] - from[axis]));
            crossing[axis] = edge;
            kept.push(crossing);
        }
    }
    kept
}

fn regular(corners: u8, turn: f32) -> Vec<[f32; 2]> {
    (0..corners)
        .map(|corner| on_circle(turn + TAU * f32::from(corner) / f32::from(corners)))
        .collect()
}

fn on_circle(angle: f32) -> [f32; 2] {
    [angle.cos(), angle.sin()]
}

fn turned([x, y]: [f32; 2], angle: f32) -> [f32; 2] {
    let (sin, cos) = angle.sin_cos();
    [x * cos - y * sin, x * sin + y * cos]
}

fn snap(coordinate: f32) -> f32 {
    (coordinate * 16.0).round() / 16.0
}

/// Of a circle 100 pixels wide, the corners stand out from the edges by 0.06 pixels.
const CIRCLE_CORNERS: u8 = 64;

/// Width over height, before turning.
const RECTANGLE_ASPECT: std::ops::RangeInclusive<f32> = 0.6..=1.6;

/// Radians; more would make a thin rectangle's box say little about it.
const RECTANGLE_TURN: f32 = 20.0 / 180.0 * PI;

/// Radians from the x axis to a corner, downwards: the tip points up, give or take 20 degrees.
const UPRIGHT_TRIANGLE: std::ops::RangeInclusive<f32> = -110.0 / 180.0 * PI..=-70.0 / 180.0 * PI;

/// Radians from the x axis to a tip, downwards: one points up, give or take 12 degrees.
const UPRIGHT_STAR: std::ops::RangeInclusive<f32> = -102.0 / 180.0 * PI..=-78.0 / 180.0 * PI;

/// Radians that each corner may stray along the circle: no triangle gets thin.
const TRIANGLE_JITTER: f32 = 14.0 / 180.0 * PI;

/// Against the outer radius; a pentagram's is 0.38, and above 0.5 a small star passes for a circle.
const STAR_INNER_RADIUS: std::ops::RangeInclusive<f32> = 0.36..=0.46;

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn square(low: f32, high: f32) -> Outline {
        Outline(vec![[low, low], [high, low], [high, high], [low, high]])
    }

    #[test]
    fn the_longer_side_of_the_box_is_the_size() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for shape in Shape::ALL {
            for size in [12.0, 40.0, 100.0] {
                let bounds = shape.outline(size, &mut rng).bounds();
                let longer = bounds.width().max(bounds.height());
                assert!(
                    (longer - size).abs() < 1e-3,
                    "{shape:?}: {longer} against {size}"
                );
            }
        }
    }

    #[test]
    fn a_circle_has_nearly_the_area_of_a_circle() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let area = Shape::Circle.outline(20.0, &mut rng).area();
        // π · 10² = 314.16; a regular 64-gon has 64/2 · 10² · sin(2π/64) = 313.66.
        assert!((area - 313.66).abs() < 0.01, "{area}");
    }

    #[test]
    fn a_square_over_the_corner_keeps_its_part_inside() {
        let part = square(-4.0, 8.0).clip(100.0, 6.0);
        assert_eq!(part.bounds(), BoundingBox::new(0.0, 0.0, 8.0, 6.0));
        // 8 · 6 = 48
        assert!((part.area() - 48.0).abs() < 1e-9, "{}", part.area());
    }

    #[test]
    fn a_triangle_that_loses_its_tip_has_a_lower_box() {
        let triangle = Outline(vec![[12.0, 0.0], [8.0, 1.0], [8.0, 8.0]]);
        let part = triangle.clip(10.0, 20.0);
        // The edge from (12, 0) to (8, 1) crosses x = 10 at y = 0.5, the one from (8, 8) at y = 4.
        assert_eq!(part.bounds(), BoundingBox::new(8.0, 0.5, 10.0, 8.0));
    }

    #[test]
    fn an_outline_inside_is_not_changed_by_clipping() {
        let outline = square(1.0, 5.0);
        assert_eq!(outline.clip(10.0, 10.0).points(), outline.points());
    }

    #[test]
    fn the_notch_of_a_star_is_outside() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let star = Shape::Star.outline(100.0, &mut rng);
        assert!(star.contains([0.0, 0.0]));
        let [tip, _, next_tip] = [star.points()[0], star.points()[1], star.points()[2]];
        let between = [0, 1].map(|axis| f32::midpoint(tip[axis], next_tip[axis]));
        assert!(!star.contains(between));
    }
}
