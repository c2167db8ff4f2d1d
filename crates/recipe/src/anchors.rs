use rayon::prelude::*;
use retinanet_anchors::Target;
use retinanet_data::CocoDataset;
use retinanet_dataset_tools::{Coverage, Covered, Depth, cover, cover_image};
use retinanet_experiment::{ExperimentConfig, ExperimentError};

/// Boxes that anchors are fitted to: more make it slower and change nothing.
const MOST_TARGETS: usize = 5_000;

/// Images whose boxes are matched to tell how many find anchors: more take minutes and change nothing.
const MOST_MATCHED: usize = 200;

/// How many of a data set's boxes have anchors that learn them, by a sample of its images.
///
/// # Errors
///
/// Returns an error if the config is refused.
pub fn anchor_coverage(
    config: &ExperimentConfig,
    dataset: &CocoDataset,
) -> Result<Coverage, ExperimentError> {
    let (generator, assigner) = (config.anchor_generator()?, config.target_assigner()?);
    let (transform, assigner) = (config.data.transform()?, assigner.assigner());
    let step = dataset.images.len().div_ceil(MOST_MATCHED).max(1);
    let sample: Vec<_> = dataset.images.iter().step_by(step).collect();
    let covered = sample
        .into_par_iter()
        .flat_map_iter(|image| cover_image(image, &transform, &generator, assigner, Depth::Match));
    Ok(Coverage::of(&covered.collect::<Vec<_>>(), assigner))
}

/// The boxes that anchors are fitted to, in pixels of the network's input: all of a data set, or so many spread over it.
///
/// # Errors
///
/// Returns an error if the config is refused.
pub fn anchor_targets(
    config: &ExperimentConfig,
    dataset: &CocoDataset,
) -> Result<Vec<Target>, ExperimentError> {
    let (generator, assigner) = (config.anchor_generator()?, config.target_assigner()?);
    let transform = config.data.transform()?;
    let covered = cover(
        dataset,
        &transform,
        &generator,
        assigner.assigner(),
        Depth::Reach,
    );
    let step = covered.len().div_ceil(MOST_TARGETS).max(1);
    let chosen = covered.iter().step_by(step);
    let target = |covered: &Covered| Target {
        bbox: covered.bbox,
        input: covered.input,
    };
    Ok(chosen.map(target).collect())
}
