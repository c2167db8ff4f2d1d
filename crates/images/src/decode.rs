use std::io::Cursor;
use std::path::Path;

use image::error::{ImageFormatHint, ParameterError, ParameterErrorKind, UnsupportedError};
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, RgbImage};

use crate::complete::is_complete;
use crate::decoding::{Decoding, Range16Bit};
use crate::header::orientation;
use crate::{ImagesError, catch_panic};

impl Decoding {
    /// A decoded image as 8-bit RGB.
    fn to_rgb8(self, image: DynamicImage) -> RgbImage {
        let is_16_bit = matches!(
            image,
            DynamicImage::ImageLuma16(_)
                | DynamicImage::ImageLumaA16(_)
                | DynamicImage::ImageRgb16(_)
                | DynamicImage::ImageRgba16(_)
        );
        let Some([black, white]) = self.range_16_bit.filter(|_| is_16_bit).map(Range16Bit::get)
        else {
            return image.into_rgb8();
        };
        let image = image.into_rgb16();
        let (low, range) = (
            u32::from(black),
            u32::from(white.saturating_sub(black)).max(1),
        );
        let scale = |value: &u16| {
            let above = u32::from(*value).saturating_sub(low).min(range);
            ((255 * above + range / 2) / range) as u8
        };
        let values = image.as_raw().iter().map(scale).collect();
        // As many values as the image had; were it otherwise, an empty image is refused by every caller.
        RgbImage::from_raw(image.width(), image.height(), values).unwrap_or_default()
    }
}

/// The least and the largest value of an image file, if its values have 16 bits.
///
/// # Errors
///
/// As [`decode_image`].
pub fn range_of_16_bit(path: &Path, decoding: Decoding) -> Result<Option<[u16; 2]>, ImagesError> {
    let range = |image: DynamicImage| {
        let values = match image {
            DynamicImage::ImageLuma16(image) => image.into_raw(),
            DynamicImage::ImageRgb16(image) => image.into_raw(),
            image @ (DynamicImage::ImageLumaA16(_) | DynamicImage::ImageRgba16(_)) => {
                image.into_rgb16().into_raw()
            }
            _ => return None,
        };
        let bounds = |[low, high]: [u16; 2], value: &u16| [low.min(*value), high.max(*value)];
        Some(values.iter().fold([u16::MAX, 0], bounds))
    };
    guarded(path, |bytes| Ok(range(decode_dynamic(bytes, decoding)?)))
}

/// Decodes an image file to upright RGB.
///
/// The format is told by the file's content, not by its name. The EXIF orientation is applied, so
/// that the pixels stand as a viewer shows them; an orientation that stands only in XMP or in a
/// PNG's text is not seen. Grey, palette, 1-bit, 16-bit and CMYK pictures become 8-bit
/// RGB, and transparency is dropped without blending, as `Image.convert("RGB")` of Pillow does. Of
/// an animation, the first frame counts.
///
/// # Errors
///
/// Returns [`ImagesError::Read`], [`ImagesError::Decode`], [`ImagesError::Truncated`] or, before a pixel
/// is decoded, [`ImagesError::TooManyPixels`], each with the file's name, and [`ImagesError::Panic`] where
/// a decoder panics, as some have on broken files.
pub fn decode_image(path: &Path, decoding: Decoding) -> Result<RgbImage, ImagesError> {
    guarded(path, |bytes| decode_bytes(bytes, decoding))
}

/// What a decoder makes of a file; a panic of it is an error.
fn guarded<T>(
    path: &Path,
    decode: impl FnOnce(&[u8]) -> Result<T, BytesError>,
) -> Result<T, ImagesError> {
    catch_panic(|| of_file(path, decode)).unwrap_or_else(|message| {
        Err(ImagesError::Panic {
            what: format!("image `{}`", path.display()),
            message,
        })
    })
}

