use std::io;
use std::path::PathBuf;

use retinanet_images::ImagesError;

/// What can go wrong between the annotations file and a batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A data set cannot be converted.
    #[error("cannot convert: `{}`: {reason}", .path.display())]
    Convert {
        /// Where it stopped.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file cannot be read at all.
    #[error("could not read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The annotations file is not JSON.
    #[error("`{}` is not JSON", .path.display())]
    NotJson {
        /// The annotations file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// The annotations file is JSON, but not COCO's instances.
    #[error(
        "`{}` is no COCO instances file: {found}; expected an object with the lists `images`, \
         `annotations` and `categories`",
        .path.display()
    )]
    NotCoco {
        /// The annotations file.
        path: PathBuf,
        /// What stands there instead.
        found: String,
    },
    /// A record of the annotations file lacks a field or holds a value of another type.
    #[error("`{}` has a record that is not as COCO writes it", .path.display())]
    Record {
        /// The annotations file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// An image id stands twice.
    #[error("image id {image} stands twice in `{}`; give each image an id of its own", .path.display())]
    DuplicateImage {
        /// The annotations file.
        path: PathBuf,
        /// The id.
        image: u64,
    },
    /// A category id stands twice.
    #[error(
        "category id {category} stands twice in `{}`; give each category an id of its own",
        .path.display()
    )]
    DuplicateCategory {
        /// The annotations file.
        path: PathBuf,
        /// The id.
        category: u64,
    },
    /// An image without a size.
    #[error(
        "image {image} of `{}` has the size {width}×{height}; `width` and `height` must be at \
         least 1",
        .path.display()
    )]
    ImageSize {
        /// The annotations file.
        path: PathBuf,
        /// The image's id.
        image: u64,
        /// Its width in pixels.
        width: u32,
        /// Its height in pixels.
        height: u32,
    },
    /// An annotation of an image that the file does not list.
    #[error(
        "annotation {annotation} of `{}` points at image {image}, which `images` does not list; \
         remove the annotation or add the image",
        .path.display()
    )]
    UnknownImage {
        /// The annotations file.
        path: PathBuf,
        /// The annotation's id.
        annotation: u64,
        /// The id that it points at.
        image: u64,
    },
    /// An annotation of a category that the file does not list.
    #[error(
        "annotation {annotation} of `{}` points at category {category}, which `categories` does \
         not list; remove the annotation or add the category",
        .path.display()
    )]
    UnknownCategory {
        /// The annotations file.
        path: PathBuf,
        /// The annotation's id.
        annotation: u64,
        /// The id that it points at.
        category: u64,
    },
    /// A box of more or fewer than four numbers.
    #[error(
        "annotation {annotation} of `{}` has a `bbox` of {found} numbers, expected the 4 of \
         `[x, y, width, height]`",
        .path.display()
    )]
    BoxLength {
        /// The annotations file.
        path: PathBuf,
        /// The annotation's id.
        annotation: u64,
        /// How many numbers there are.
        found: usize,
    },
    /// The data set has no images.
    #[error("`{}` lists no images to load", .path.display())]
    NoImages {
        /// The annotations file.
        path: PathBuf,
    },
    /// Image files that the annotations name do not exist.
    #[error(
        "image `{}` does not exist, and {missing} of {total} images are missing; check that `{}` \
         is the folder of the images",
        .first.display(),
        .root.display()
    )]
    MissingImage {
        /// The first missing file.
        first: PathBuf,
        /// How many are missing.
        missing: usize,
        /// How many the annotations name.
        total: usize,
        /// The folder that the file names are relative to.
        root: PathBuf,
    },
    /// An image cannot be read, or a setting of its preparation is out of range.
    #[error(transparent)]
    Image(#[from] ImagesError),
    /// An image whose size is not the one the boxes were drawn on.
    #[error(
        "image `{}` is {}×{} pixels, but the annotations say {}×{}{}",
        .path.display(),
        .found.0,
        .found.1,
        .expected.0,
        .expected.1,
        orientation_hint(*.expected, *.found)
    )]
    SizeMismatch {
        /// The image file.
        path: PathBuf,
        /// Width and height in the annotations.
        expected: (u32, u32),
        /// Width and height of the upright image.
        found: (u32, u32),
    },
    /// A setting out of its range.
    #[error("`{key}` must be {expected}, got {found}")]
    Setting {
        /// The setting as the configuration names it.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// The loader's threads could not be started.
    #[error("could not start the loader's threads; lower `data.workers`")]
    Workers(#[source] io::Error),
    /// A bug: the code that prepares batches panicked.
    #[error("reading panicked on {what}: {message}")]
    Panic {
        /// What it was working on.
        what: String,
        /// What the panic said.
        message: String,
    },
}

impl DataError {
    /// Whether a setting is at fault, and not the data.
    pub const fn is_about_config(&self) -> bool {
        matches!(
            self,
            Self::Setting { .. } | Self::Image(ImagesError::Setting { .. })
        )
    }
}

/// Explains the commonest mismatch: boxes drawn on the stored pixels of a turned photograph.
fn orientation_hint(expected: (u32, u32), found: (u32, u32)) -> &'static str {
    if expected == (found.1, found.0) {
        "; were the boxes drawn without regard to the EXIF orientation?"
    } else {
        ""
    }
}
