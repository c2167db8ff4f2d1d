//! The optimiser over the model, with global-norm clipping.

use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::store::RecordError;
use burn::tensor::{Bytes, Tensor};
use retinanet_detector::{ModelPart, ParameterKind, RetinaNet};
use retinanet_experiment::{AdamwConfig, OptimizerConfig, OptimizerKind, SgdConfig};
use retinanet_settings::{Positive, ShareBelowOne};

#[cfg(feature = "gpu")]
use crate::optimisation::gpu;
#[cfg(feature = "gpu")]
use crate::optimisation::update::Mode;
use crate::optimisation::update::{self, AdamW, ModeCell, Sgd};

/// The optimiser of a run, with settings of their own for norms and biases.
pub(crate) struct Optimizer {
    inner: ModuleOptimizer,
    clip_norm: Option<f64>,
    /// What all its groups see.
    #[cfg(feature = "gpu")]
    mode: ModeCell,
}

impl Optimizer {
    /// An optimiser at its start. It knows norms and biases by their parameters' ids, so the
    /// model's weights must be loaded before.
    pub(crate) fn new(config: &OptimizerConfig, model: &RetinaNet) -> Self {
        let weight = Group {
            weight_decay: config.weight_decay.get(),
            rate_factor: 1.0,
        };
        let norm = Group {
            weight_decay: config.norm_weight_decay.get(),
            ..weight
        };
        let bias = Group {
            weight_decay: config
                .bias_weight_decay
                .unwrap_or(config.weight_decay)
                .get(),
            rate_factor: config.bias_lr_factor.get(),
        };
        let mode = ModeCell::default();
        let mut inner = match config.kind {
            OptimizerKind::Sgd(config) => ModuleOptimizer::from(weight.sgd(config, &mode)),
            OptimizerKind::Adamw(config) => ModuleOptimizer::from(weight.adamw(config, &mode)),
        };
        let of_kind = |kind| match kind {
            ParameterKind::Norm => norm,
            ParameterKind::Bias => bias,
            ParameterKind::Weight => weight,
        };
        for kind in [
            ParameterKind::Norm,
            ParameterKind::Bias,
            ParameterKind::Weight,
        ] {
            for (in_backbone, factor) in [(false, 1.0), (true, config.backbone_lr_factor.get())] {
                let ids = ids(model, kind, in_backbone);
                let group = of_kind(kind);
                let group = Group {
                    rate_factor: group.rate_factor * factor,
                    ..group
                };
                let ids = ParamGroup::from_ids(ids);
                inner = match config.kind {
                    OptimizerKind::Sgd(config) => {
                        inner.with_group(ids, group.sgd(config, &mode), None)
                    }
                    OptimizerKind::Adamw(config) => {
                        inner.with_group(ids, group.adamw(config, &mode), None)
                    }
                };
            }
        }
        Self {
            inner,
            clip_norm: config.clip_norm.map(Positive::get),
            #[cfg(feature = "gpu")]
            mode,
        }
    }

    /// The norm beyond which gradients are clipped.
    #[cfg(feature = "gpu")]
    pub(crate) const fn clip_norm(&self) -> Option<f64> {
        self.clip_norm
    }

    /// Moves the weights against their gradients, which are of a loss that was scaled by `loss_scale`, and whose norm
    /// is `norm` without that.
    pub(crate) fn step(
        &mut self,
        learning_rate: f64,
        model: RetinaNet,
        mut gradients: GradientsParams,
        (norm, loss_scale): (f64, f64),
    ) -> RetinaNet {
        let clipping = match self.clip_norm {
            Some(limit) if norm > limit => limit / norm,
            _ => 1.0,
        };
        let factor = clipping / loss_scale;
        if factor != 1.0 {
            scale(&model, &mut gradients, factor);
        }
        self.inner.step(learning_rate, model, gradients)
    }

    /// The same as a verdict says that is on the device, where the host does not know it yet.
    #[cfg(feature = "gpu")]
    pub(crate) fn step_if(
        &mut self,
        learning_rate: f64,
        model: RetinaNet,
        gradients: GradientsParams,
        verdict: gpu::Verdict,
    ) -> RetinaNet {
        self.mode.set(Mode::OnDevice(verdict));
        let model = self.inner.step(learning_rate, model, gradients);
        self.mode.set(Mode::default());
        model
    }

    /// Forgets so many steps that moved nothing.
    #[cfg(feature = "gpu")]
    pub(crate) fn forget_steps(&mut self, steps: usize, model: RetinaNet) -> RetinaNet {
        // Whatever learns has been in them; what the gradients are does not matter.
        let mut parameters = Learning(GradientsParams::new());
        model.visit(&mut parameters);
        self.mode.set(Mode::Forget(steps));
        let model = self.inner.step(0.0, model, parameters.0);
        self.mode.set(Mode::default());
        model
    }

