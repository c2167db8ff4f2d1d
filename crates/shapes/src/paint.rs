use std::f32::consts::TAU;

use image::RgbImage;
use rand::{Rng, RngExt};
use retinanet_boxes::BoundingBox;
use tiny_skia::{
    Color, FillRule, GradientStop, LinearGradient, Paint, Path, PathBuilder, Pixmap, Point,
    RadialGradient, Rect, Shader, SpreadMode, Stroke, Transform,
};

use super::outline::Outline;
use super::scene::{Blend, Figure, Rgb, Scene, any_color, pixel_scale};

/// Paints a scene: backdrop, faint clutter, decoys, figures, and noise over everything.
pub(super) fn paint(scene: &Scene, rng: &mut impl Rng) -> RgbImage {
    let mut pixmap =
        Pixmap::new(scene.width, scene.height).expect("the config's sizes are checked");
    paint_backdrop(&mut pixmap, scene.backdrop);
    paint_clutter(&mut pixmap, rng);
    for decoy in &scene.decoys {
        let mut builder = PathBuilder::new();
        push_outline(&mut builder, &decoy.outline);
        fill_outline(&mut pixmap, builder, decoy.colors, &decoy.outline);
    }
    for figure in &scene.figures {
        paint_figure(&mut pixmap, figure);
    }
    noisy_image(&pixmap, rng)
}

fn paint_backdrop(pixmap: &mut Pixmap, backdrop: Blend) {
    let (width, height) = (pixmap.width() as f32, pixmap.height() as f32);
    if let Some(rect) = Rect::from_xywh(0.0, 0.0, width, height) {
        let shader = blend_shader(backdrop, &BoundingBox::new(0.0, 0.0, width, height));
        pixmap.fill_rect(rect, &paint_with(shader), Transform::identity(), None);
    }
}

/// Things that are not objects: broad faint blobs without an edge, thin lines, tiny dots.
fn paint_clutter(pixmap: &mut Pixmap, rng: &mut impl Rng) {
    let (width, height) = (pixmap.width() as f32, pixmap.height() as f32);
    let scale = pixel_scale(pixmap.width(), pixmap.height());
    // A wide image has as much clutter a square as a square one.
    let squares = width.max(height) / width.min(height);
    let count = |low: f32, high: f32, rng: &mut dyn Rng| {
        (squares * rng.random_range(low..=high)).round() as usize
    };
    let size = (width, height);
    for _ in 0..count(3.0, 6.0, rng) {
        paint_blob(pixmap, size, scale, rng);
    }
    for _ in 0..count(5.0, 11.0, rng) {
        paint_line(pixmap, size, scale, rng);
    }
    for _ in 0..count(12.0, 28.0, rng) {
        paint_dot(pixmap, size, scale, rng);
    }
}

fn anywhere((width, height): (f32, f32), rng: &mut impl Rng) -> Point {
    Point::from_xy(
        rng.random_range(0.0..=width),
        rng.random_range(0.0..=height),
    )
}

/// A broad faint blob without an edge.
fn paint_blob(pixmap: &mut Pixmap, size: (f32, f32), scale: f32, rng: &mut impl Rng) {
    let (center, radius) = (anywhere(size, rng), rng.random_range(15.0..=45.0) * scale);
    let color = any_color(rng);
    let stops = vec![
        GradientStop::new(0.0, to_color(color, rng.random_range(0.08..=0.2))),
        GradientStop::new(1.0, to_color(color, 0.0)),
    ];
    let shader = RadialGradient::new(
        center,
        0.0,
        center,
        radius,
        stops,
        SpreadMode::Pad,
        Transform::identity(),
    );
    if let (Some(shader), Some(path)) =
        (shader, PathBuilder::from_circle(center.x, center.y, radius))
    {
        fill(pixmap, &path, shader);
    }
}

