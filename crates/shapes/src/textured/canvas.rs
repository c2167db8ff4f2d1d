use std::f32::consts::TAU;

use rand::{Rng, RngExt};
use retinanet_boxes::BoundingBox;
use tiny_skia::{FillRule, Mask, PathBuilder, Transform};

use super::surface::{Pattern, Surface};
use crate::outline::Outline;
use crate::scene::{Rgb, any_color, color_distance};

/// The light of a scene: one direction for all objects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Light {
    /// From the object to the light, in the image's plane and towards the eye; of length 1.
    direction: [f32; 3],
    /// How much darker than the lit side the other is, in `[0, 1]`.
    contrast: f32,
    /// How much of the ground's colour a shadow takes.
    shadow: f32,
}

impl Light {
    pub(super) fn sample(rng: &mut impl Rng) -> Self {
        let (angle, height) = (rng.random_range(0.0..TAU), rng.random_range(0.3..=0.9_f32));
        let flat = (1.0 - height * height).sqrt();
        Self {
            direction: [flat * angle.cos(), flat * angle.sin(), height],
            contrast: rng.random_range(0.2..=0.8),
            shadow: rng.random_range(0.0..=0.6),
        }
    }
}

/// How something is painted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    pattern: Pattern,
    colors: [Rgb; 2],
    /// Of the pattern against the object's longer side; of the ground's, in pixels.
    spacing: f32,
    /// How far the surface bulges: 0 is flat, 1 a hemisphere.
    bulge: f32,
    /// How much a bulging surface shines, in `[0, 1]`.
    shine: f32,
}

impl Paint {
    pub(super) fn sample(surface: Surface, rng: &mut impl Rng) -> Self {
        let shines = rng.random_bool(0.3);
        Self {
            pattern: Pattern::sample(surface, rng),
            colors: two_colors(MIN_CONTRAST, rng),
            spacing: rng.random_range(0.12..=0.3),
            bulge: rng.random_range(0.0..=1.0),
            shine: if shines {
                rng.random_range(0.3..=0.9)
            } else {
                0.0
            },
        }
    }

    /// A ground: of any surface, mostly of colours near each other.
    pub(super) fn ground(rng: &mut impl Rng) -> Self {
        let surface = Surface::any(rng);
        let mut paint = Self::sample(surface, rng);
        if rng.random_bool(0.7) {
            let near = rng.random_range(0.1..=0.4);
            let [from, to] = paint.colors;
            paint.colors[1] = mix(from, to, near);
        }
        paint.spacing = rng.random_range(4.0..=60.0);
        paint
    }

    fn color(&self, point: [f32; 2]) -> Rgb {
        mix(self.colors[0], self.colors[1], self.pattern.at(point))
    }
}

/// Two colours that can be told apart.
fn two_colors(contrast: f32, rng: &mut impl Rng) -> [Rgb; 2] {
    let first = any_color(rng);
    loop {
        let second = any_color(rng);
        if color_distance(first, second) >= contrast {
            return [first, second];
        }
    }
}

fn mix(from: Rgb, to: Rgb, share: f32) -> Rgb {
    [0, 1, 2].map(|channel| from[channel] + (to[channel] - from[channel]) * share)
}

/// A picture that is being painted; colours in `[0, 255]`, rows first.
pub(super) struct Canvas {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) pixels: Vec<Rgb>,
}

impl Canvas {
    pub(super) fn new(width: u32, height: u32) -> Self {
        Self {
            width,
            height,
            pixels: vec![[0.0; 3]; (width * height) as usize],
        }
    }

    /// Paints everything.
    pub(super) fn fill(&mut self, paint: &Paint) {
        self.fill_where(paint, |_| true);
    }

    /// Paints what is on one side of a line through the middle half of the picture.
    pub(super) fn fill_half(&mut self, paint: &Paint, rng: &mut impl Rng) {
        let (sin, cos) = rng.random_range(0.0..TAU).sin_cos();
        let [x0, y0] =
            [self.width, self.height].map(|side| rng.random_range(0.25..=0.75) * side as f32);
        self.fill_where(paint, |[x, y]| (x - x0) * cos + (y - y0) * sin > 0.0);
    }

    fn fill_where(&mut self, paint: &Paint, is_there: impl Fn([f32; 2]) -> bool) {
        for (place, pixel) in self.pixels.iter_mut().enumerate() {
            let point = middle(place, self.width);
            if is_there(point) {
                *pixel = paint.color(point.map(|it| it / paint.spacing));
            }
        }
    }

