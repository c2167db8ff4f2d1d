use std::error::Error;
use std::io;
use std::path::PathBuf;

use retinanet_annotations::AnnotationsError;
use retinanet_boxes::ClassListError;
use retinanet_images::ImagesError;
use retinanet_settings::SettingError;

/// What can go wrong between the annotations file and a batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file cannot be read at all.
    #[error("could not read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The annotations file is not one that training can read.
    #[error(transparent)]
    Annotations(#[from] AnnotationsError),
    /// The annotations file changed between two looks at it.
    #[error("`{}` changed while it was read", .path.display())]
    Changed {
        /// The annotations file.
        path: PathBuf,
    },
    /// The categories cannot become classes.
    #[error("the categories of `{}` are unusable", .path.display())]
    Classes {
        /// The annotations file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ClassListError,
    },
    /// An image id occurs twice.
    #[error("image id {image} occurs twice in `{}`; give each image an id of its own", .path.display())]
    DuplicateImage {
        /// The annotations file.
        path: PathBuf,
        /// The id.
        image: u64,
    },
    /// A category id occurs twice.
    #[error(
        "category id {category} occurs twice in `{}`; give each category an id of its own",
        .path.display()
    )]
    DuplicateCategory {
        /// The annotations file.
        path: PathBuf,
        /// The id.
        category: u64,
    },
    /// An image without a file name.
    #[error("image {image} of `{}` has no `file_name`", .path.display())]
    NoFileName {
        /// The annotations file.
        path: PathBuf,
        /// The image's id.
        image: u64,
    },
    /// Boxes that are not what they should be.
    #[error("the boxes of `{}` seem to be {found}", .path.display())]
    OtherBoxes {
        /// The annotations file.
        path: PathBuf,
        /// What they are instead.
        found: &'static str,
    },
    /// An image without a size.
    #[error(
        "image {image} of `{}` has no size: {found}; write those of the upright image, in pixels",
        .path.display()
    )]
    ImageSize {
        /// The annotations file.
        path: PathBuf,
        /// The image's id.
        image: u64,
        /// What is at `width` and `height`.
        found: String,
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
    /// A box that is not four numbers.
    #[error(
        "annotation {annotation} of `{}`: {found}; expected the 4 numbers of \
         `[x, y, width, height]`",
        .path.display()
    )]
    MalformedBox {
        /// The annotations file.
        path: PathBuf,
        /// The annotation's id.
        annotation: u64,
        /// What is there instead.
        found: String,
    },
    /// The data set has no images.
    #[error("`{}` lists no images to load", .path.display())]
    NoImages {
        /// The annotations file.
        path: PathBuf,
    },
    /// Categories that a model, or the training data, does not have or calls otherwise.
    #[error(
        "`{}` has other categories: {}; give both files the same ids and names, or drop what is not \
         to be found",
        .path.display(),
        listed(.differences)
    )]
    OtherCategories {
        /// The annotations file.
        path: PathBuf,
        /// What is other, category by category.
        differences: Vec<String>,
    },
    /// A file without annotations where they are needed.
    #[error("`{}` has no `annotations`, so there is nothing to measure with", .path.display())]
    NotAnnotated {
        /// The annotations file.
        path: PathBuf,
    },
    /// Images that cannot be evaluated on.
    #[error(
        "{count} of the {total} images of `{}` cannot be used; the first",
        .path.display()
    )]
    FaultyImages {
        /// The annotations file.
        path: PathBuf,
        /// How many cannot be used.
        count: usize,
        /// How many there are.
        total: usize,
        /// What is wrong with the first.
        #[source]
        first: Box<Self>,
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
        size_hint(*.expected, *.found, *.stored)
    )]
    SizeMismatch {
        /// The image file.
        path: PathBuf,
        /// Width and height in the annotations.
        expected: (u32, u32),
        /// Width and height of the upright image.
        found: (u32, u32),
        /// Width and height of the pixels as they are stored.
        stored: (u32, u32),
    },
    /// Settings that do not fit each other, or the images.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A batch of fewer images than there are micro-batches, of all processes together.
    #[error(
        "a batch of {batch_size} images cannot be split into {micro_batches} micro-batches, of all processes together"
    )]
    MicroBatches {
        /// Images of a batch.
        batch_size: usize,
        /// The micro-batches of all processes.
        micro_batches: usize,
    },
    /// The loader's threads could not be started.
    #[error("could not start the loader's threads; lower `workers`")]
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
            Self::Setting(_) | Self::MicroBatches { .. } | Self::Image(ImagesError::Setting(_))
        )
    }
}

/// Explains the commonest mismatches: boxes drawn on the stored pixels of a turned photograph, and sides
/// written in the wrong order.
fn size_hint(expected: (u32, u32), found: (u32, u32), stored: (u32, u32)) -> &'static str {
    if expected != (found.1, found.0) {
        ""
    } else if expected == stored {
        "; were the boxes drawn without regard to the EXIF orientation?"
    } else {
        "; are width and height swapped?"
    }
}

/// The first few of many.
fn listed(items: &[String]) -> String {
    const SHOWN: usize = 5;
    match items.len().saturating_sub(SHOWN) {
        0 => items.join(", "),
        more => format!("{} and {more} more", items[..SHOWN].join(", ")),
    }
}

/// An error with its causes, on one line.
pub fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
