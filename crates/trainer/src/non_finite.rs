//! What is left of a step whose loss or gradients are non-finite: a folder that says where it
//! begins, and shows the batch.

use std::io;
use std::path::Path;
use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor};
use retinanet_convolution::channels_last;
use retinanet_criterion::{BatchTargets, Loss, LossOptions};
use retinanet_data::Batch;
use retinanet_detector::{Predictions, RetinaNet, images_to_device};
use retinanet_images::Preparation;
use serde_json::{Value, json};

use crate::optimisation::losses::{LossSums, StepError};
use crate::optimisation::step::Learner;
use crate::optimisation::update::sum_of_squares;

/// A step that failed.
pub(crate) struct NonFiniteStep<'a> {
    /// Counted from 1.
    pub(crate) iteration: u64,
    pub(crate) learning_rate: f64,
    pub(crate) error: &'a StepError,
    /// The micro-batches.
    pub(crate) batch: &'a [Batch],
    /// With the weights before the step.
    pub(crate) learner: &'a Learner,
    pub(crate) preparation: &'a Preparation,
    pub(crate) device: &'a Device,
}

/// Where numbers stop being finite.
struct NonFiniteValues {
    /// Images with values that are non-finite: their files.
    images: Vec<String>,
    /// Parameters with values that are non-finite.
    parameters: Vec<String>,
    /// The first stage of the network whose output is non-finite, and the largest absolute output
    /// of each stage before it.
    stage: Option<&'static str>,
    largest: Vec<(&'static str, f64)>,
    /// Class and box loss of each level from the finest.
    levels: Vec<[f64; 2]>,
    /// The gradients' norm of each parameter that has one, where the loss is finite.
    gradients: Vec<(String, f64)>,
}

impl NonFiniteValues {
    /// The parameter whose gradient is the first on the way back that is non-finite.
    fn first_bad_gradient(&self) -> Option<&str> {
        let mut on_the_way_back = self.gradients.iter().rev();
        let bad = on_the_way_back.find(|(_, norm)| !norm.is_finite());
        bad.map(|(name, _)| name.as_str())
    }
}

impl NonFiniteStep<'_> {
    /// Writes the folder: `report.json`, and each image as the network saw it. Returns where it
    /// begins and what may help, in words.
    pub(crate) fn examine(&self, folder: &Path) -> io::Result<String> {
        fs_err::create_dir_all(folder)?;
        let values = self.find();
        let cause = self.cause(&values);
        let mut images = Vec::new();
        for part in self.batch {
            for item in 0..part.items.len() {
                let picture = format!("image-{}.png", images.len());
                let path = folder.join(&picture);
                (part.picture(item, self.preparation).save(path)).map_err(io::Error::other)?;
                images.push(describe_image(part, item, &picture));
            }
        }
        let report = json!({
            "step": self.iteration,
            "what": self.error.to_string(),
            "likely_cause": cause,
            "class_loss": number(self.error.class),
            "box_loss": number(self.error.bbox),
            "gradient_norm": self.error.gradient_norm.map(number),
            "learning_rate": self.learning_rate,
            "images_non_finite": values.images,
            "parameters_non_finite": values.parameters,
            "first_stage_non_finite": values.stage,
            "largest_output_of_stages_before": values.largest,
            "losses_of_levels": (values.levels.iter())
                .map(|[class, bbox]| json!({ "class": number(*class), "box": number(*bbox) }))
                .collect::<Vec<_>>(),
            "first_gradient_non_finite": values.first_bad_gradient(),
            "gradient_norms": (values.gradients.iter())
                .map(|(name, norm)| json!({ "parameter": name, "norm": number(*norm) }))
                .collect::<Vec<_>>(),
            "images": images,
        });
        let text = serde_json::to_string_pretty(&report).map_err(io::Error::other)?;
        fs_err::write(folder.join("report.json"), text)?;
        Ok(cause)
    }

    fn find(&self) -> NonFiniteValues {
        let mut values = NonFiniteValues {
            images: images_non_finite(self.batch),
            parameters: parameters_non_finite(&self.learner.model),
            stage: None,
            largest: Vec::new(),
            levels: Vec::new(),
            gradients: Vec::new(),
        };
        let mut levels = LossSums::default();
        for part in self.batch {
            let images = self.images(part);
            if values.stage.is_none() {
                (values.stage, values.largest) = stages(&self.learner.model, images.clone());
            }
            let Predictions { logits, boxes, .. } = self.learner.model.forward(images);
            let anchors = Arc::clone(&part.anchors);
            let targets = BatchTargets::new(part.targets.clone(), anchors, self.device);
            let weights = weights(part);
            let options = LossOptions {
                by_level: true,
                ..LossOptions::new(&weights)
            };
            let loss = (self.learner.criterion).forward(logits, boxes, &targets, options);
            let value = |loss: &Tensor<1>| f64::from(loss.clone().into_scalar::<f32>());
            let of_levels: Vec<_> = (loss.levels.iter())
                .map(|level| level.each_ref().map(value))
                .collect();
            levels.add([0.0; 2], &of_levels);
            if self.error.gradient_norm.is_some() && values.first_bad_gradient().is_none() {
                values.gradients = gradient_norms(&self.learner.model, &loss);
            }
        }
        values.levels = levels.levels;
        values
    }

    fn images(&self, part: &Batch) -> Tensor<4> {
        let shape = [part.items.len(), part.height, part.width];
        images_to_device(&mut part.images.clone(), shape, self.device)
    }