    /// Paints an object with its shadow; what is outside the picture is left out.
    pub(super) fn paint(
        &mut self,
        outline: &Outline,
        paint: &Paint,
        light: &Light,
        rng: &mut impl Rng,
    ) {
        let bounds = outline.bounds();
        let size = bounds.width().max(bounds.height());
        if light.shadow > 0.1 {
            self.paint_shadow(outline, size, light, rng);
        }
        let (center_x, center_y) = bounds.center();
        let spacing = (paint.spacing * size).max(LEAST_SPACING);
        self.cover(outline, |[x, y], _| {
            let point = [x - center_x, y - center_y];
            let color = paint.color(point.map(|it| it / spacing));
            shaded(color, point.map(|it| it / (0.5 * size)), paint, light)
        });
    }

    /// Darkens the ground away from the light, in three layers for a soft edge.
    fn paint_shadow(&mut self, outline: &Outline, size: f32, light: &Light, rng: &mut impl Rng) {
        let distance = rng.random_range(0.03..=0.15) * size;
        let [x, y, _] = light.direction;
        let moved = outline.moved([-distance * x, -distance * y]);
        let darker = 1.0 - light.shadow / 3.0;
        for factor in [1.06, 1.0, 0.94] {
            self.cover(&moved.shrunk(factor), |_, ground| {
                ground.map(|it| it * darker)
            });
        }
    }

    /// Puts a colour wherever an outline is, by its share of each pixel; `color` is given the pixel's middle and what
    /// is there.
    fn cover(&mut self, outline: &Outline, color: impl Fn([f32; 2], Rgb) -> Rgb) {
        let Some(mask) = self.mask(outline) else {
            return;
        };
        let (columns, rows) = self.range(&outline.bounds());
        for row in rows {
            for column in columns.clone() {
                let place = row * self.width as usize + column;
                let share = f32::from(mask.data()[place]) / 255.0;
                if share > 0.0 {
                    let below = self.pixels[place];
                    let color = color(middle(place, self.width), below);
                    self.pixels[place] = mix(below, color, share);
                }
            }
        }
    }

    fn mask(&self, outline: &Outline) -> Option<Mask> {
        let mut builder = PathBuilder::new();
        let [[x, y], rest @ ..] = outline.points() else {
            return None;
        };
        builder.move_to(*x, *y);
        for [x, y] in rest {
            builder.line_to(*x, *y);
        }
        builder.close();
        let path = builder.finish()?;
        let mut mask = Mask::new(self.width, self.height)?;
        mask.fill_path(&path, FillRule::Winding, true, Transform::identity());
        Some(mask)
    }

    /// The columns and rows that a box touches.
    fn range(&self, bounds: &BoundingBox) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let range = |low: f32, high: f32, most: u32| {
            let limit = |it: f32| it.clamp(0.0, most as f32) as usize;
            limit(low.floor())..limit(high.ceil())
        };
        (
            range(bounds.x1, bounds.x2, self.width),
            range(bounds.y1, bounds.y2, self.height),
        )
    }
}

/// The middle of a pixel.
fn middle(place: usize, width: u32) -> [f32; 2] {
    let width = width as usize;
    [place % width, place / width].map(|it| it as f32 + 0.5)
}

/// A colour as the light shows it at a point of an object, in half its size from its middle: diffuse by the angle to the
/// light, with a highlight where the surface shines.
fn shaded(color: Rgb, [x, y]: [f32; 2], paint: &Paint, light: &Light) -> Rgb {
    let [nx, ny] = [x, y].map(|it| it.clamp(-1.0, 1.0) * paint.bulge);
    let nz = (1.0 - (nx * nx + ny * ny).min(0.99)).sqrt();
    let [lx, ly, lz] = light.direction;
    let facing = (nx * lx + ny * ly + nz * lz).clamp(0.0, 1.0);
    let brightness = 1.0 - light.contrast * (1.0 - facing);
    let highlight = 255.0 * paint.shine * paint.bulge * facing.powi(24);
    color.map(|channel| channel * brightness + highlight)
}

/// Distance between the two colours of a pattern.
const MIN_CONTRAST: f32 = 150.0;

/// Pixels; finer patterns would be grey.
const LEAST_SPACING: f32 = 2.5;
