use std::io;
use std::path::PathBuf;

use image::ImageError;

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
    /// A setting out of its range.
    #[error("`{key}` must be {expected}, got {found}")]
    Setting {
        /// The setting as the configuration of an experiment names it.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A bug of a decoder: it panicked.
    #[error("reading panicked on {what}: {message}")]
    Panic {
        /// What it was working on.
        what: String,
        /// What the panic said.
        message: String,
    },
}
