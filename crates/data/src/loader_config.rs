use retinanet_settings::{Count, MOST, PositiveShare, Whole};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the loaders.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LoaderConfig {
    /// Trains more often on images with a class that less than this share of the images has:
    /// √(threshold ÷ share) times an epoch, for the rarest class of an image. Without it every
    /// image comes once an epoch. Source: [Gupta et al. 2019](https://arxiv.org/abs/1908.03195),
    /// appendix B.2, with 0.001 for LVIS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_threshold: Option<PositiveShare>,
    /// Whether a training batch holds only images that are wider than high or only others, as in
    /// detectron2, so that less of it is padding.
    pub group_by_aspect: bool,
    /// What training and evaluation do about an image that cannot be read.
    pub on_bad_image: OnBadImage,
    /// Threads that prepare images; 0 prepares them between the steps.
    pub workers: Whole<0, 256>,
    /// Batches that are under way or ready at once, at most; twice `workers` if not given. A
    /// batch of 16 images of 1333×800 takes 200 MB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefetch: Option<Whole<1, 4096>>,
    /// Mebibytes of decoded images that stay in memory, so that training decodes them once.
    pub cache_mib: Whole<0, MOST>,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            repeat_threshold: None,
            group_by_aspect: true,
            on_bad_image: OnBadImage::Stop,
            workers: Whole::literal(2),
            prefetch: None,
            cache_mib: Whole::literal(0),
        }
    }
}

impl LoaderConfig {
    pub(crate) fn prefetch(&self) -> usize {
        let twice = (2 * self.workers.as_usize()).max(1);
        self.prefetch.map_or(twice, Whole::as_usize)
    }

    pub(crate) const fn cache_bytes(&self) -> u64 {
        self.cache_mib.get().saturating_mul(1 << 20)
    }
}

/// How images become batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Images in a batch.
    pub batch_size: Count,
    /// Into how many equal micro-batches a training batch is divided; a
    /// divisor of the batch size.
    pub micro_batches: Count,
    /// What the order and the variation of the training images follow from.
    pub seed: u64,
}

impl Batching {
    /// Batches of so many images, in one micro-batch.
    pub const fn of(batch_size: Count) -> Self {
        Self {
            batch_size,
            micro_batches: Count::literal(1),
            seed: 0,
        }
    }
}

/// What training does about an image that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBadImage {
    /// It stops, and names the image.
    #[default]
    Stop,
    /// It goes on with a smaller batch, which lists the image in [`Batch::skipped`](crate::Batch::skipped); where nothing
    /// is left of a batch, it stops.
    Skip,
}
