//! The detectors that a config's models make.

use burn::tensor::Device;
use retinanet_detector::Detector;
use retinanet_experiment::{EvaluateError, ExperimentConfig};

use crate::run::checkpoint::Checkpoint;

/// The lowest score that counts: what is asked for, else that of the largest F1, else one for whatever that may be.
pub fn counted_score(asked: Option<f32>, best: Option<f64>) -> f32 {
    const UNKNOWN: f32 = 0.3;
    // Scores are of single precision; so the detection with the best one still counts.
    asked.or(best.map(|best| best as f32)).unwrap_or(UNKNOWN)
}

impl Checkpoint {
    /// Its detector, with the settings of this config.
    ///
    /// # Errors
    ///
    /// Returns an error where config and checkpoint do not fit together.
    pub fn detector(
        &self,
        config: &ExperimentConfig,
        device: &Device,
    ) -> Result<Detector, EvaluateError> {
        let classes = self.state.classes.clone();
        let model = config
            .model
            .init(classes.len(), config.seed.get(), device)?;
        let model = self.load_to_detect(model)?;
        Ok(Detector::new(&config.detector()?, &model, classes, device)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_goes_before_what_is_best() {
        let best = 0.416_f32;
        let known = Some(f64::from(best));
        for (asked, known, counted) in [
            (None, known, best),
            (Some(0.7), known, 0.7),
            (Some(0.7), None, 0.7),
            (None, None, 0.3),
        ] {
            assert!((counted_score(asked, known) - counted).abs() < f32::EPSILON);
        }
    }
}
