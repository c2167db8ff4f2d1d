use std::io;
use std::path::PathBuf;

use image::ImageError;
use retinanet_settings::SettingError;

/// What can go wrong between an image file and the numbers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImagesError {
    /// A file cannot be read at all.
    #[error("could not read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An image file that cannot be decoded.
    #[error("could not decode image `{}`", .path.display())]
    Decode {
        /// The image file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ImageError,
    },
    /// An image file without its end.
    #[error(
        "image `{}` is cut short or damaged: its end marker is missing; fetch it again",
        .path.display()
    )]
    Truncated {
        /// The image file.
        path: PathBuf,
    },
    /// An image with more pixels than are taken, such as a small file that unpacks to gigabytes.
    #[error(
        "image `{}` has {width}×{height} pixels, more than the {} megapixels that are taken; raise \
         `max_megapixels` if they are meant",
        .path.display(),
        .max_pixels / 1_000_000
    )]
    TooManyPixels {
        /// The image file.
        path: PathBuf,
        /// Its width, before it is turned upright.
        width: u32,
        /// Its height, before it is turned upright.
        height: u32,
        /// The most that are taken.
        max_pixels: u64,
    },
    /// Settings that do not fit each other, or the images.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A bug of a decoder: it panicked.
    #[error("reading panicked on {what}: {message}")]
    Panic {
        /// What it was working on.
        what: String,
        /// What the panic said.
        message: String,
    },
}
