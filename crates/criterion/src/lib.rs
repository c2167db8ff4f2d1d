//! The loss of RetinaNet: focal loss over the classes of all anchors, a box loss over the
//! positive ones, both divided by the number of positive anchors (Lin et al. 2017, section 3).
//!
//! The crate sees predictions and targets as tensors and knows neither model nor data. Anchors
//! that are ignored count nowhere.

mod alpha;
mod batch_sums;
mod box_criterion;
mod box_loss;
mod box_predictions;
mod class_loss;
mod criterion;
mod distribution;
mod extension;
mod focal;
mod focal_kernel;
#[cfg(feature = "gpu")]
mod gpu;
mod iou_loss;
mod loss_spread;
mod normalizer;
mod quality;
mod sampling;
mod softmax;
mod targets;

pub use alpha::{Alpha, NamedAlpha};
pub use box_loss::{BoxLoss, BoxLossConfig, BoxLossKind, BoxWeighting, SmoothL1, SmoothL1Config};
pub use class_loss::{
    BalancedCrossEntropyConfig, ClassLoss, ClassLossConfig, CrossEntropyConfig, FocalConfig,
    FocalStarConfig, Gamma, QualityFocalConfig, Shift, StarGamma, VarifocalConfig,
};
pub use criterion::{Criterion, CriterionConfig, Loss, LossOptions, PredictionForm};
pub use focal::FocalLoss;
pub use iou_loss::IouLoss;
pub use loss_spread::{LossCurves, LossShares, LossSpread};
pub use normalizer::{Normalizer, NormalizerKind};
pub use quality::QualityLoss;
pub use sampling::{OhemConfig, RandomConfig, Sampler, SamplingConfig};
pub use softmax::SoftmaxFocalLoss;
pub use targets::BatchTargets;
