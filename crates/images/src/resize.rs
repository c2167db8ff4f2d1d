use std::sync::Arc;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::pixels::{F32x3, U8x3};
use fast_image_resize::{FilterType, PixelTrait, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{RgbImage, imageops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Region;
use crate::pixels::Pixels;

/// How pixels of a resized image are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Pillow's bilinear filter, which widens as the image shrinks, rounded to 8 bits: detectron2.
    #[default]
    Antialiased,
    /// Between the four nearest pixels however much the image shrinks, not rounded: torchvision's
    /// models, and up to rounding mmdetection.
    Bilinear,
}

/// How the sides of a resized image become whole numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SizeRounding {
    /// To the nearest: detectron2.
    #[default]
    Nearest,
    /// Down: torchvision.
    Down,
}

/// Width and height of a resized image.
pub(crate) fn resized_size(
    size: (u32, u32),
    short_side: u32,
    long_side: u32,
    rounding: SizeRounding,
) -> (u32, u32) {
    match rounding {
        SizeRounding::Nearest => rounded_size(size, short_side, long_side),
        SizeRounding::Down => cut_size(size, short_side, long_side),
    }
}

/// In the arithmetic of torchvision's `GeneralizedRCNNTransform`.
fn cut_size((width, height): (u32, u32), short_side: u32, long_side: u32) -> (u32, u32) {
    let shorter = f64::from(short_side) / f64::from(width.min(height));
    let longer = f64::from(long_side) / f64::from(width.max(height));
    let scale = shorter.min(longer);
    let cut = |side: u32| ((f64::from(side) * scale) as u32).max(1);
    (cut(width), cut(height))
}

/// In the arithmetic of detectron2's `ResizeShortestEdge`.
fn rounded_size((width, height): (u32, u32), short_side: u32, long_side: u32) -> (u32, u32) {
    let (width, height) = (f64::from(width), f64::from(height));
    let (short_side, long_side) = (f64::from(short_side), f64::from(long_side));
    let scale = short_side / width.min(height);
    // The shorter side is set, not computed: `scale * side` may round to a neighbour.
    let (mut width, mut height) = if height < width {
        (scale * width, short_side)
    } else {
        (short_side, scale * height)
    };
    if width.max(height) > long_side {
        let scale = long_side / width.max(height);
        width *= scale;
        height *= scale;
    }
    let round = |side: f64| ((side + 0.5) as u32).max(1);
    (round(width), round(height))
}

/// The region of an image, at another size.
pub(crate) fn resize(
    image: Arc<RgbImage>,
    source: Region,
    size: (u32, u32),
    interpolation: Interpolation,
) -> Pixels {
    if source == Region::whole(image.dimensions()) && image.dimensions() == size {
        return Pixels::Bytes(Arc::unwrap_or_clone(image));
    }
    match interpolation {
        Interpolation::Antialiased => Pixels::Bytes(resize_antialiased(&image, source, size)),
        Interpolation::Bilinear => Pixels::Floats(resize_bilinear(&image, source, size)),
    }
}

fn resize_bilinear(image: &RgbImage, source: Region, (width, height): (u32, u32)) -> Vec<[f32; 3]> {
    let (part, source) = surroundings(image, source);
    let bytes: Vec<u8> = (part.as_raw().iter())
        .flat_map(|&value| f32::from(value).to_ne_bytes())
        .collect();
    let options = options(
        ResizeAlg::Interpolation(FilterType::Bilinear),
        source,
        &part,
    );
    let image = ImageRef::new(part.width(), part.height(), &bytes, PixelType::F32x3)
        .expect("an `RgbImage` holds 3 numbers a pixel");
    let mut resized = Image::new(width, height, PixelType::F32x3);
    resize_as::<F32x3>(&image, &mut resized, &options);
    let (numbers, _) = resized.buffer().as_chunks::<4>();
    let numbers: Vec<f32> = numbers.iter().copied().map(f32::from_ne_bytes).collect();
    numbers.as_chunks().0.to_vec()
}

/// The pixels that a region touches, and where it lies among them: the tiles of a large image are
/// much smaller than it is.
fn surroundings(image: &RgbImage, source: Region) -> (RgbImage, Region) {
    let range = |start: f64, length: f64, side: u32| {
        let first = (start.max(0.0) as u32).min(side - 1);
        let end = ((start + length).ceil() as u32).clamp(first + 1, side);
        (first, end - first)
    };
    let (left, width) = range(source.x, source.width, image.width());
    let (top, height) = range(source.y, source.height, image.height());
    let part = imageops::crop_imm(image, left, top, width, height).to_image();
    let x = source.x - f64::from(left);
    let y = source.y - f64::from(top);
    (part, Region { x, y, ..source })
}

/// Resizes with Pillow's bilinear filter, which widens as the image shrinks: without that, thin
/// objects break up.
fn resize_antialiased(image: &RgbImage, source: Region, (width, height): (u32, u32)) -> RgbImage {
    // The rows take most of the time, so they are resized while there are few of them. Both at
    // once would begin with the columns.
    if source == Region::whole(image.dimensions()) && height > image.height() {
        let widened = convolve(image, source, (width, image.height()));
        return convolve(
            &widened,
            Region::whole(widened.dimensions()),
            (width, height),
        );
    }
    convolve(image, source, (width, height))
}

