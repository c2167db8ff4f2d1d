use std::io;
use std::path::PathBuf;

/// An annotations file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnnotationsError {
    /// The file cannot be read.
    #[error("could not read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not JSON.
    #[error("`{}` is not JSON", .path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// The file is JSON, but not COCO's instances.
    #[error(
        "`{}` is not a COCO instances file: {found}; expected an object with the lists `images`, \
         `annotations` and `categories`",
        .path.display()
    )]
    NotCoco {
        /// The file.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// Records that lack a field, or hold what is not understood.
    #[error(
        "`{}` has {count} records that are not as COCO writes them; the first is {first}; \
         `retinanet dataset check` lists them, and its `--fix` repairs what can be repaired",
        .path.display()
    )]
    Records {
        /// The file.
        path: PathBuf,
        /// How many there are.
        count: usize,
        /// The first of them: where it stands and what is wrong.
        first: String,
    },
    /// The file holds something else than detections.
    #[error(
        "`{}` is not a list of detections (objects with `image_id` or `file_name`, `category_id`, `bbox` and \
         `score`): {found}",
        .path.display()
    )]
    NotResults {
        /// The file.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },
}
