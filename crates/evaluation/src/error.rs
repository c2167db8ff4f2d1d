use retinanet_annotations::AnnotationsError;
use retinanet_boxes::{CategoryId, ImageId};

/// Detections cannot be evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// The annotations file cannot be used.
    #[error(transparent)]
    Annotations(#[from] AnnotationsError),
    /// A detection names a file that is not an image's, or that of several.
    #[error(
        "`{annotations}` has {count} images with the file `{file_name}`, of which something was found"
    )]
    FileName {
        /// What the annotations are called.
        annotations: String,
        /// The file's name.
        file_name: String,
        /// How many images have it.
        count: usize,
    },
    /// An annotation has no box to compare with.
    #[error("annotation {annotation} of `{annotations}` has no finite `bbox`")]
    NoBox {
        /// What the annotations are called.
        annotations: String,
        /// The annotation's id.
        annotation: u64,
    },
    /// Two categories share an id.
    #[error("category id {} occurs twice in `{annotations}`", category.0)]
    DuplicateCategory {
        /// What the annotations are called.
        annotations: String,
        /// The category id.
        category: CategoryId,
    },
    /// More categories than curves can be kept of.
    #[error("`{annotations}` has {count} categories, more than can be evaluated")]
    TooManyCategories {
        /// What the annotations are called.
        annotations: String,
        /// How many there are.
        count: usize,
    },
    /// More objects and detections on an image than can be held against each other.
    #[error(
        "image {} has {objects} objects and {detections} detections, more than can be held against each \
         other; keep the detections of higher scores", image.0
    )]
    TooManyPairs {
        /// The image.
        image: ImageId,
        /// How many objects it has.
        objects: usize,
        /// How many detections.
        detections: usize,
    },
    /// Images that the annotations do not have.
    #[error(
        "`{annotations}` has no image with the id {}; is it another data set's?",
        listed(images.iter().map(|image| image.0))
    )]
    UnknownImages {
        /// What the annotations are called.
        annotations: String,
        /// The image ids that they lack.
        images: Vec<ImageId>,
    },
    /// Categories that the annotations do not have.
    #[error(
        "`{annotations}` has no category with the id {}; are the detections' class indices \
         instead of category ids?",
        listed(categories.iter().map(|category| category.0))
    )]
    UnknownCategories {
        /// What the annotations are called.
        annotations: String,
        /// The category ids that they lack.
        categories: Vec<CategoryId>,
    },
    /// A detection holds a NaN or an infinity, so it has no place or no rank.
    #[error(
        "detection {index}, on image {}, has a box or a score that is not finite; did the \
         model diverge?",
        image.0
    )]
    NonFinite {
        /// Which of the detections, counted from 0.
        index: usize,
        /// The image that it is on.
        image: ImageId,
    },
    /// The metrics crate refused the input.
    #[error("failed to compute the COCO metrics")]
    Metrics(#[from] hotcoco::Error),
}

/// The ids, or the first few where there are many.
fn listed(ids: impl ExactSizeIterator<Item = u64>) -> String {
    const SHOWN: usize = 5;
    let more = ids.len().saturating_sub(SHOWN);
    let shown: Vec<String> = ids.take(SHOWN).map(|id| id.to_string()).collect();
    match more {
        0 => shown.join(", "),
        more => format!("{} (and {more} more)", shown.join(", ")),
    }
}