    pub(crate) fn to_bytes(&self) -> Result<Bytes, RecordError> {
        self.inner.to_record().into_bytes()
    }

    pub(crate) fn load_bytes(self, bytes: Bytes) -> Result<Self, RecordError> {
        Ok(Self {
            inner: self.inner.from_bytes(bytes)?,
            ..self
        })
    }
}

/// What differs between groups of parameters.
#[derive(Clone, Copy)]
struct Group {
    weight_decay: f64,
    rate_factor: f64,
}

impl Group {
    fn sgd(self, config: SgdConfig, mode: &ModeCell) -> Sgd {
        Sgd {
            mode: mode.clone(),
            momentum: config.momentum.get(),
            weight_decay: self.weight_decay,
            rate_factor: self.rate_factor,
        }
    }

    fn adamw(self, config: AdamwConfig, mode: &ModeCell) -> AdamW {
        AdamW {
            mode: mode.clone(),
            betas: config.betas.map(ShareBelowOne::get),
            epsilon: 1e-8,
            weight_decay: self.weight_decay,
            rate_factor: self.rate_factor,
        }
    }
}

/// The parameters of a kind, in the backbone or elsewhere.
fn ids(model: &RetinaNet, kind: ParameterKind, in_backbone: bool) -> Vec<ParamId> {
    let parameters = model.parameters().into_iter();
    let chosen = parameters.filter(|(part, parameter)| {
        parameter.kind == kind && (*part == ModelPart::Backbone) == in_backbone
    });
    chosen.map(|(_, parameter)| parameter.id).collect()
}

/// The sum of the squares of all gradients.
pub(crate) fn sum_of_squares(model: &RetinaNet, gradients: &GradientsParams) -> f64 {
    #[cfg(feature = "gpu")]
    if let Some(sum) = squares_on_gpu(model, gradients) {
        return f64::from(sum.into_scalar::<f32>());
    }
    squares_on_host(model, gradients)
}

/// The same, `[1]`, still on a GPU; nothing if the gradients are elsewhere.
#[cfg(feature = "gpu")]
pub(crate) fn squares_on_gpu(model: &RetinaNet, gradients: &GradientsParams) -> Option<Tensor<1>> {
    struct Collector<'a> {
        gradients: &'a GradientsParams,
        found: Vec<retinanet_gpu::CubeTensor>,
    }
    impl ModuleVisitor for Collector<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.gradients.get::<D>(param.id);
            self.found.extend(gradient.and_then(retinanet_gpu::to_gpu));
        }
    }
    let mut collector = Collector {
        gradients,
        found: Vec::new(),
    };
    model.visit(&mut collector);
    gpu::sum_of_squares(collector.found)
}

fn squares_on_host(model: &RetinaNet, gradients: &GradientsParams) -> f64 {
    struct Summer<'a> {
        gradients: &'a GradientsParams,
        squares: f64,
    }
    impl ModuleVisitor for Summer<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.get::<D>(param.id) {
                self.squares += update::sum_of_squares(gradient);
            }
        }
    }
    let mut summer = Summer {
        gradients,
        squares: 0.0,
    };
    model.visit(&mut summer);
    summer.squares
}

/// The parameters that learn, by their ids.
#[cfg(feature = "gpu")]
struct Learning(GradientsParams);

#[cfg(feature = "gpu")]
impl ModuleVisitor for Learning {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if value.is_require_grad() {
            self.0.register(param.id, value.inner());
        }
    }
}

