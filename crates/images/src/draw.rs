//! Boxes with labels, drawn onto images.

use std::ops::Range;

use image::{Rgb, RgbImage};
use retinanet_boxes::{BoundingBox, ClassId, ClassList, Detection, one_line};
use unifont::{Glyph, get_glyph};

/// Each detection drawn as a box with a tag that gives its class and score; the surer lies on top.
///
/// Boxes are clipped to the image; one that covers no part of it is left out.
pub fn draw_detections(image: &mut RgbImage, detections: &[Detection], classes: &ClassList) {
    let mut detections = detections.to_vec();
    detections.sort_by(|a, b| a.score.total_cmp(&b.score));
    let marks = detections.iter().map(|detection| Mark {
        bbox: detection.bbox,
        color: class_color(detection.class),
        label: format!("{} {:.2}", classes.name(detection.class), detection.score),
    });
    draw_marks(image, &marks.collect::<Vec<_>>());
}

/// A box drawn without a tag.
pub fn draw_box(image: &mut RgbImage, bbox: &BoundingBox, color: [u8; 3]) {
    if let Some(pixels) = PixelBox::new(bbox, image) {
        draw_frame(image, &pixels, color);
    }
}

/// A box drawn so faintly that many on one another leave the image to be seen.
pub fn draw_faint_box(image: &mut RgbImage, bbox: &BoundingBox, color: [u8; 3]) {
    let Some(PixelBox { columns, rows }) = PixelBox::new(bbox, image) else {
        return;
    };
    let (right, bottom) = (columns.end - 1, rows.end - 1);
    let along = columns.clone().flat_map(|x| [(x, rows.start), (x, bottom)]);
    let down = rows.clone().flat_map(|y| [(columns.start, y), (right, y)]);
    for (x, y) in along.chain(down) {
        let Rgb(pixel) = image.get_pixel_mut(x, y);
        for (value, color) in pixel.iter_mut().zip(color) {
            *value = ((5 * u16::from(*value) + u16::from(color)) / 6) as u8;
        }
    }
}

/// The colour of a class: always the same, and unlike its neighbours'.
pub fn class_color(class: ClassId) -> [u8; 3] {
    /// Degrees; multiples of it stay apart however many there are.
    const GOLDEN_ANGLE: f64 = 137.507_764;
    /// Saturation and value of one class after another, for where many classes bring hues
    /// together; none is so dark that a thin line gets lost.
    const TONES: [(f64, f64); 3] = [(0.92, 1.0), (0.7, 0.92), (0.55, 1.0)];

    let hue = f64::from(class.0) * GOLDEN_ANGLE % 360.0 / 60.0;
    let (saturation, value) = TONES[class.index() % TONES.len()];
    // A channel is full within one sextant of its hue, and weakest beyond two.
    [0.0, 2.0, 4.0].map(|peak| {
        let distance = (hue - peak).abs().min(6.0 - (hue - peak).abs());
        let strength = (2.0 - distance).clamp(0.0, 1.0);
        (255.0 * value * (1.0 - saturation * (1.0 - strength))).round() as u8
    })
}

struct Mark {
    bbox: BoundingBox,
    color: [u8; 3],
    label: String,
}

/// Draws the boxes and then the tags, so that no box crosses out a tag; the last lies on top.
fn draw_marks(image: &mut RgbImage, marks: &[Mark]) {
    let visible: Vec<_> = marks
        .iter()
        .filter_map(|mark| Some((mark, PixelBox::new(&mark.bbox, image)?)))
        .collect();
    for (mark, pixels) in &visible {
        draw_frame(image, pixels, mark.color);
    }
    // The last has the first choice.
    let mut tags: Vec<Tag> = Vec::new();
    for (mark, pixels) in visible.iter().rev() {
        tags.push(Tag::place(image, pixels, mark, &tags));
    }
    for (tag, (mark, _)) in tags.iter().rev().zip(&visible) {
        tag.draw(image, mark.color);
    }
}

/// The pixels of a box: within the image, at least one by one.
struct PixelBox {
    columns: Range<u32>,
    rows: Range<u32>,
}

impl PixelBox {
    /// `None` if the box covers no part of the image.
    fn new(bbox: &BoundingBox, image: &RgbImage) -> Option<Self> {
        let (width, height) = image.dimensions();
        let clipped = bbox.clip(width as f32, height as f32);
        let range = |low: f32, high: f32, length: u32| {
            let start = (low.round() as u32).min(length - 1);
            start..(high.round() as u32).clamp(start + 1, length)
        };
        clipped.is_proper().then(|| Self {
            columns: range(clipped.x1, clipped.x2, width),
            rows: range(clipped.y1, clipped.y2, height),
        })
    }
}