fn of_file<T>(
    path: &Path,
    decode: impl FnOnce(&[u8]) -> Result<T, BytesError>,
) -> Result<T, ImagesError> {
    let bytes = retinanet_files::read(path).map_err(|source| ImagesError::Read {
        path: path.into(),
        source,
    })?;
    decode(&bytes).map_err(|error| {
        let path = path.into();
        match error {
            BytesError::Truncated => ImagesError::Truncated { path },
            BytesError::UnknownFormat(source) | BytesError::Decode(source) => {
                ImagesError::Decode { path, source }
            }
            BytesError::TooManyPixels {
                width,
                height,
                max_pixels,
            } => ImagesError::TooManyPixels {
                path,
                width,
                height,
                max_pixels,
            },
        }
    })
}

/// Decodes an image file's content as [`decode_image`] does.
///
/// # Errors
///
/// Returns an error if the bytes are not an image, not a whole one, or one with too many pixels;
/// that is told before a pixel is decoded.
pub fn decode_bytes(bytes: &[u8], decoding: Decoding) -> Result<RgbImage, BytesError> {
    Ok(decoding.to_rgb8(decode_dynamic(bytes, decoding)?))
}

/// Decodes an image, upright, with as many bits and channels as the file has.
fn decode_dynamic(bytes: &[u8], decoding: Decoding) -> Result<DynamicImage, BytesError> {
    let unknown = |hint: ImageFormatHint| {
        let error = UnsupportedError::from(hint);
        Err(BytesError::UnknownFormat(ImageError::Unsupported(error)))
    };
    if let Some(name) = phone_format(bytes) {
        let advice = format!("{name} (convert it to JPEG or PNG)");
        return unknown(ImageFormatHint::Name(advice));
    }
    let reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|source| BytesError::Decode(ImageError::IoError(source)))?;
    let Some(format) = reader.format() else {
        return unknown(ImageFormatHint::Unknown);
    };
    let complete = is_complete(bytes, format);
    let mut decoder = reader.into_decoder().map_err(BytesError::Decode)?;
    let (width, height) = decoder.dimensions();
    let max_pixels = decoding.max_pixels;
    if u64::from(width) * u64::from(height) > max_pixels {
        return Err(BytesError::TooManyPixels {
            width,
            height,
            max_pixels,
        });
    }
    let orientation = orientation(&mut decoder).map_err(BytesError::Decode)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(BytesError::Decode)?;
    image.apply_orientation(orientation);
    if image.width() == 0 || image.height() == 0 {
        let kind = ParameterErrorKind::DimensionMismatch;
        let empty = ImageError::Parameter(ParameterError::from_kind(kind));
        return Err(BytesError::Decode(empty));
    }
    if !complete {
        return Err(BytesError::Truncated);
    }
    Ok(image)
}

/// The name of a format that phones write and no decoder here reads: the brand of an ISO media file.
fn phone_format(bytes: &[u8]) -> Option<&'static str> {
    let brand = bytes
        .strip_prefix(bytes.get(..4)?)?
        .strip_prefix(b"ftyp")?
        .get(..4)?;
    match brand {
        b"heic" | b"heix" | b"hevc" | b"heim" | b"heis" | b"mif1" | b"msf1" => Some("HEIC"),
        b"avif" | b"avis" => Some("AVIF"),
        _ => None,
    }
}