fn scale(model: &RetinaNet, gradients: &mut GradientsParams, factor: f64) {
    struct Scaler<'a> {
        gradients: &'a mut GradientsParams,
        factor: f64,
    }
    impl ModuleVisitor for Scaler<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.remove::<D>(param.id) {
                self.gradients.register(param.id, gradient * self.factor);
            }
        }
    }
    model.visit(&mut Scaler { gradients, factor });
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use retinanet_detector::{Architecture, ModelConfig, NormKind, Predictions};

    use retinanet_settings::{Factor, Whole};

    use super::*;

    fn gradient_norm(model: &RetinaNet, gradients: &GradientsParams) -> f64 {
        sum_of_squares(model, gradients).sqrt()
    }

    fn model() -> RetinaNet {
        let device = Device::flex().autodiff();
        let config = ModelConfig {
            backbone: Architecture::Resnet18,
            width: Whole::literal(2),
            fpn_channels: Whole::literal(4),
            norm: NormKind::GroupNorm,
            freeze_at: Whole::literal(0),
            ..ModelConfig::default()
        };
        config.init(1, 3, &device).unwrap()
    }

    /// The optimisers without momentum.
    fn forgetful() -> [OptimizerKind; 2] {
        let nothing = ShareBelowOne::literal(0.0);
        [
            OptimizerKind::Sgd(SgdConfig { momentum: nothing }),
            OptimizerKind::Adamw(AdamwConfig {
                betas: [nothing, ShareBelowOne::literal(0.999)],
            }),
        ]
    }

    fn loss(model: &RetinaNet) -> Tensor<1> {
        let images = Tensor::ones([1, 3, 32, 32], &Device::flex().autodiff());
        let Predictions { logits, boxes, .. } = model.forward(images);
        (logits + 1.0).square().sum() + (boxes - 1.0).square().sum()
    }

    fn gradients(model: &RetinaNet) -> GradientsParams {
        GradientsParams::from_grads(loss(model).backward(), model)
    }

    fn all_ids(model: &RetinaNet, kind: ParameterKind) -> Vec<ParamId> {
        [false, true]
            .map(|in_backbone| ids(model, kind, in_backbone))
            .concat()
    }

    fn step(
        optimizer: &mut Optimizer,
        rate: f64,
        model: &RetinaNet,
        gradients: GradientsParams,
    ) -> RetinaNet {
        let norm = gradient_norm(model, &gradients);
        optimizer.step(rate, model.clone(), gradients, (norm, 1.0))
    }

    /// All parameters in a row, norms and others apart.
    fn parameters(model: &RetinaNet) -> (Vec<f32>, Vec<f32>) {
        struct Collector {
            norms: Vec<ParamId>,
            values: (Vec<f32>, Vec<f32>),
        }
        impl ModuleVisitor for Collector {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let values = if self.norms.contains(&param.id) {
                    &mut self.values.0
                } else {
                    &mut self.values.1
                };
                values.extend(param.val().into_data().iter::<f32>());
            }
        }
        let mut collector = Collector {
            norms: all_ids(model, ParameterKind::Norm),
            values: (Vec::new(), Vec::new()),
        };
        model.visit(&mut collector);
        collector.values
    }

    #[test]
    fn the_second_step_carries_the_first_on_without_dampening() {
        // With a learning rate of 0 the weights stay, so both gradients are the same g. Then the
        // velocity is g, then 0.9 g + g.
        let config = OptimizerConfig {
            weight_decay: Factor::literal(0.0),
            ..OptimizerConfig::default()
        };
        let model = model();
        let mut optimizer = Optimizer::new(&config, &model);
        let start = parameters(&model).1;
        let model = step(&mut optimizer, 0.0, &model, gradients(&model));
        let once = gradients(&model);
        let mut fresh = Optimizer::new(&config, &model);
        let plain = step(&mut fresh, 0.001, &model, gradients(&model));
        let model = step(&mut optimizer, 0.001, &model, once);
        let (carried, plain) = (parameters(&model).1, parameters(&plain).1);
        let mut compared = 0;
        for ((start, carried), plain) in start.iter().zip(&carried).zip(&plain) {
            if (plain - start).abs() > 1e-3 {
                let ratio = (carried - start) / (plain - start);
                assert!((ratio - 1.9).abs() < 1e-2, "{ratio}");
                compared += 1;
            }
        }
        assert!(compared > 5, "{compared}");
    }

    #[test]
    fn weight_decay_shrinks_all_but_norms() {
        let config = OptimizerConfig {
            weight_decay: Factor::literal(0.5),
            kind: forgetful()[0],
            clip_norm: Some(Positive::literal(1e-12)),
            ..OptimizerConfig::default()
        };
        let model = model();
        let mut optimizer = Optimizer::new(&config, &model);
        let (norms, others) = parameters(&model);
        // Clipped to nothing, the gradients leave only the decay.
        let model = step(&mut optimizer, 0.1, &model, gradients(&model));
        let (norms_after, others_after) = parameters(&model);
        for (after, before) in norms_after.iter().zip(&norms) {
            assert!((after - before).abs() < 1e-12, "{after} {before}");
        }
        for (after, before) in others_after.iter().zip(&others) {
            assert!((after - 0.95 * before).abs() < 1e-6, "{after} {before}");
        }
    }

    #[test]
    fn norms_and_biases_have_settings_of_their_own() {
        let of_kind = |model: &RetinaNet, ids: &[ParamId]| {
            struct Reader<'a>(&'a [ParamId], Vec<f32>);
            impl ModuleVisitor for Reader<'_> {
                fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                    if self.0.contains(&param.id) {
                        self.1.extend(param.val().into_data().iter::<f32>());
                    }
                }
            }
            let mut reader = Reader(ids, Vec::new());
            model.visit(&mut reader);
            reader.1
        };
        // The class output's bias is no 0, so decay shows.
        let shrunk = 1.0 - 0.1 * 2.0 * 0.25;
        for kind in forgetful() {
            let config = OptimizerConfig {
                kind,
                weight_decay: Factor::literal(0.5),
                norm_weight_decay: Factor::literal(0.125),
                bias_weight_decay: Some(Factor::literal(0.25)),
                bias_lr_factor: Factor::literal(2.0),
                // Gradients without length leave only the decay.
                clip_norm: Some(Positive::literal(1e-30)),
                ..OptimizerConfig::default()
            };
            let model = model();
            let mut optimizer = Optimizer::new(&config, &model);
            let stepped = step(&mut optimizer, 0.1, &model, gradients(&model));
            for (kind, factor) in [
                (ParameterKind::Bias, shrunk),
                (ParameterKind::Norm, 1.0 - 0.1 * 0.125),
            ] {
                let ids = all_ids(&model, kind);
                let (before, after) = (of_kind(&model, &ids), of_kind(&stepped, &ids));
                assert!(before.iter().any(|value| *value != 0.0));
                for (before, after) in before.iter().zip(&after) {
                    let expected = f64::from(*before) * factor;
                    assert!(
                        (f64::from(*after) - expected).abs() < 1e-6,
                        "{after} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_backbone_has_a_rate_of_its_own() {
        struct Reader(bool, Vec<f32>, Vec<f32>);
        impl ModuleVisitor for Reader {
            fn enter_module(&mut self, name: &str, _container_type: &str) {
                match name {
                    "backbone" => self.0 = true,
                    "pyramid" => self.0 = false,
                    _ => {}
                }
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let values = if self.0 { &mut self.1 } else { &mut self.2 };
                values.extend(param.val().into_data().iter::<f32>());
            }
        }
        let read = |model: &RetinaNet| {
            let mut reader = Reader(false, Vec::new(), Vec::new());
            model.visit(&mut reader);
            (reader.1, reader.2)
        };
        let model = model();
        let (backbone, rest) = read(&model);
        let moved = |factor: f64, kind: OptimizerKind| {
            let config = OptimizerConfig {
                kind,
                weight_decay: Factor::literal(0.0),
                backbone_lr_factor: Factor::literal(factor),
                ..OptimizerConfig::default()
            };
            let mut optimizer = Optimizer::new(&config, &model);
            read(&step(&mut optimizer, 1e-3, &model, gradients(&model)))
        };
        for kind in forgetful() {
            let (full, full_rest) = moved(1.0, kind);
            let (half, half_rest) = moved(0.5, kind);
            let (still, still_rest) = moved(0.0, kind);
            assert_eq!(still, backbone);
            assert!(still_rest != rest && still_rest == full_rest && half_rest == full_rest);
            assert_ne!(full, backbone);
            for ((full, half), before) in full.iter().zip(&half).zip(&backbone) {
                let (full, half) = (full - before, half - before);
                assert!(
                    (half - 0.5 * full).abs() <= 1e-3 * full.abs() + 1e-7,
                    "{half}, {full}"
                );
            }
        }
    }

    #[test]
    fn the_first_step_of_adamw_is_the_learning_rate_against_the_sign() {
        // m / sqrt(v) of one gradient is its sign, whatever its size.
        let config = OptimizerConfig {
            kind: OptimizerKind::Adamw(AdamwConfig::default()),
            weight_decay: Factor::literal(0.0),
            ..OptimizerConfig::default()
        };
        let model = model();
        let mut optimizer = Optimizer::new(&config, &model);
        let before = parameters(&model).1;
        let model = step(&mut optimizer, 0.01, &model, gradients(&model));
        let steps: Vec<f32> = before
            .iter()
            .zip(&parameters(&model).1)
            .map(|(before, after)| (before - after).abs())
            .collect();
        // Only where the gradient is not far above ε = 1e-8 is a step shorter.
        assert!(steps.iter().all(|step| *step < 0.01 + 1e-6), "{steps:?}");
        let full = steps.iter().filter(|step| (**step - 0.01).abs() < 1e-4);
        assert!(full.count() > 10, "{steps:?}");
    }

    #[test]
    fn clipping_cuts_the_norm_over_all_parameters_at_once() {
        let model = model();
        let mut clipped = gradients(&model);
        let norm = gradient_norm(&model, &clipped);
        assert!(norm > 0.5);
        scale(&model, &mut clipped, 0.5 / norm);
        assert!((gradient_norm(&model, &clipped) - 0.5).abs() < 1e-4);
    }
}