/// Resizes the columns and then the rows, as far as they change.
fn convolve(image: &RgbImage, source: Region, (width, height): (u32, u32)) -> RgbImage {
    let options = options(ResizeAlg::Convolution(FilterType::Bilinear), source, image);
    let image = ImageRef::new(image.width(), image.height(), image, PixelType::U8x3)
        .expect("an `RgbImage` holds 3 bytes a pixel");
    let mut resized = Image::new(width, height, PixelType::U8x3);
    resize_as::<U8x3>(&image, &mut resized, &options);
    RgbImage::from_raw(width, height, resized.into_vec())
        .expect("a buffer of 3 bytes a pixel makes an `RgbImage`")
}

/// Resizes images of one kind of pixel. `Resizer::resize` would do so for every kind that there is,
/// and take more than a minute to compile.
fn resize_as<P: PixelTrait>(
    image: &ImageRef<'_>,
    resized: &mut Image<'_>,
    options: &ResizeOptions,
) {
    let kind = "both images have this kind of pixel";
    let from = image.typed_image::<P>().expect(kind);
    let mut to = resized.typed_image_mut::<P>().expect(kind);
    Resizer::new()
        .resize_typed(&from, &mut to, options)
        .expect("the region lies in the image");
}

fn options(algorithm: ResizeAlg, source: Region, image: &RgbImage) -> ResizeOptions {
    let Region {
        x,
        y,
        width,
        height,
    } = source;
    // A region that was computed may end beyond the image by a rounding.
    let width = width.min(f64::from(image.width()) - x);
    let height = height.min(f64::from(image.height()) - y);
    ResizeOptions::new()
        .resize_alg(algorithm)
        .crop(x, y, width, height)
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    /// From detectron2's `ResizeShortestEdge.get_output_shape(h, w, short, long)`, worked out by
    /// hand: scale, then limit, then `int(x + 0.5)`.
    #[test]
    fn sizes_are_detectron2s() {
        for ((width, height), short_side, expected) in [
            // 800 / 480 · 640 = 1066.67
            ((640, 480), 800, (1067, 800)),
            ((480, 640), 800, (800, 1067)),
            ((500, 500), 800, (800, 800)),
            // 800 / 300 · 1000 = 2666.67 > 1333; 800 · 1333 / 2666.67 = 399.9
            ((1000, 300), 800, (1333, 400)),
            // 800 / 427 · 640 = 1199.06
            ((640, 427), 800, (1199, 800)),
            // Exactly 1332.5 rounds up: 533 · 2.5.
            ((533, 320), 800, (1333, 800)),
            // One side can not vanish: 1333 / 10000 = 0.13.
            ((10_000, 1), 800, (1333, 1)),
        ] {
            let size = rounded_size((width, height), short_side, 1333);
            assert_eq!(size, expected, "{width}×{height}");
        }
    }

    /// ```python
    /// # Pillow 13.0
    /// im = Image.new("RGB", (6, 4))
    /// im.putdata([((x * 40) % 256, (y * 60) % 256, (x * y * 13) % 256)
    ///             for y in range(4) for x in range(6)])
    /// list(im.resize((3, 2), Image.BILINEAR).getdata())
    /// list(im.resize((9, 6), Image.BILINEAR).getdata())[:12]
    /// list(im.resize((3, 6), Image.BILINEAR).getdata())[:6]
    /// ```
    #[test]
    fn pixels_are_pillows() {
        let image = RgbImage::from_fn(6, 4, |x, y| {
            Rgb([(x * 40) as u8, (y * 60) as u8, (x * y * 13) as u8])
        });
        let smaller: [[u8; 3]; 6] = [
            [29, 43, 7],
            [100, 43, 23],
            [171, 43, 40],
            [29, 137, 21],
            [100, 137, 75],
            [171, 137, 127],
        ];
        let larger: [[u8; 3]; 12] = [
            [0, 0, 0],
            [20, 0, 0],
            [47, 0, 0],
            [73, 0, 0],
            [100, 0, 0],
            [127, 0, 0],
            [153, 0, 0],
            [180, 0, 0],
            [200, 0, 0],
            [0, 30, 0],
            [20, 30, 4],
            [47, 30, 8],
        ];
        let narrower: [[u8; 3]; 6] = [
            [29, 0, 0],
            [100, 0, 0],
            [171, 0, 0],
            [29, 30, 5],
            [100, 30, 17],
            [171, 30, 28],
        ];
        for (size, expected) in [
            ((3, 2), smaller.as_flattened()),
            ((9, 6), larger.as_flattened()),
            ((3, 6), narrower.as_flattened()),
        ] {
            let resized = resize_antialiased(&image, Region::whole(image.dimensions()), size);
            for (place, (&value, &pillow)) in resized.as_raw().iter().zip(expected).enumerate() {
                assert!(
                    value.abs_diff(pillow) <= 1,
                    "byte {place}: {value}, not {pillow}"
                );
            }
        }
    }
}
