use std::f32::consts::TAU;

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use retinanet_boxes::BoundingBox;

use super::ShapesConfig;
use super::decoy::{Decoy, DecoyForm};
use super::outline::{Outline, Shape};

/// A colour, each channel in `[0, 255]`.
pub(super) type Rgb = [f32; 3];

/// All that is not chance in an image: what [`paint`](super::paint::paint) adds says nothing about
/// the objects.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) backdrop: Blend,
    /// Below all figures.
    pub(super) decoys: Vec<Decoy>,
    /// From the lowest to the topmost.
    pub(super) figures: Vec<Figure>,
}

impl Scene {
    /// Draws a scene with up to as many figures as the config says, each visible for the most part.
    pub(super) fn draw(config: &ShapesConfig, rng: &mut impl Rng) -> Self {
        let (width, height) = (config.width.as_u32(), config.height.as_u32());
        let backdrop = backdrop(rng);
        let empty_share = if config.hard {
            HARD_EMPTY_SHARE
        } else {
            EMPTY_SHARE
        };
        let count = if rng.random_bool(empty_share) {
            0
        } else {
            rng.random_range(1..=config.max_objects.as_usize())
        };
        let decoys = if config.hard {
            draw_decoys(width, height, backdrop, rng)
        } else {
            Vec::new()
        };
        let layout = Layout::draw(config, count, rng);
        let mut figures: Vec<Figure> = Vec::with_capacity(layout.placed.len());
        for placed in layout.placed {
            let mut avoid = vec![backdrop.from, backdrop.to];
            let decoys = decoys.iter().map(|decoy| (&decoy.outline, decoy.colors));
            let below = figures
                .iter()
                .map(|figure| (&figure.outline, figure.colors));
            for (outline, colors) in decoys.chain(below) {
                if placed.samples.meets(outline) {
                    avoid.extend([colors.from, colors.to]);
                }
            }
            let hollow = placed.may_be_hollow && rng.random_bool(HOLLOW_SHARE);
            figures.push(Figure {
                shape: placed.shape,
                outline: placed.outline,
                colors: contrasting(&avoid, rng),
                hollow,
            });
        }
        Self {
            width,
            height,
            backdrop,
            decoys,
            figures,
        }
    }
}

fn draw_decoys(width: u32, height: u32, backdrop: Blend, rng: &mut impl Rng) -> Vec<Decoy> {
    let area = (width * height) as f32 / (REFERENCE_SIDE * REFERENCE_SIDE);
    let count = (area * rng.random_range(DECOYS)).round() as usize;
    let decoys = (0..count).map(|_| {
        let &form = DecoyForm::ALL.choose(rng).expect("there are forms");
        let outline = form.outline(rng.random_range(DECOY_SIZE), rng);
        let center = [width, height].map(|side| rng.random_range(0.0..=side as f32));
        Decoy {
            outline: outline.moved(center),
            colors: contrasting(&[backdrop.from, backdrop.to], rng),
        }
    });
    decoys.collect()
}

/// An object.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    pub(super) shape: Shape,
    /// With the part that lies outside the image.
    pub(super) outline: Outline,
    pub(super) colors: Blend,
    /// Only a broad rim is painted. Box and area are those of the whole outline.
    pub(super) hollow: bool,
}

/// A linear blend of two colours, often the same; `angle` in radians.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blend {
    pub(super) from: Rgb,
    pub(super) to: Rgb,
    pub(super) angle: f32,
}

/// The outlines and which lies over which.
struct Layout {
    width: f32,
    height: f32,
    /// From the lowest to the topmost.
    placed: Vec<Placed>,
}

struct Placed {
    shape: Shape,
    outline: Outline,
    samples: Samples,
    may_be_hollow: bool,
}

impl Layout {
    fn draw(config: &ShapesConfig, count: usize, rng: &mut impl Rng) -> Self {
        let (width, height) = (config.width.as_u32(), config.height.as_u32());
        let mut layout = Self {
            width: width as f32,
            height: height as f32,
            placed: Vec::with_capacity(count),
        };
        let scale = pixel_scale(width, height);
        let mut sizes: Vec<f32> = (0..count)
            .map(|_| {
                if config.hard {
                    return rng.random_range(HARD_SIZE);
                }
                let &(low, high) = SIZE_RANGES.choose(rng).expect("there are ranges");
                (rng.random_range(low..=high) * scale).max(MIN_SIZE)
            })
            .collect();
        // The large ones first: they would find no place among the others, and be rare.
        sizes.sort_by(|a, b| b.total_cmp(a));
        for size in sizes {
            let &shape = Shape::ALL.choose(rng).expect("there are shapes");
            let outline = shape.outline(size, rng);
            let may_be_hollow = size >= MIN_HOLLOW_SIZE;
            layout.place(shape, &outline, may_be_hollow, rng);
        }
        layout
    }

