use std::io::Cursor;

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, resize};
use retinanet_evaluation::ImageAnalysis;

use crate::ReportError;

/// The longer side of a thumbnail, in pixels.
const THUMBNAIL: u32 = 640;

/// JPEG's quality, of 100.
const QUALITY: u8 = 80;

/// An image of the gallery, with what was found on it.
#[derive(Clone, Debug, PartialEq)]
pub struct GalleryImage {
    /// Width of the upright image that the boxes belong to, in pixels.
    pub width: u32,
    /// Its height, in pixels.
    pub height: u32,
    /// The image as a JPEG file, of any size; it is stretched over `width` and `height`.
    pub thumbnail: Vec<u8>,
    /// Its objects and detections. The page draws the 300 best detections.
    pub analysis: ImageAnalysis,
}

impl GalleryImage {
    /// Shrinks an upright image to at most 640 pixels a side.
    ///
    /// # Errors
    ///
    /// Returns an error if the image cannot be a JPEG, such as an empty one.
    pub fn new(image: &RgbImage, analysis: ImageAnalysis) -> Result<Self, ReportError> {
        let (width, height) = image.dimensions();
        let thumbnail = thumbnail(image, THUMBNAIL).map_err(|source| ReportError::Thumbnail {
            file_name: analysis.file_name.clone(),
            source,
        })?;
        Ok(Self {
            width,
            height,
            thumbnail,
            analysis,
        })
    }
}

/// An image as a JPEG file, shrunk to at most so many pixels a side.
///
/// # Errors
///
/// Returns an error if the image cannot be a JPEG, such as an empty one.
pub fn thumbnail(image: &RgbImage, longest: u32) -> Result<Vec<u8>, image::ImageError> {
    let (width, height) = image.dimensions();
    let longer = width.max(height);
    let mut file = Cursor::new(Vec::new());
    let encoder = JpegEncoder::new_with_quality(&mut file, QUALITY);
    if longer <= longest {
        image.write_with_encoder(encoder)?;
    } else {
        let side =
            |side: u32| (u64::from(side) * u64::from(longest) / u64::from(longer)).max(1) as u32;
        resize(image, side(width), side(height), FilterType::Triangle)
            .write_with_encoder(encoder)?;
    }
    Ok(file.into_inner())
}

#[cfg(test)]
mod tests {
    use retinanet_boxes::ImageId;

    use super::*;

    fn analysis() -> ImageAnalysis {
        ImageAnalysis {
            image_id: ImageId(1),
            file_name: "a.png".into(),
            right: 0,
            wrong: 0,
            missed: 0,
            f1: 1.0,
            detections: Vec::new(),
            objects: Vec::new(),
        }
    }

    #[test]
    fn thumbnails_keep_the_shape_and_are_not_enlarged() {
        for (size, shrunk) in [
            ((1280, 960), (640, 480)),
            ((300, 640), (300, 640)),
            ((3_000, 2), (640, 1)),
        ] {
            let image = RgbImage::new(size.0, size.1);
            let made = GalleryImage::new(&image, analysis()).unwrap();
            assert_eq!((made.width, made.height), size);
            let thumbnail = image::load_from_memory(&made.thumbnail).unwrap();
            assert_eq!((thumbnail.width(), thumbnail.height()), shrunk);
        }
    }

    #[test]
    fn an_image_that_is_no_jpeg_is_named() {
        let error = GalleryImage::new(&RgbImage::new(0, 0), analysis()).unwrap_err();
        assert_eq!(error.to_string(), "cannot make a thumbnail of `a.png`");
    }
}
