//! Textured scenes: what a backbone learns from where no photos can be had.
//!
//! A class is a form and a surface; colours say nothing. Objects are turned, stretched, shaded by one light, throw
//! shadows, cover each other and stand among things of other forms on textured grounds; the camera blurs, tints and adds
//! noise. Features that tell the classes apart see edges, corners, grain and shading, as photos ask for.

mod camera;
mod canvas;
mod form;
mod surface;

use image::RgbImage;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use retinanet_boxes::{BoundingBox, CategoryId};

use super::ShapesConfig;
use super::annotations::Object;
use super::outline::Outline;
use canvas::{Canvas, Light, Paint};
use form::Form;
use surface::Surface;

/// The classes, each with its name: every form with every surface.
pub(super) fn classes() -> Vec<(CategoryId, String)> {
    let pairs = Form::ALL
        .iter()
        .flat_map(|form| Surface::ALL.iter().map(move |surface| (form, surface)));
    let named = pairs.map(|(form, surface)| (category(*form, *surface), name(*form, *surface)));
    named.collect()
}

/// Counted from 1, forms first.
fn category(form: Form, surface: Surface) -> CategoryId {
    CategoryId(1 + form as u64 * Surface::ALL.len() as u64 + surface as u64)
}

fn name(form: Form, surface: Surface) -> String {
    format!("{} {}", surface.name(), form.name())
}

/// Renders an image of a config, and tells what it shows, from the lowest object to the topmost.
pub(super) fn render(config: &ShapesConfig, rng: &mut impl Rng) -> (RgbImage, Vec<Object>) {
    let (width, height) = (config.width.as_u32(), config.height.as_u32());
    let light = Light::sample(rng);
    let mut canvas = Canvas::new(width, height);
    paint_ground(&mut canvas, rng);
    for _ in 0..rng.random_range(CLUTTER) {
        let outline = place(&Form::clutter(size(config, rng), rng), (width, height), rng);
        let paint = Paint::sample(Surface::any(rng), rng);
        canvas.paint(&outline, &paint, &light, rng);
    }
    let mut objects: Vec<Object> = Vec::new();
    let mut bounds: Vec<BoundingBox> = Vec::new();
    let count = rng.random_range(1..=config.max_objects.as_usize());
    for _ in 0..count {
        let &form = Form::ALL.choose(rng).expect("there are forms");
        let surface = Surface::any(rng);
        let outline = form.outline(size(config, rng), rng);
        let Some(outline) = free_place(&outline, &bounds, (width, height), rng) else {
            continue;
        };
        canvas.paint(&outline, &Paint::sample(surface, rng), &light, rng);
        bounds.push(outline.bounds());
        objects.push(Object {
            category: category(form, surface),
            outline,
        });
    }
    (camera::photograph(&canvas, rng), objects)
}

/// One to three textured grounds, parted by straight lines.
fn paint_ground(canvas: &mut Canvas, rng: &mut impl Rng) {
    canvas.fill(&Paint::ground(rng));
    for _ in 0..rng.random_range(0..=2) {
        canvas.fill_half(&Paint::ground(rng), rng);
    }
}

/// The longer side of an object in pixels; each octave is as likely.
fn size(config: &ShapesConfig, rng: &mut impl Rng) -> f32 {
    let side = config.width.as_u32().min(config.height.as_u32()) as f32;
    let (low, high) = ((SIZE.0 * side).ln(), (SIZE.1 * side).ln());
    rng.random_range(low..=high).exp()
}

/// Where the centre is in the image.
fn place(outline: &Outline, (width, height): (u32, u32), rng: &mut impl Rng) -> Outline {
    let center = [width, height].map(|side| rng.random_range(0.0..=side as f32));
    outline.moved(center)
}

/// A place where the object neither covers much of another nor leaves the image by much.
fn free_place(
    outline: &Outline,
    others: &[BoundingBox],
    image: (u32, u32),
    rng: &mut impl Rng,
) -> Option<Outline> {
    let frame = BoundingBox::new(0.0, 0.0, image.0 as f32, image.1 as f32);
    let tries = (0..PLACEMENT_TRIES).map(|_| place(outline, image, rng));
    let is_free = |outline: &Outline| {
        let own = outline.bounds();
        let covers = |other: &BoundingBox| own.intersection(other) > MOST_COVERED * other.area();
        own.intersection(&frame) >= LEAST_INSIDE * own.area() && !others.iter().any(covers)
    };
    tries.into_iter().find(is_free)
}

/// Things that are of no class.
const CLUTTER: std::ops::RangeInclusive<usize> = 0..=10;

/// Longer side of an object against the image's shorter one, smallest and largest.
const SIZE: (f32, f32) = (0.07, 0.75);

/// The most of a box that a later object's box may cover.
const MOST_COVERED: f32 = 0.3;

/// The least of a box that is inside the image.
const LEAST_INSIDE: f32 = 0.7;

/// Positions to try for an object.
const PLACEMENT_TRIES: usize = 30;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use retinanet_settings::Whole;

    use super::super::{Split, image_rng};
    use super::*;

    fn config() -> ShapesConfig {
        ShapesConfig {
            textured: true,
            width: Whole::literal(128),
            height: Whole::literal(96),
            max_objects: Whole::literal(8),
            ..ShapesConfig::default()
        }
    }

    fn rendered(count: usize) -> impl Iterator<Item = (RgbImage, Vec<Object>)> {
        (0..count).map(|index| render(&config(), &mut image_rng(0, Split::Train, index)))
    }

    #[test]
    fn classes_are_all_pairs_of_forms_and_surfaces() {
        let classes = classes();
        let ids: BTreeSet<_> = classes.iter().map(|(id, _)| id.0).collect();
        let names: BTreeSet<_> = classes.iter().map(|(_, name)| name).collect();
        assert_eq!(ids.len(), Form::ALL.len() * Surface::ALL.len());
        assert_eq!(names.len(), ids.len());
    }

    #[test]
    fn objects_are_of_every_class_and_all_sizes_and_mostly_inside() {
        let mut seen = BTreeSet::new();
        let mut sizes = Vec::new();
        for (image, objects) in rendered(300) {
            assert_eq!(image.dimensions(), (128, 96));
            for object in objects {
                seen.insert(object.category.0);
                let bounds = object.outline.bounds();
                sizes.push(bounds.width().max(bounds.height()));
                // Of the box at least 0.7 is inside, of a slanted outline it may be less.
                let inside = object.outline.clip(128.0, 96.0).area() / object.outline.area();
                assert!(inside > 0.5, "{inside}");
            }
        }
        assert_eq!(seen.len(), classes().len());
        let small = sizes.iter().filter(|size| **size < 16.0).count();
        let large = sizes.iter().filter(|size| **size > 40.0).count();
        let tenth = sizes.len() / 10;
        assert!(small > tenth && large > tenth, "{small} {large} {tenth}");
    }

    #[test]
    fn images_are_neither_flat_nor_blown_out() {
        for (image, _) in rendered(40) {
            let values = image.as_raw();
            let mean = values.iter().map(|it| f64::from(*it)).sum::<f64>() / values.len() as f64;
            let spread = values
                .iter()
                .map(|it| (f64::from(*it) - mean).powi(2))
                .sum::<f64>();
            let deviation = (spread / values.len() as f64).sqrt();
            assert!((15.0..240.0).contains(&mean), "{mean}");
            assert!(deviation > 8.0, "{deviation}");
        }
    }
}
