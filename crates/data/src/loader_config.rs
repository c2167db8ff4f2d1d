use serde::{Deserialize, Serialize};

/// Settings of the loaders.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoaderConfig {
    /// Images in a batch, at least 1. Default: 16.
    pub batch_size: usize,
    /// Into how many equal parts a training batch is divided, which come one after another; a
    /// divisor of the batch size. Default: 1.
    pub parts: usize,
    /// Threads that prepare batches; with 0 the caller's thread does it. Default: 2.
    pub workers: usize,
    /// Batches that are under way or ready at once, at most, and at least 1; a batch of 16 images
    /// of 1333×800 takes 200 MB. Default: 4.
    pub prefetch: usize,
    /// Bytes of decoded images that stay in memory, so that they are read and decoded once.
    /// Default: 0.
    pub cache_bytes: u64,
    /// What the order and the variation of the training images follow from. Default: 0.
    pub seed: u64,
    /// What training does about an image that cannot be read; evaluation always stops, since its
    /// numbers would lie. Default: `stop`.
    pub on_bad_image: OnBadImage,
    /// Whether a training batch holds only images that are wider than high or only others, as in
    /// detectron2, so that less of it is padding. Default: `true`.
    pub group_by_aspect: bool,
    /// Trains more often on images with a class that less than this share of the images has, in
    /// (0, 1]: `sqrt(threshold / share)` times an epoch, for the rarest class of an image. Without
    /// it every image comes once an epoch. Source: [Gupta et al.
    /// 2019](https://arxiv.org/abs/1908.03195), appendix B.2, with 0.001 for LVIS. Default: none.
    pub repeat_threshold: Option<f64>,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            batch_size: 16,
            parts: 1,
            workers: 2,
            prefetch: 4,
            cache_bytes: 0,
            seed: 0,
            on_bad_image: OnBadImage::Stop,
            group_by_aspect: true,
            repeat_threshold: None,
        }
    }
}

/// What training does about an image that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadImage {
    /// It stops, and names the image.
    #[default]
    Stop,
    /// It goes on with a smaller batch, which lists the image in [`Batch::skipped`](crate::Batch::skipped); where nothing
    /// is left of a batch, it stops.
    Skip,
}