    /// Tries a few positions and heights in the pile; where none leaves everything visible, the
    /// figure is dropped.
    fn place(&mut self, shape: Shape, outline: &Outline, may_be_hollow: bool, rng: &mut impl Rng) {
        for _ in 0..PLACEMENT_TRIES {
            let position = self.position(&outline.bounds(), rng);
            let outline = outline.moved(position);
            let candidate = Placed {
                shape,
                samples: Samples::new(&outline),
                outline,
                may_be_hollow,
            };
            let height_in_pile = rng.random_range(0..=self.placed.len());
            if self.fits(&candidate, height_in_pile) {
                self.placed.insert(height_in_pile, candidate);
                return;
            }
        }
    }

    /// Mostly one with the whole box inside the image, now and then one that may stick out.
    fn position(&self, bounds: &BoundingBox, rng: &mut impl Rng) -> [f32; 2] {
        let outside = if rng.random_bool(CUT_SHARE) {
            MAX_OUTSIDE
        } else {
            0.0
        };
        let mut shift = |low: f32, high: f32, image: f32| {
            let margin = outside * (high - low);
            rng.random_range(-low - margin..=image - high + margin)
        };
        [
            shift(bounds.x1, bounds.x2, self.width),
            shift(bounds.y1, bounds.y2, self.height),
        ]
    }

    fn fits(&self, candidate: &Placed, height_in_pile: usize) -> bool {
        let (below, above) = self.placed.split_at(height_in_pile);
        let above: Vec<&Outline> = above.iter().map(|placed| &placed.outline).collect();
        if !candidate
            .samples
            .mostly_visible(self.width, self.height, &above)
        {
            return false;
        }
        below.iter().enumerate().all(|(index, placed)| {
            if !placed.samples.meets(&candidate.outline) {
                return true;
            }
            let mut covers = above.clone();
            covers.push(&candidate.outline);
            covers.extend(below[index + 1..].iter().map(|placed| &placed.outline));
            placed
                .samples
                .mostly_visible(self.width, self.height, &covers)
        })
    }
}

/// Points spread evenly over an outline, to measure how much of it is visible.
struct Samples {
    bounds: BoundingBox,
    points: Vec<[f32; 2]>,
}

impl Samples {
    fn new(outline: &Outline) -> Self {
        let bounds = outline.bounds();
        let grid = |low: f32, length: f32, step: u8| {
            low + length * (f32::from(step) + 0.5) / f32::from(SAMPLES_PER_SIDE)
        };
        let points = (0..SAMPLES_PER_SIDE)
            .flat_map(|row| (0..SAMPLES_PER_SIDE).map(move |column| (row, column)))
            .map(|(row, column)| {
                [
                    grid(bounds.x1, bounds.width(), column),
                    grid(bounds.y1, bounds.height(), row),
                ]
            })
            .filter(|&point| outline.contains(point))
            .collect();
        Self { bounds, points }
    }

    /// Whether the boxes meet.
    fn meets(&self, other: &Outline) -> bool {
        self.bounds.intersection(&other.bounds()) > 0.0
    }

    /// Whether enough lies inside the image, and enough of it under none of `covers`.
    fn mostly_visible(&self, width: f32, height: f32, covers: &[&Outline]) -> bool {
        let covers: Vec<_> = covers.iter().filter(|cover| self.meets(cover)).collect();
        let is_inside =
            |&[x, y]: &[f32; 2]| (0.0..width).contains(&x) && (0.0..height).contains(&y);
        let inside = self.points.iter().filter(|point| is_inside(point));
        let inside_count = inside.clone().count();
        let visible_count = inside
            .filter(|point| !covers.iter().any(|cover| cover.contains(**point)))
            .count();
        let all = self.points.len() as f32;
        inside_count as f32 >= (1.0 - MAX_OUTSIDE) * all
            && visible_count as f32 >= MIN_VISIBLE * all
    }
}

/// How many pixels stand for one of a 160×160 image.
pub(super) fn pixel_scale(width: u32, height: u32) -> f32 {
    width.min(height) as f32 / REFERENCE_SIDE
}

/// A colour of any kind.
pub(super) fn any_color(rng: &mut impl Rng) -> Rgb {
    [0; 3].map(|_| rng.random_range(0.0..=255.0))
}

fn backdrop(rng: &mut impl Rng) -> Blend {
    let from = any_color(rng);
    // Two ends far apart would leave no colour that stands out against both.
    let to = from.map(|channel| {
        (channel + rng.random_range(-BACKDROP_SPAN..=BACKDROP_SPAN)).clamp(0.0, 255.0)
    });
    Blend {
        from,
        to,
        angle: rng.random_range(0.0..TAU),
    }
}