/// A thin line, a little bent.
fn paint_line(pixmap: &mut Pixmap, size: (f32, f32), scale: f32, rng: &mut impl Rng) {
    let (start, bend) = (anywhere(size, rng), rng.random_range(-8.0..=8.0) * scale);
    let (length, angle) = (
        rng.random_range(12.0..=60.0) * scale,
        rng.random_range(0.0..TAU),
    );
    let (sin, cos) = angle.sin_cos();
    let mut builder = PathBuilder::new();
    builder.move_to(start.x, start.y);
    builder.quad_to(
        start.x + 0.5 * length * cos - bend * sin,
        start.y + 0.5 * length * sin + bend * cos,
        start.x + length * cos,
        start.y + length * sin,
    );
    let stroke = Stroke {
        width: rng.random_range(0.7..=1.3) * scale.max(1.0),
        ..Stroke::default()
    };
    let color = to_color(any_color(rng), rng.random_range(0.12..=0.3));
    if let Some(path) = builder.finish() {
        let paint = paint_with(Shader::SolidColor(color));
        pixmap.stroke_path(&path, &paint, &stroke, Transform::identity(), None);
    }
}

/// A tiny dot.
fn paint_dot(pixmap: &mut Pixmap, size: (f32, f32), scale: f32, rng: &mut impl Rng) {
    let (center, radius) = (
        anywhere(size, rng),
        rng.random_range(0.6..=1.5) * scale.max(1.0),
    );
    let color = to_color(any_color(rng), rng.random_range(0.2..=0.4));
    if let Some(path) = PathBuilder::from_circle(center.x, center.y, radius) {
        fill(pixmap, &path, Shader::SolidColor(color));
    }
}

/// Paints a figure with smooth edges and nothing beyond its outline.
fn paint_figure(pixmap: &mut Pixmap, figure: &Figure) {
    let mut builder = PathBuilder::new();
    push_outline(&mut builder, &figure.outline);
    if figure.hollow {
        // The even-odd rule leaves the inner outline out.
        push_outline(&mut builder, &figure.outline.shrunk(HOLE_SHARE));
    }
    fill_outline(pixmap, builder, figure.colors, &figure.outline);
}

fn fill_outline(pixmap: &mut Pixmap, builder: PathBuilder, colors: Blend, outline: &Outline) {
    if let Some(path) = builder.finish() {
        fill(pixmap, &path, blend_shader(colors, &outline.bounds()));
    }
}

fn push_outline(builder: &mut PathBuilder, outline: &Outline) {
    if let [[x, y], rest @ ..] = outline.points() {
        builder.move_to(*x, *y);
        for [x, y] in rest {
            builder.line_to(*x, *y);
        }
        builder.close();
    }
}

fn fill(pixmap: &mut Pixmap, path: &Path, shader: Shader<'_>) {
    let paint = paint_with(shader);
    pixmap.fill_path(path, &paint, FillRule::EvenOdd, Transform::identity(), None);
}

fn paint_with(shader: Shader<'_>) -> Paint<'_> {
    Paint {
        shader,
        ..Paint::default()
    }
}

/// A blend whose ends lie on the circle around a box.
fn blend_shader(blend: Blend, bounds: &BoundingBox) -> Shader<'static> {
    let (from, to) = (to_color(blend.from, 1.0), to_color(blend.to, 1.0));
    let (center_x, center_y) = bounds.center();
    let radius = 0.5 * bounds.width().hypot(bounds.height());
    let (dx, dy) = (radius * blend.angle.cos(), radius * blend.angle.sin());
    LinearGradient::new(
        Point::from_xy(center_x - dx, center_y - dy),
        Point::from_xy(center_x + dx, center_y + dy),
        vec![GradientStop::new(0.0, from), GradientStop::new(1.0, to)],
        SpreadMode::Pad,
        Transform::identity(),
    )
    .unwrap_or(Shader::SolidColor(from))
}

fn to_color(rgb: Rgb, alpha: f32) -> Color {
    let [red, green, blue] = rgb.map(|channel| channel.round() as u8);
    Color::from_rgba8(red, green, blue, (255.0 * alpha).round() as u8)
}

