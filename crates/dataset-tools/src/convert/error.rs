use std::io;
use std::path::PathBuf;

use retinanet_annotations::AnnotationsError;

/// A data set cannot be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A file or folder cannot be read.
    #[error("could not read `{}`", .path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The source is not a COCO file.
    #[error(transparent)]
    Annotations(#[from] AnnotationsError),
    /// Something in a file has no counterpart, or a file cannot be written.
    #[error("cannot convert: `{}`: {reason}", .path.display())]
    Failed {
        /// Where it stopped.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}