/// A plain colour or a blend that stands out against all of `avoid`, or what comes closest to
/// that.
fn contrasting(avoid: &[Rgb], rng: &mut impl Rng) -> Blend {
    let is_plain = rng.random_bool(PLAIN_SHARE);
    let angle = rng.random_range(0.0..TAU);
    let mut best: Option<(f32, Blend)> = None;
    for _ in 0..COLOR_TRIES {
        let from = any_color(rng);
        let to = if is_plain {
            from
        } else {
            let pole = if rng.random_bool(0.5) { 255.0 } else { 0.0 };
            from.map(|channel| channel + BLEND_SPAN * (pole - channel))
        };
        let contrast = avoid
            .iter()
            .flat_map(|color| [color_distance(from, *color), color_distance(to, *color)])
            .fold(f32::INFINITY, f32::min);
        if best.is_none_or(|(best_contrast, _)| contrast > best_contrast) {
            best = Some((contrast, Blend { from, to, angle }));
        }
        if contrast >= MIN_CONTRAST {
            break;
        }
    }
    best.expect("there is at least one try").1
}

/// Distance as the eye weighs the channels: 0 between equals, 765 between black and white. It is
/// the [weighted distance](https://en.wikipedia.org/wiki/Color_difference#sRGB) for middling red.
pub(super) fn color_distance(a: Rgb, b: Rgb) -> f32 {
    const WEIGHTS: [f32; 3] = [2.5, 4.0, 2.5];
    (0..3)
        .map(|channel| WEIGHTS[channel] * (a[channel] - b[channel]).powi(2))
        .sum::<f32>()
        .sqrt()
}

/// Side in pixels of the image that the sizes below are meant for.
const REFERENCE_SIDE: f32 = 160.0;

/// Longer side of an object's box in pixels of the reference image: small, medium, large.
pub(super) const SIZE_RANGES: [(f32, f32); 3] = [(16.0, 24.0), (28.0, 52.0), (60.0, 100.0)];

/// Pixels; below, a star cannot be told from a circle.
const MIN_SIZE: f32 = 12.0;

/// Pixels; below, the rim of a hollow figure closes the hole.
const MIN_HOLLOW_SIZE: f32 = 26.0;

/// Share of images without an object.
const EMPTY_SHARE: f64 = 0.04;

/// Longer side of an object's box in the hard setting, in pixels however large the image.
const HARD_SIZE: std::ops::RangeInclusive<f32> = 12.0..=20.0;

/// Share of images without an object in the hard setting.
const HARD_EMPTY_SHARE: f64 = 0.5;

/// Decoys in an image of the reference's area.
const DECOYS: std::ops::RangeInclusive<f32> = 8.0..=20.0;

/// Longer side of a decoy's box, in pixels.
const DECOY_SIZE: std::ops::RangeInclusive<f32> = 8.0..=28.0;

/// Share of objects that may stick out of the image.
const CUT_SHARE: f64 = 0.15;

/// The most of an object's area, and of its width and height, that may lie outside.
pub(super) const MAX_OUTSIDE: f32 = 0.25;

/// The least of an object's area that is inside the image and under no other object.
pub(super) const MIN_VISIBLE: f32 = 0.75;

/// Positions to try for an object.
const PLACEMENT_TRIES: usize = 60;

/// Over a box of this many by this many points, the visible share is right to about 0.02.
const SAMPLES_PER_SIDE: u8 = 24;

/// Of the objects that are large enough.
const HOLLOW_SHARE: f64 = 0.1;

const PLAIN_SHARE: f64 = 0.6;

/// The most by which a channel differs between the ends of the backdrop.
const BACKDROP_SPAN: f32 = 50.0;

/// How far the second colour of a blended object lies on the way to black or white.
const BLEND_SPAN: f32 = 0.4;

/// [`color_distance`] between an object and what it may lie on, found by looking at images: clear
/// at a glance at the smallest size.
const MIN_CONTRAST: f32 = 200.0;

/// Colours to try for an object.
const COLOR_TRIES: usize = 100;

#[cfg(test)]
mod tests {
    use super::super::{ShapesConfig, Split, image_rng};
    use super::*;

    fn scenes(count: usize) -> impl Iterator<Item = Scene> {
        let config = ShapesConfig::default();
        (0..count).map(move |index| {
            let mut rng = image_rng(config.seed.get(), Split::Train, index);
            Scene::draw(&config, &mut rng)
        })
    }

