use retinanet_anchors::{AnchorError, Fit, Target, optimize};
use retinanet_data::CocoDataset;
use retinanet_dataset_tools::{Covered, Depth, cover};
use retinanet_experiment::{ExperimentConfig, ExperimentError};

use crate::recipe::Recipe;

/// Boxes that anchors are fitted to: more make it slower and change nothing.
const MOST_TARGETS: usize = 5_000;

/// How well anchors fit before they were moved and after.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FittedAnchors {
    /// The paper's, scaled to the input.
    pub before: Fit,
    /// The recipe's.
    pub after: Fit,
}

/// A recipe cannot be completed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The recipe's own config is refused.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// Anchors cannot be fitted.
    #[error(transparent)]
    Anchors(#[from] AnchorError),
}

impl Recipe {
    /// Moves and reshapes the anchors so that they reach most boxes; `config` is this recipe's.
    ///
    /// # Errors
    ///
    /// Returns an error if the config is refused.
    pub fn fit_anchors(
        &mut self,
        config: &ExperimentConfig,
        train: &CocoDataset,
    ) -> Result<FittedAnchors, RecipeError> {
        let (generator, assigner) = (config.anchor_generator()?, config.target_assigner()?);
        let targets = anchor_targets(config, train)?;
        let strides = generator.strides();
        let anchors = &config.model.anchors;
        let foreground = assigner.assigner().foreground();
        let proposal = optimize(anchors, strides, &targets, foreground)?;
        self.anchors = Some(proposal.config);
        Ok(FittedAnchors {
            before: proposal.before,
            after: proposal.after,
        })
    }
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
