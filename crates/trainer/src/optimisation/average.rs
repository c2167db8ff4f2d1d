use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::store::RecordError;
use burn::tensor::Tensor;
use retinanet_detector::RetinaNet;

/// A moving average of a model's weights and running statistics, which often detects better than
/// the weights themselves.
///
/// After step `n`, counted from 1, `average = d * average + (1 - d) * weights` with
/// `d = min(decay, (1 + n) / (10 + n))`, so that the start is forgotten soon: TensorFlow's
/// `ExponentialMovingAverage` with `num_updates`.
pub(crate) struct ModelAverage {
    decay: f64,
    /// Without autodiff.
    model: RetinaNet,
}

impl ModelAverage {
    /// Begins with a model's weights.
    pub(crate) fn new(decay: f64, model: &RetinaNet) -> Self {
        Self {
            decay,
            model: model.valid(),
        }
    }

    /// The average.
    pub(crate) const fn model(&self) -> &RetinaNet {
        &self.model
    }

    /// The average as it stands: a clone would share running statistics, which change in place.
    pub(crate) fn snapshot(&self) -> Self {
        Self::new(self.decay, &self.model)
    }

    /// Goes on with a model that was initialised anew and has the same weights: its running statistics
    /// have other ids.
    pub(crate) fn follow(&mut self, model: &RetinaNet) -> Result<(), RecordError> {
        let average = self.model.clone().into_record();
        self.model = model.valid().try_load_record(average)?;
        Ok(())
    }

    /// Takes the weights after step `n` in.
    pub(crate) fn update(&mut self, model: &RetinaNet, n: u64) {
        let n = n as f64;
        let decay = self.decay.min((1.0 + n) / (10.0 + n));
        let mut weights = Weights(GradientsParams::new());
        model.valid().visit(&mut weights);
        let mut blend = Blend { decay, weights };
        self.model = self.model.clone().map(&mut blend);
    }
}

/// All floats of a model by their ids: Burn's map of gradients holds weights as well.
struct Weights(GradientsParams);

impl ModuleVisitor for Weights {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.register(param.id, param.val());
    }
}

struct Blend {
    decay: f64,
    weights: Weights,
}

impl ModuleMapper for Blend {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(weight) = self.weights.0.remove::<D>(param.id) else {
            return param;
        };
        let decay = self.decay;
        param.map(|average| average * decay + weight * (1.0 - decay))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use retinanet_detector::{Architecture, ModelConfig};

    use retinanet_settings::Whole;

    use super::*;

    /// All floats of a model in a row.
    #[derive(Default)]
    struct Values(Vec<f64>);

    impl Values {
        fn of(model: &RetinaNet) -> Vec<f64> {
            let mut values = Self::default();
            model.visit(&mut values);
            values.0
        }
    }

    impl ModuleVisitor for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().iter::<f64>());
        }
    }

    struct Times(f64);

    impl ModuleMapper for Times {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|weight| weight * self.0)
        }
    }

    /// Where the weights are multiples of the first ones, so is their average: the first one times
    /// all decays, and each later one times its share and the decays after it.
    #[test]
    fn the_average_is_its_closed_form() {
        let config = ModelConfig {
            backbone: Architecture::Resnet18,
            width: Whole::literal(2),
            fpn_channels: Whole::literal(4),
            ..ModelConfig::default()
        };
        let model = config.init(1, 0, &Device::flex()).unwrap();
        let first = Values::of(&model);
        let multiples = [2.0, -1.0, 0.5, 3.0];
        // (1 + n) / (10 + n) for n = 1, 2; then the cap.
        let decays = [2.0 / 11.0, 0.25, 0.3, 0.3];

        let mut average = ModelAverage::new(0.3, &model);
        for (n, multiple) in (1..).zip(multiples) {
            // Not of the model itself, whose running statistics would be scaled in place.
            let weights = model.valid().map(&mut Times(multiple));
            average.update(&weights, n);
        }
        let mut expected: f64 = decays.iter().product();
        for (place, multiple) in multiples.into_iter().enumerate() {
            let after: f64 = decays[place + 1..].iter().product();
            expected += multiple * (1.0 - decays[place]) * after;
        }
        let averaged = Values::of(average.model());
        assert_eq!(averaged.len(), first.len());
        for (averaged, first) in averaged.iter().zip(first) {
            assert!((averaged - expected * first).abs() <= 1e-6 * first.abs().max(1e-3));
        }
    }
}