    #[test]
    fn classes_are_balanced() {
        let figures: Vec<_> = scenes(400).flat_map(|scene| scene.figures).collect();
        for shape in Shape::ALL {
            let count = figures
                .iter()
                .filter(|figure| figure.shape == shape)
                .count();
            let share = count as f32 / figures.len() as f32;
            assert!((0.2..0.3).contains(&share), "{shape:?}: {share}");
        }
    }

    #[test]
    fn size_ranges_are_balanced() {
        let sizes: Vec<_> = scenes(400)
            .flat_map(|scene| scene.figures)
            .map(|figure| {
                let bounds = figure.outline.bounds();
                bounds.width().max(bounds.height())
            })
            .collect();
        for (low, high) in SIZE_RANGES {
            // Corners move by up to 1/32 pixel.
            let range = low - 0.1..high + 0.1;
            let count = sizes.iter().filter(|size| range.contains(*size)).count();
            let share = count as f32 / sizes.len() as f32;
            assert!(
                (0.2..0.45).contains(&share),
                "{low} to {high} pixels: {share}"
            );
        }
    }

    #[test]
    fn a_few_images_are_empty_and_none_has_too_many_objects() {
        let counts: Vec<_> = scenes(400).map(|scene| scene.figures.len()).collect();
        let empty = counts.iter().filter(|count| **count == 0).count();
        assert!((5..30).contains(&empty), "{empty}");
        assert_eq!(counts.iter().max(), Some(&6));
    }

    #[test]
    fn every_object_is_mostly_inside_and_mostly_visible() {
        let (mut cut, mut covered) = (0, 0);
        for scene in scenes(100) {
            let (width, height) = (scene.width as f32, scene.height as f32);
            for (index, figure) in scene.figures.iter().enumerate() {
                let inside =
                    (figure.outline.clip(width, height).area() / figure.outline.area()) as f32;
                assert!(inside >= 1.0 - MAX_OUTSIDE - 0.03, "{figure:?}: {inside}");
                cut += usize::from(inside < 0.99);

                let above = &scene.figures[index + 1..];
                let (mut all, mut visible) = (0, 0);
                for y in 0..scene.height {
                    for x in 0..scene.width {
                        let pixel = [x as f32 + 0.5, y as f32 + 0.5];
                        let is_inside = figure.outline.contains(pixel);
                        let is_covered = above.iter().any(|other| other.outline.contains(pixel));
                        all += usize::from(is_inside);
                        visible += usize::from(is_inside && !is_covered);
                    }
                }
                let share = inside * visible as f32 / all as f32;
                assert!(share >= MIN_VISIBLE - 0.05, "{figure:?}: {share}");
                covered += usize::from(visible < all);
            }
        }
        // The limits are there to be used.
        assert!(cut > 5 && covered > 20, "{cut} cut, {covered} covered");
    }

    #[test]
    fn objects_stand_out_against_the_backdrop() {
        let figures = scenes(200).flat_map(|scene| {
            let backdrop = scene.backdrop;
            scene
                .figures
                .into_iter()
                .map(move |figure| (backdrop, figure))
        });
        for (backdrop, figure) in figures {
            for ground in [backdrop.from, backdrop.to] {
                let distance = color_distance(figure.colors.from, ground);
                assert!(distance > 0.7 * MIN_CONTRAST, "{distance}");
            }
        }
    }

    #[test]
    fn fifty_objects_in_a_small_image_end() {
        let config = ShapesConfig {
            width: retinanet_settings::Whole::literal(64),
            height: retinanet_settings::Whole::literal(64),
            max_objects: retinanet_settings::Whole::literal(50),
            ..ShapesConfig::default()
        };
        let mut rng = image_rng(0, Split::Train, 0);
        for _ in 0..5 {
            let scene = Scene::draw(&config, &mut rng);
            assert!(scene.figures.len() <= 50);
        }
    }

    #[test]
    fn hard_objects_are_few_and_small_among_many_decoys() {
        let config = ShapesConfig {
            hard: true,
            width: retinanet_settings::Whole::literal(192),
            height: retinanet_settings::Whole::literal(192),
            max_objects: retinanet_settings::Whole::literal(2),
            ..ShapesConfig::default()
        };
        let (mut objects, mut decoys, mut empty) = (0, 0, 0);
        for index in 0..200 {
            let scene = Scene::draw(&config, &mut image_rng(0, Split::Train, index));
            for figure in &scene.figures {
                let bounds = figure.outline.bounds();
                let longer = bounds.width().max(bounds.height());
                assert!((11.9..=20.1).contains(&longer), "{longer}");
            }
            objects += scene.figures.len();
            decoys += scene.decoys.len();
            empty += usize::from(scene.figures.is_empty());
        }
        assert!((70..130).contains(&empty), "{empty} of 200 are empty");
        assert!(decoys > 20 * objects, "{decoys} decoys, {objects} objects");
    }
}