fn draw_frame(image: &mut RgbImage, pixels: &PixelBox, color: [u8; 3]) {
    let thickness = line_thickness(image);
    let PixelBox { columns, rows } = pixels;
    let [left, right] = ends(columns, thickness);
    let [top, bottom] = ends(rows, thickness);
    for side in [left, right] {
        fill(image, side, rows.clone(), color);
    }
    for side in [top, bottom] {
        fill(image, columns.clone(), side, color);
    }
}

/// The first and the last `thickness` of a range.
fn ends(range: &Range<u32>, thickness: u32) -> [Range<u32>; 2] {
    let thickness = thickness.min(range.end - range.start);
    [
        range.start..range.start + thickness,
        range.end - thickness..range.end,
    ]
}

/// A box's label, and the pixels that it covers.
struct Tag {
    label: String,
    columns: Range<u32>,
    rows: Range<u32>,
}

impl Tag {
    /// Puts a tag above its box, or where fewer of the others' pixels are: into its top, below it,
    /// into its bottom, and a tag's height further up or down. It is shifted into the image; what a
    /// small image cannot hold is cut off.
    fn place(image: &RgbImage, pixels: &PixelBox, mark: &Mark, others: &[Self]) -> Self {
        let scale = text_scale(image);
        let label = one_line(&mark.label);
        let width = label.chars().map(glyph_width).sum::<u32>();
        let width = scale * (width + 2 * TAG_MARGIN);
        let height = scale * GLYPH_HEIGHT;
        let (image_width, image_height) = image.dimensions();

        let x = pixels.columns.start.min(image_width.saturating_sub(width));
        let PixelBox { rows, .. } = pixels;
        let places = [
            rows.start.checked_sub(height),
            Some(rows.start),
            Some(rows.end),
            rows.end.checked_sub(height),
            rows.start.checked_sub(2 * height),
            Some(rows.end + height),
        ];
        let tags = places.into_iter().flatten().map(|y| {
            let y = y.min(image_height.saturating_sub(height));
            Self {
                label: label.clone(),
                columns: x..(x + width).min(image_width),
                rows: y..(y + height).min(image_height),
            }
        });
        let covered = |tag: &Self| others.iter().map(|other| tag.common(other)).sum::<u32>();
        // The first of equals.
        let best = tags.min_by_key(covered);
        best.unwrap_or(Self {
            label,
            columns: 0..0,
            rows: 0..0,
        })
    }

    /// How many pixels both cover.
    fn common(&self, other: &Self) -> u32 {
        let common = |a: &Range<u32>, b: &Range<u32>| {
            (a.end.min(b.end)).saturating_sub(a.start.max(b.start))
        };
        common(&self.columns, &other.columns) * common(&self.rows, &other.rows)
    }

    fn draw(&self, image: &mut RgbImage, color: [u8; 3]) {
        fill(image, self.columns.clone(), self.rows.clone(), color);
        let (scale, ink) = (text_scale(image), text_color(color));
        let (mut x, y) = (self.columns.start + scale * TAG_MARGIN, self.rows.start);
        for character in self.label.chars() {
            if let Some(glyph) = glyph(character) {
                draw_glyph(image, glyph, [x, y], scale, ink);
            }
            x += scale * glyph_width(character);
        }
    }
}

/// The glyph of a character, or the one that stands for those which the font does not have.
fn glyph(character: char) -> Option<&'static Glyph> {
    get_glyph(character).or_else(|| get_glyph(char::REPLACEMENT_CHARACTER))
}

/// Width of a character, before it is scaled.
fn glyph_width(character: char) -> u32 {
    glyph(character).map_or(0, |glyph| glyph.get_width() as u32)
}

/// Renders what of a glyph lies in the image, its upper left corner at `[x, y]`.
fn draw_glyph(image: &mut RgbImage, glyph: &Glyph, [x, y]: [u32; 2], scale: u32, ink: [u8; 3]) {
    let (image_width, image_height) = image.dimensions();
    for row in 0..GLYPH_HEIGHT {
        for column in 0..glyph.get_width() as u32 {
            if glyph.get_pixel(column as usize, row as usize) {
                let (x, y) = (x + scale * column, y + scale * row);
                let columns = x.min(image_width)..(x + scale).min(image_width);
                fill(
                    image,
                    columns,
                    y.min(image_height)..(y + scale).min(image_height),
                    ink,
                );
            }
        }
    }
}

/// Black or white, whichever the eye reads more easily on a colour.
fn text_color([red, green, blue]: [u8; 3]) -> [u8; 3] {
    // Luma by ITU-R BT.601, in 0..=255.
    let luma = 0.299 * f32::from(red) + 0.587 * f32::from(green) + 0.114 * f32::from(blue);
    if luma > 128.0 { [0; 3] } else { [255; 3] }
}