/// Why [`decode_bytes`] gives no picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BytesError {
    /// No image format that we know begins like this.
    #[error("not an image of a known format")]
    UnknownFormat(#[source] ImageError),
    /// The format is known, and the decoder does not like the rest.
    #[error("the image cannot be decoded")]
    Decode(#[source] ImageError),
    /// The file was cut short.
    #[error("the image is cut short")]
    Truncated,
    /// More pixels than the caller takes.
    #[error("the image has {width}×{height} pixels, more than {max_pixels}")]
    TooManyPixels {
        /// Its width, before it is turned upright.
        width: u32,
        /// Its height, before it is turned upright.
        height: u32,
        /// The most that the caller takes.
        max_pixels: u64,
    },
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::path::PathBuf;

    use image::{ImageBuffer, ImageFormat, Luma, Rgb};
    use serde::Deserialize;
    use tempfile::TempDir;

    use super::*;
    use crate::header::read_header;

    const fn at_most(max_pixels: u64) -> Decoding {
        Decoding {
            max_pixels,
            range_16_bit: None,
        }
    }

    /// Pictures of every kind, where they are: below `$RETINANET_SHARED`, else below `shared/` beside
    /// the repository.
    #[expect(clippy::print_stderr, reason = "a skipped test must say so")]
    fn oddities() -> Option<PathBuf> {
        let shared = env::var_os("RETINANET_SHARED").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
            PathBuf::from,
        );
        let folder = shared.join("data/oddities");
        if !folder.is_dir() {
            eprintln!("skipped: {} does not exist", folder.display());
            return None;
        }
        Some(folder)
    }

    #[derive(Deserialize)]
    struct Expectation {
        file_name: String,
        upright_size: (u32, u32),
        pil_error: Option<String>,
        pil_rgb_mean_upright: Option<[f64; 3]>,
    }

    /// What Pillow reads and we do not; the error names the file.
    const NOT_SUPPORTED: [&str; 1] = [
        // `image` has no colour type of 4 bits of grey.
        "hopper_gray_4bpp.tif",
    ];

    /// Largest difference of a mean colour: decoders round the inverse cosine transform and the
    /// upsampling of colour differently.
    const TOLERANCE: f64 = 1.0;

    #[test]
    fn odd_files_decode_as_pillow_decodes_them() -> Result<(), Box<dyn std::error::Error>> {
        let Some(folder) = oddities() else {
            return Ok(());
        };
        let expectations = fs_err::read(folder.join("decode_expectations.json"))?;
        let expectations: Vec<Expectation> = serde_json::from_slice(&expectations)?;

        let faults: Vec<_> = expectations
            .iter()
            .filter_map(|expectation| fault(&folder, expectation))
            .collect();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        Ok(())
    }

    /// What is wrong with the way that we decode a file.
    fn fault(folder: &Path, expectation: &Expectation) -> Option<String> {
        let name = &expectation.file_name;
        let decoded = decode_image(&folder.join("images").join(name), Decoding::default());
        if NOT_SUPPORTED.contains(&name.as_str()) || expectation.pil_error.is_some() {
            return match decoded {
                Ok(_) => Some(format!("{name}: decoded, which must be an error")),
                Err(error) => (!error.to_string().contains(name.as_str()))
                    .then(|| format!("{name}: its name is not in {error}")),
            };
        }
        let image = match decoded {
            Ok(image) => image,
            Err(error) => return Some(format!("{name}: {error:?}")),
        };
        if image.dimensions() != expectation.upright_size {
            return Some(format!("{name}: size {:?}", image.dimensions()));
        }
        let told = read_header(&folder.join("images").join(name))
            .ok()
            .map(|it| it.upright);
        if told != Some(expectation.upright_size) {
            return Some(format!("{name}: told to be {told:?}"));
        }
        let mean = mean(&image);
        let expected = expectation.pil_rgb_mean_upright?;
        let off = (mean.iter().zip(expected)).any(|(mean, pil)| (mean - pil).abs() > TOLERANCE);
        off.then(|| format!("{name}: mean {mean:.2?}, expected {expected:.2?}"))
    }

    fn mean(image: &RgbImage) -> [f64; 3] {
        let mut sums = [0_u64; 3];
        for pixel in image.pixels() {
            for (sum, value) in sums.iter_mut().zip(pixel.0) {
                *sum += u64::from(value);
            }
        }
        let pixels = f64::from(image.width()) * f64::from(image.height());
        sums.map(|sum| sum as f64 / pixels)
    }

    #[test]
    fn formats_of_phones_are_refused_by_name() {
        for (brand, name) in [(b"heic", "HEIC"), (b"mif1", "HEIC"), (b"avif", "AVIF")] {
            let bytes = [&[0, 0, 0, 24], &b"ftyp"[..], brand, &[0; 12]].concat();
            let Err(BytesError::UnknownFormat(error)) = decode_bytes(&bytes, Decoding::default())
            else {
                panic!("{name} is not read");
            };
            assert!(error.to_string().contains(name), "{error}");
        }
        assert!(decode_bytes(b"ftyp", Decoding::default()).is_err());
    }

    /// A mean colour cannot tell a picture from its mirror image.
    #[test]
    fn every_orientation_gives_the_same_picture() -> Result<(), ImagesError> {
        let Some(folder) = oddities() else {
            return Ok(());
        };
        let images = folder.join("images");
        let upright = decode_image(&images.join("hopper.jpg"), Decoding::default())?;
        for extension in ["jpg", "webp"] {
            for orientation in 2..=8 {
                let name = format!("hopper_orientation_{orientation}.{extension}");
                let image = decode_image(&images.join(&name), Decoding::default())?;
                let differences = image.as_raw().iter().zip(upright.as_raw());
                let sum: u64 = differences.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
                let difference = sum as f64 / upright.as_raw().len() as f64;
                // Lossy encodings differ by about 5 levels, other orientations by 50.
                assert!(difference < 15.0, "{name}: {difference:.1}");
            }
        }
        Ok(())
    }

    fn encoded(format: ImageFormat) -> Vec<u8> {
        let image = RgbImage::from_fn(64, 48, |x, y| {
            Rgb([4 * x as u8, 5 * y as u8, (x * y) as u8])
        });
        let mut bytes = Cursor::new(Vec::new());
        image
            .write_to(&mut bytes, format)
            .expect("a picture in memory can be encoded");
        bytes.into_inner()
    }

    fn decode(bytes: &[u8]) -> Result<RgbImage, ImagesError> {
        let folder = TempDir::new().expect("a temporary folder");
        let path = folder.path().join("picture");
        fs_err::write(&path, bytes).expect("the folder is ours");
        decode_image(&path, Decoding::default())
    }

    /// Pillow cuts 16 bits off at 255, which leaves white.
    #[test]
    fn sixteen_bits_are_scaled_and_not_cut() {
        let value = |x: u32, y: u32| (4000 * x + 100 * y) as u16;
        let grey = ImageBuffer::from_fn(16, 8, |x, y| Luma([value(x, y)]));
        let color =
            ImageBuffer::from_fn(16, 8, |x, y| Rgb([value(x, y), value(15 - x, y), 65_535]));
        for (image, is_color) in [
            (DynamicImage::ImageLuma16(grey), false),
            (DynamicImage::ImageRgb16(color), true),
        ] {
            for format in [ImageFormat::Png, ImageFormat::Tiff] {
                let mut bytes = Cursor::new(Vec::new());
                (image.write_to(&mut bytes, format)).expect("it can be encoded");
                let decoded = decode(&bytes.into_inner()).expect("it is sound");
                for (x, y, pixel) in decoded.enumerate_pixels() {
                    let scaled = |value: u16| (f64::from(value) / 257.0).round() as u8;
                    let grey = scaled(value(x, y));
                    let expected = if is_color {
                        [grey, scaled(value(15 - x, y)), 255]
                    } else {
                        [grey; 3]
                    };
                    assert_eq!(pixel.0, expected, "{format:?} at {x}, {y}");
                }
            }
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error() {
        for format in [ImageFormat::Jpeg, ImageFormat::Png] {
            let bytes = encoded(format);
            assert!(decode(&bytes).is_ok(), "{format:?}");
            // The last 8 bytes of a PNG are the name and checksum of its end marker.
            for end in (0..bytes.len() - 8).step_by(7) {
                assert!(decode(&bytes[..end]).is_err(), "{format:?} up to {end}");
            }
        }
    }

    #[test]
    fn too_many_pixels_are_told_before_they_are_decoded() {
        let bytes = encoded(ImageFormat::Png);
        assert!(decode_bytes(&bytes, at_most(64 * 48)).is_ok());
        // The header alone, so that decoding would say something else.
        let result = decode_bytes(&bytes[..60], at_most(64 * 48 - 1));
        assert!(
            matches!(
                result,
                Err(BytesError::TooManyPixels {
                    width: 64,
                    height: 48,
                    ..
                })
            ),
            "{result:?}"
        );
    }

    #[test]
    fn bytes_of_no_format_are_told_from_a_broken_picture() {
        let unknown = decode_bytes(b"a letter, and no picture", at_most(u64::MAX));
        assert!(
            matches!(unknown, Err(BytesError::UnknownFormat(_))),
            "{unknown:?}"
        );
        let broken = decode_bytes(&encoded(ImageFormat::Png)[..20], at_most(u64::MAX));
        assert!(matches!(broken, Err(BytesError::Decode(_))), "{broken:?}");
    }

    #[test]
    fn bytes_after_the_end_do_no_harm() {
        for format in [ImageFormat::Jpeg, ImageFormat::Png] {
            let mut bytes = encoded(format);
            bytes.extend(b"a camera's own notes");
            assert!(decode(&bytes).is_ok(), "{format:?}");
        }
    }

    #[test]
    fn the_end_of_a_thumbnail_is_not_the_end_of_the_picture() {
        let bytes = encoded(ImageFormat::Jpeg);
        // An application segment whose content is a whole JPEG.
        let mut with_thumbnail = vec![0xFF, 0xD8, 0xFF, 0xE2];
        with_thumbnail.extend((bytes.len() as u16 + 2).to_be_bytes());
        with_thumbnail.extend(&bytes);
        with_thumbnail.extend(&bytes[2..]);
        assert!(decode(&with_thumbnail).is_ok());

        with_thumbnail.truncate(with_thumbnail.len() - 40);
        assert!(matches!(
            decode(&with_thumbnail),
            Err(ImagesError::Truncated { .. })
        ));
    }

    #[test]
    fn a_range_of_16_bit_values_becomes_black_to_white() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("deep.png");
        let values = vec![200_u16, 300, 600, 899, 900, 65_535];
        let image: ImageBuffer<Luma<u16>, _> = ImageBuffer::from_raw(6, 1, values).unwrap();
        image.save(&path).unwrap();
        let grey = |range_16_bit| {
            let decoding = Decoding {
                range_16_bit,
                ..Decoding::default()
            };
            let image = decode_image(&path, decoding).unwrap();
            image.pixels().map(|pixel| pixel.0[1]).collect::<Vec<_>>()
        };
        // 300 · 255 / 600 is 127.5, and half goes up.
        assert_eq!(
            grey(Range16Bit::try_from([300, 900]).ok()),
            [0, 0, 128, 255, 255, 255]
        );
        assert_eq!(grey(None), [1, 1, 2, 3, 4, 255]);
        let range = range_of_16_bit(&path, Decoding::default()).unwrap();
        assert_eq!(range, Some([200, 65_535]));

        // 8 bits stay what they are.
        let path = folder.path().join("plain.png");
        RgbImage::from_pixel(2, 2, Rgb([3, 5, 7]))
            .save(&path)
            .unwrap();
        let decoding = Decoding {
            range_16_bit: Range16Bit::try_from([300, 900]).ok(),
            ..Decoding::default()
        };
        let image = decode_image(&path, decoding).unwrap();
        assert_eq!(image.get_pixel(1, 1).0, [3, 5, 7]);
        assert_eq!(range_of_16_bit(&path, decoding).unwrap(), None);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = decode_image(Path::new("nowhere/to-be-found.png"), Decoding::default())
            .expect_err("no such file");
        assert!(error.to_string().contains("to-be-found.png"), "{error}");
    }
}