/// Turns an opaque pixmap into an image with a little noise in each channel of each pixel.
fn noisy_image(pixmap: &Pixmap, rng: &mut impl Rng) -> RgbImage {
    let mut image = RgbImage::new(pixmap.width(), pixmap.height());
    let mut noise = vec![0; image.as_raw().len()];
    rng.fill_bytes(&mut noise);
    let channels = pixmap
        .pixels()
        .iter()
        .flat_map(|pixel| [pixel.red(), pixel.green(), pixel.blue()]);
    for ((out, channel), noise) in image.iter_mut().zip(channels).zip(noise) {
        // The sum of two numbers in 0..8 less its mean: -7 to 7 with a deviation of 3.2.
        let offset = i16::from(noise & 7) + i16::from(noise >> 3 & 7) - 7;
        *out = (i16::from(channel) + offset).clamp(0, 255) as u8;
    }
    image
}

/// Size of the hole of a hollow figure against the figure.
const HOLE_SHARE: f32 = 0.6;

#[cfg(test)]
mod tests {
    use super::super::outline::Shape;
    use super::super::{ShapesConfig, Split, image_rng};
    use super::*;

    /// The box around the pixels that a figure changes, by more than a breath.
    fn changed_bounds(figure: &Figure, width: u32, height: u32) -> BoundingBox {
        let mut pixmap = Pixmap::new(width, height).unwrap();
        pixmap.fill(Color::BLACK);
        let white = Blend {
            from: [255.0; 3],
            to: [255.0; 3],
            angle: 0.0,
        };
        paint_figure(
            &mut pixmap,
            &Figure {
                colors: white,
                ..figure.clone()
            },
        );
        let changed = pixmap
            .pixels()
            .iter()
            .zip(0..)
            .filter(|(pixel, _)| pixel.red() > 4);
        changed.fold(
            BoundingBox::new(width as f32, height as f32, 0.0, 0.0),
            |bounds, (_, index)| {
                let (x, y) = ((index % width) as f32, (index / width) as f32);
                BoundingBox::new(
                    bounds.x1.min(x),
                    bounds.y1.min(y),
                    bounds.x2.max(x + 1.0),
                    bounds.y2.max(y + 1.0),
                )
            },
        )
    }

    #[test]
    fn boxes_are_those_of_the_pixels() {
        let config = ShapesConfig::default();
        let (width, height) = (config.width.as_u32(), config.height.as_u32());
        let mut seen = [0; Shape::ALL.len()];
        let mut cut = 0;
        for index in 0..150 {
            let mut rng = image_rng(config.seed.get(), Split::Val, index);
            for figure in Scene::draw(&config, &mut rng).figures {
                let annotated = figure.outline.clip(width as f32, height as f32).bounds();
                let pixels = changed_bounds(&figure, width, height);
                for (annotated, pixel) in annotated.to_array().into_iter().zip(pixels.to_array()) {
                    assert!(
                        (annotated - pixel).abs() <= 1.5,
                        "{figure:?}: {annotated} against {pixel}"
                    );
                }
                seen[figure.shape as usize] += 1;
                cut += usize::from(annotated != figure.outline.bounds());
            }
        }
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
        assert!(cut > 10, "{cut}");
    }

    #[test]
    fn noise_is_slight_and_even() {
        let mut pixmap = Pixmap::new(100, 100).unwrap();
        pixmap.fill(Color::from_rgba8(100, 100, 100, 255));
        let image = noisy_image(&pixmap, &mut image_rng(0, Split::Train, 0));
        let offsets: Vec<_> = image
            .iter()
            .map(|channel| f32::from(*channel) - 100.0)
            .collect();
        let mean = offsets.iter().sum::<f32>() / offsets.len() as f32;
        assert!(offsets.iter().all(|offset| offset.abs() <= 7.0));
        assert!(mean.abs() < 0.1, "{mean}");
    }

    #[test]
    fn clutter_is_fainter_than_any_object() {
        let mut pixmap = Pixmap::new(160, 160).unwrap();
        let grey = [128.0; 3];
        for index in 0..20 {
            pixmap.fill(to_color(grey, 1.0));
            paint_clutter(&mut pixmap, &mut image_rng(0, Split::Train, index));
            let strong = pixmap.pixels().iter().filter(|pixel| {
                let rgb = [pixel.red(), pixel.green(), pixel.blue()].map(f32::from);
                super::super::scene::color_distance(rgb, grey) > 100.0
            });
            let share = strong.count() as f32 / (160.0 * 160.0);
            assert!(share < 0.01, "{share}");
        }
    }
}
