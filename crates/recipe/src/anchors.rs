use retinanet_anchors::{AnchorError, Fit, Target, optimize};
use retinanet_data::CocoDataset;
use retinanet_dataset_tools::{Depth, cover};
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
        let assigner = assigner.assigner();
        let transform = config.data.transform()?;
        let covered = cover(train, &transform, &generator, assigner, Depth::Reach);
        let step = covered.len().div_ceil(MOST_TARGETS).max(1);
        let targets: Vec<Target> = (covered.iter().step_by(step))
            .map(|covered| Target {
                bbox: covered.bbox,
                input: covered.input,
            })
            .collect();
        let strides = generator.strides();
        let anchors = &config.model.anchors;
        let proposal = optimize(anchors, strides, &targets, assigner.foreground())?;
        self.anchors = Some(proposal.config);
        Ok(FittedAnchors {
            before: proposal.before,
            after: proposal.after,
        })
    }
}
