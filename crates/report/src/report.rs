use retinanet_dataset_tools::{CoverageReport, DatasetStats};
use retinanet_evaluation::Analysis;
use serde::Serialize;

use crate::{GalleryImage, LossShares, TrainingLog};

/// What is known of a run, at its start, under way or at its end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// What the run is called.
    pub title: String,
    /// What was run and where: data set, seed, versions, device, start, duration.
    pub facts: Vec<FactGroup>,
    /// The config, as TOML; empty if there is none.
    pub config: String,
    /// Steps and evaluations so far.
    pub log: TrainingLog,
    /// Names of the pyramid's levels, finest first; those that lack are numbered.
    pub levels: Vec<String>,
    /// What lies behind the last evaluation's metrics. Of its images only the gallery's are shown.
    pub analysis: Option<Analysis>,
    /// What is trained on, in numbers.
    pub training_data: Option<DatasetStats>,
    /// What is evaluated on, in numbers.
    pub validation_data: Option<DatasetStats>,
    /// How well anchors cover the boxes that are trained on.
    pub coverage: Option<CoverageReport>,
    /// What positives and negatives carry of the loss.
    pub loss_shares: Option<LossShares>,
    /// Validation images. The page shows the worst first, in whichever order they stand here.
    pub gallery: Vec<GalleryImage>,
}

/// Facts of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FactGroup {
    /// What they are about.
    pub title: String,
    /// What each is called, and what it is, in words.
    pub facts: Vec<(String, String)>,
}
