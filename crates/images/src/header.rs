//! What the beginning of an image file tells, without its pixels.

use std::path::Path;

use image::metadata::Orientation;
use image::{ImageDecoder, ImageReader, ImageResult};

use crate::ImagesError;
use crate::complete::is_complete;

/// What stands at the beginning of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Width and height of the pixels as they are stored.
    pub stored: (u32, u32),
    /// Width and height of the image as [`decode_image`](crate::decode_image) gives it.
    pub upright: (u32, u32),
    /// Whether the EXIF orientation turns or mirrors the stored pixels.
    pub is_turned: bool,
    /// Whether a value has more than 8 bits.
    pub is_deep: bool,
}

impl Header {
    /// Whether the EXIF orientation turns or mirrors the image, and the size does not show it.
    pub fn is_turned_unseen(&self) -> bool {
        self.is_turned && self.stored == self.upright
    }
}

/// Reads an image file's header, without decoding the pixels.
///
/// # Errors
///
/// Returns an error that names the file if it cannot be read or does not begin as an image.
pub fn read_header(path: &Path) -> Result<Header, ImagesError> {
    retinanet_files::require_file(path).map_err(|source| ImagesError::Read {
        path: path.into(),
        source,
    })?;
    header(path).map_err(|source| ImagesError::Decode {
        path: path.to_owned(),
        source,
    })
}

/// Reads a whole file, to see that it is an image and not cut short, without decoding the pixels: a
/// hundredth of the work.
///
/// # Errors
///
/// As [`read_header`], and [`ImagesError::Truncated`].
pub fn check_image(path: &Path) -> Result<Header, ImagesError> {
    let header = read_header(path)?;
    let bytes = retinanet_files::read(path).map_err(|source| ImagesError::Read {
        path: path.into(),
        source,
    })?;
    match image::guess_format(&bytes) {
        Ok(format) if !is_complete(&bytes, format) => {
            Err(ImagesError::Truncated { path: path.into() })
        }
        _ => Ok(header),
    }
}

fn header(path: &Path) -> ImageResult<Header> {
    let reader = ImageReader::open(path)?.with_guessed_format()?;
    let mut decoder = reader.into_decoder()?;
    let stored @ (width, height) = decoder.dimensions();
    let is_deep = decoder.color_type().bytes_per_pixel() > decoder.color_type().channel_count();
    let orientation = orientation(&mut decoder)?;
    Ok(Header {
        stored,
        upright: match orientation {
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => (height, width),
            _ => stored,
        },
        is_turned: orientation != Orientation::NoTransforms,
        is_deep,
    })
}

pub(crate) fn orientation(decoder: &mut impl ImageDecoder) -> ImageResult<Orientation> {
    // Pillow and others write JPEG's prefix into WebP files too, where the decoder does not expect
    // it.
    if let Some(exif) = decoder.exif_metadata()?
        && let Some(tiff) = exif.strip_prefix(b"Exif\0\0")
        && let Some(orientation) = Orientation::from_exif_chunk(tiff)
    {
        return Ok(orientation);
    }
    decoder.orientation()
}
