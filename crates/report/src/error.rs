use std::io;

/// A report cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A file cannot be read or written; the message names it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The numbers have no form in JSON.
    #[error("cannot put the report's numbers into its page")]
    Numbers(#[from] serde_json::Error),
    /// An image cannot be made into a thumbnail.
    #[error("cannot make a thumbnail of `{file_name}`")]
    Thumbnail {
        /// The image's file, as the annotations have it.
        file_name: String,
        /// What is wrong with it.
        #[source]
        source: image::ImageError,
    },
}