/// How many times larger than the font's 16 pixels text is, so that it can be read where the whole image
/// is looked at: twice from a longer side of 1050 pixels, three times from 1750, and so on.
fn text_scale(image: &RgbImage) -> u32 {
    const READABLE: u32 = 700;
    let longer = image.width().max(image.height());
    ((longer + READABLE / 2) / READABLE).max(1)
}

/// 2 pixels, and beyond a longer side of 1000 one for each 500.
fn line_thickness(image: &RgbImage) -> u32 {
    (image.width().max(image.height()) / 500).max(2)
}

/// Columns and rows must lie within the image.
fn fill(image: &mut RgbImage, columns: Range<u32>, rows: Range<u32>, color: [u8; 3]) {
    for y in rows {
        for x in columns.clone() {
            image.put_pixel(x, y, Rgb(color));
        }
    }
}

/// Height of the font's glyphs in pixels, before they are scaled.
const GLYPH_HEIGHT: u32 = 16;
/// Pixels left and right of the text in a tag, before they are scaled.
const TAG_MARGIN: u32 = 2;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use retinanet_boxes::{CategoryId, Class};

    use super::*;

    const BLACK: Rgb<u8> = Rgb([0; 3]);

    fn classes() -> ClassList {
        let class = |category, name: &str| Class::new(CategoryId(category), name);
        ClassList::new(vec![
            class(1, "circle"),
            class(7, "d\u{e9}j\u{e0} \u{661f}"),
        ])
        .unwrap()
    }

    fn detection(bbox: [f32; 4], class: u32, score: f32) -> Detection {
        Detection {
            bbox: bbox.into(),
            class: ClassId(class),
            score,
        }
    }

    fn drawn(width: u32, height: u32, detections: &[Detection]) -> RgbImage {
        let mut image = RgbImage::new(width, height);
        draw_detections(&mut image, detections, &classes());
        image
    }

    #[test]
    fn the_edge_of_the_box_has_the_colour_of_the_class() {
        let image = drawn(200, 200, &[detection([40.0, 60.0, 160.0, 150.0], 0, 0.5)]);
        let color = Rgb(class_color(ClassId(0)));
        for (x, y) in [
            (40, 100),
            (41, 100),
            (158, 100),
            (159, 100),
            (100, 60),
            (100, 149),
        ] {
            assert_eq!(*image.get_pixel(x, y), color, "({x}, {y})");
        }
        for (x, y) in [
            (39, 100),
            (42, 100),
            (157, 100),
            (160, 100),
            (100, 62),
            (100, 150),
        ] {
            assert_eq!(*image.get_pixel(x, y), BLACK, "({x}, {y})");
        }
    }

    #[test]
    fn lines_are_thicker_on_large_images() {
        let image = drawn(
            2000,
            300,
            &[detection([500.0, 140.0, 900.0, 190.0], 0, 0.5)],
        );
        let color = Rgb(class_color(ClassId(0)));
        assert_eq!(*image.get_pixel(503, 170), color);
        assert_eq!(*image.get_pixel(504, 170), BLACK);
    }

    #[test]
    fn the_tag_stands_above_the_box_or_within_its_top() {
        let color = Rgb(class_color(ClassId(0)));
        let image = drawn(200, 200, &[detection([40.0, 60.0, 160.0, 150.0], 0, 0.5)]);
        // "circle 0.50" takes 11 · 8 + 4 = 92 columns and 16 rows.
        assert_eq!(*image.get_pixel(40, 44), color);
        assert_eq!(*image.get_pixel(131, 44), color);
        assert_eq!(*image.get_pixel(132, 44), BLACK);
        assert_eq!(*image.get_pixel(40, 43), BLACK);

        let image = drawn(200, 200, &[detection([40.0, 5.0, 160.0, 150.0], 0, 0.5)]);
        assert_eq!(*image.get_pixel(40, 4), BLACK);
        assert_eq!(*image.get_pixel(131, 20), color);
    }

    #[test]
    fn the_tag_is_shifted_into_the_image() {
        let image = drawn(200, 200, &[detection([190.0, 60.0, 199.0, 150.0], 0, 0.5)]);
        let color = Rgb(class_color(ClassId(0)));
        assert_eq!(*image.get_pixel(108, 44), color);
        assert_eq!(*image.get_pixel(199, 44), color);
        assert_eq!(*image.get_pixel(107, 44), BLACK);
    }

    #[test]
    fn the_surer_detection_lies_on_top() {
        let sure = detection([40.0, 60.0, 160.0, 150.0], 1, 0.9);
        let unsure = detection([40.0, 60.0, 160.0, 150.0], 0, 0.4);
        for order in [[sure, unsure], [unsure, sure]] {
            let image = drawn(200, 200, &order);
            assert_eq!(image.get_pixel(40, 100).0, class_color(ClassId(1)));
        }
    }

    #[test]
    fn tags_of_boxes_in_one_place_stand_apart() {
        let bbox = [40.0, 60.0, 160.0, 150.0];
        let detections = [detection(bbox, 0, 0.9), detection(bbox, 1, 0.8)];
        let image = drawn(200, 200, &detections);
        // The surer one's above the box, the other's in its top.
        for (class, y) in [(0, 44), (1, 60)] {
            let color = Rgb(class_color(ClassId(class)));
            assert_eq!(*image.get_pixel(41, y), color, "class {class}");
            assert_eq!(*image.get_pixel(41, y + 15), color, "class {class}");
        }
    }

    #[test]
    fn odd_boxes_and_tiny_images_are_survived() {
        let (nan, infinity) = (f32::NAN, f32::INFINITY);
        let odd: Vec<_> = [
            [0.0, 0.0, 0.0, 0.0],
            [5.0, 5.0, 5.0, 9.0],
            [9.0, 9.0, 3.0, 3.0],
            [-50.0, -50.0, -10.0, -10.0],
            [1e9, 1e9, 2e9, 2e9],
            [nan, 0.0, 5.0, 5.0],
            [-infinity, -infinity, infinity, infinity],
            [0.4, 0.4, 0.45, 0.45],
            [-1e30, 2.0, 1e30, 3.0],
        ]
        .into_iter()
        .cycle()
        .zip([0.1, nan, 0.3, -1.0, infinity].into_iter().cycle())
        .map(|(bbox, score)| detection(bbox, 99, score))
        // As many as make the sort notice an order that is none.
        .take(100)
        .collect();
        for (width, height) in [(1, 1), (0, 0), (3, 200), (200, 3), (64, 64)] {
            drawn(width, height, &odd);
        }
    }

    #[test]
    fn a_box_outside_the_image_leaves_no_trace() {
        let image = drawn(64, 64, &[detection([70.0, 10.0, 90.0, 30.0], 0, 0.9)]);
        assert!(image.pixels().all(|pixel| *pixel == BLACK));
    }

    #[test]
    fn names_are_rendered_in_any_script() {
        for name in [
            "déjà",
            "红色",
            "Größe",
            "красный",
            "أحمر",
            "赤い",
            "빨강",
            "สีแดง",
        ] {
            for character in name.chars() {
                let glyph = get_glyph(character).expect(name);
                let pixels = (0..16).flat_map(|y| (0..glyph.get_width()).map(move |x| (x, y)));
                assert!(
                    pixels.into_iter().any(|(x, y)| glyph.get_pixel(x, y)),
                    "{character}"
                );
            }
        }
        // Wide glyphs take twice the place: 2 · 16 + 5 · 8 + 4 = 76 columns.
        let class = Class::new(CategoryId(1), "红色");
        let mut image = RgbImage::new(200, 200);
        let found = [detection([40.0, 60.0, 160.0, 150.0], 0, 0.5)];
        draw_detections(&mut image, &found, &ClassList::new(vec![class]).unwrap());
        let color = Rgb(class_color(ClassId(0)));
        assert_eq!(*image.get_pixel(115, 44), color);
        assert_eq!(*image.get_pixel(116, 44), BLACK);
        let ink = image
            .pixels()
            .filter(|it| it.0 == text_color(color.0))
            .count();
        assert!(ink > 100, "{ink}");
        assert!(glyph('\u{1f34e}').is_some());
    }

    #[test]
    fn text_grows_with_the_image() {
        let image = drawn(
            2048,
            1536,
            &[detection([400.0, 600.0, 900.0, 900.0], 0, 0.5)],
        );
        let color = Rgb(class_color(ClassId(0)));
        // 48 rows, and 3 · (11 · 8 + 4) columns.
        assert_eq!(*image.get_pixel(400, 552), color);
        assert_eq!(*image.get_pixel(675, 552), color);
        assert_eq!(*image.get_pixel(676, 552), BLACK);
        assert_eq!(*image.get_pixel(400, 551), BLACK);
    }

    #[test]
    fn two_hundred_classes_have_colours_of_their_own() {
        let colors: HashSet<_> = (0..200).map(|class| class_color(ClassId(class))).collect();
        assert_eq!(colors.len(), 200);
    }

    #[test]
    fn colours_stay_as_they_are() {
        // Hue 0° with s = 0.92, v = 1; 137.5° with 0.7 and 0.92; 275° with 0.55 and 1. The
        // weakest channel is 255 · v · (1 - s): 20.4, 70.4 and 114.75.
        assert_eq!(class_color(ClassId(0)), [255, 20, 20]);
        assert_eq!(class_color(ClassId(1)), [70, 235, 118]);
        assert_eq!(class_color(ClassId(2)), [197, 115, 255]);
    }
}