    /// Where it begins and what may help.
    fn cause(&self, values: &NonFiniteValues) -> String {
        let rate = self.learning_rate;
        if let [first, ..] = values.images.as_slice() {
            return format!(
                "the pixels of `{first}` are not finite as the network sees them: look at the file \
                 and at `data.normalization`"
            );
        }
        if let [first, ..] = values.parameters.as_slice() {
            return format!(
                "the weights `{first}` are not finite before this step: a lower `optimizer.lr` (now \
                 {rate:.2e}) or weights to start from that are whole"
            );
        }
        let help = format!(
            "likely the weights have grown too large: a lower `optimizer.lr` (now {rate:.2e}), a \
             longer `schedule.warmup` or `optimizer.clip_norm` may help"
        );
        match values.stage {
            Some(stage) => format!("it begins at {stage}; {help}"),
            None => match values.first_bad_gradient() {
                Some(parameter) => format!("it begins in the gradient of `{parameter}`; {help}"),
                None => format!("it begins in the loss; {help}"),
            },
        }
    }
}

/// The norm of each parameter's gradient.
fn gradient_norms(model: &RetinaNet, loss: &Loss) -> Vec<(String, f64)> {
    let gradients = GradientsParams::from_grads(loss.total().backward(), model);
    let mut norms = GradientNorms {
        path: Vec::new(),
        gradients: &gradients,
        found: Vec::new(),
    };
    model.visit(&mut norms);
    norms.found
}

/// The weights of a part's images in its loss, as if it were a batch: one over its positives.
fn weights(part: &Batch) -> Vec<f64> {
    let positives: usize = part.targets.iter().map(|it| it.positives.len()).sum();
    vec![1.0 / positives.max(1) as f64; part.items.len()]
}

/// The files of images with values that are non-finite.
fn images_non_finite(batch: &[Batch]) -> Vec<String> {
    let mut files = Vec::new();
    for part in batch {
        let pixels = 3 * part.height * part.width;
        let numbers = part.images.numbers();
        for (item, image) in part.items.iter().zip(numbers.chunks_exact(pixels)) {
            if !image.iter().all(|value| value.is_finite()) {
                files.push(item.path.display().to_string());
            }
        }
    }
    files
}

fn parameters_non_finite(model: &RetinaNet) -> Vec<String> {
    let mut parameters = NonFinite::default();
    model.visit(&mut parameters);
    parameters.found
}

/// The first stage of the network whose output is non-finite, and the largest absolute output of
/// those before it.
fn stages(
    model: &RetinaNet,
    images: Tensor<4>,
) -> (Option<&'static str>, Vec<(&'static str, f64)>) {
    let precision = model.precision().of_maps(&images.device());
    let images = images.cast(precision);
    let features = model.backbone().forward(channels_last(images));
    let of_backbone = [
        ("C2", features.c2.clone()),
        ("C3", features.c3.clone()),
        ("C4", features.c4.clone()),
        ("C5", features.c5.clone()),
    ];
    let maps = model.pyramid().forward(features);
    let names = ["P2", "P3", "P4", "P5", "P6", "P7"];
    let names = &names[names.len() - maps.len().min(names.len())..];
    let mut largest = Vec::new();
    for (name, map) in of_backbone
        .into_iter()
        .chain(names.iter().copied().zip(maps))
    {
        let value = self::largest(map);
        if !value.is_finite() {
            return (Some(name), largest);
        }
        largest.push((name, value));
    }
    (None, largest)
}

/// Collects the names of parameters with values that are non-finite.
#[derive(Default)]
struct NonFinite {
    path: Vec<String>,
    found: Vec<String>,
}

impl ModuleVisitor for NonFinite {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !largest(param.val()).is_finite() {
            self.found.push(self.path.join("."));
        }
    }
}

/// Collects the norm of each parameter's gradient.
struct GradientNorms<'a> {
    path: Vec<String>,
    gradients: &'a GradientsParams,
    found: Vec<(String, f64)>,
}

impl ModuleVisitor for GradientNorms<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.found
                .push((self.path.join("."), sum_of_squares(gradient).sqrt()));
        }
    }
}

/// The largest absolute value; not finite where any value is not.
fn largest<const D: usize>(tensor: Tensor<D>) -> f64 {
    let tensor = tensor.cast(DType::F32);
    // The maximum of a tensor may pass over a NaN; a sum does not.
    let sum = f64::from(tensor.clone().abs().sum().into_scalar::<f32>());
    let largest = f64::from(tensor.abs().max().into_scalar::<f32>());
    if sum.is_nan() { sum } else { largest }
}

fn describe_image(part: &Batch, item: usize, picture: &str) -> Value {
    let targets = &part.targets[item];
    let item = &part.items[item];
    let objects = item.objects.iter().map(|object| {
        json!({
            "box": object.bbox.to_array(),
            "class": object.class.0,
            "ignored": object.crowd,
        })
    });
    json!({
        "picture": picture,
        "image_id": item.image_id.0,
        "file": item.path.display().to_string(),
        "size": item.original_size,
        "size_for_the_network": item.resized_size,
        "objects": objects.collect::<Vec<_>>(),
        "positive_anchors": targets.positives.len(),
    })
}

/// A number as JSON has it, or its name where JSON has none.
fn number(value: f64) -> Value {
    if value.is_finite() {
        json!(value)
    } else {
        json!(value.to_string())
    }
}
