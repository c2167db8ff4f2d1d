//! Networks whose norms and outputs are as different from each other as a trained one's.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use retinanet_detector::{Predictions, RetinaNet};

/// A fresh network with random norms, and with outputs that spread: fresh ones are all alike, and a graph that mixed
/// anchors or classes up would not be seen.
pub(super) fn lively(
    fresh: RetinaNet,
    seed: u64,
    look: impl Fn(&RetinaNet) -> Predictions,
) -> RetinaNet {
    let with_norms = fresh.map(&mut Change {
        path: Vec::new(),
        random: ChaCha8Rng::seed_from_u64(seed),
        scales: None,
    });
    let Predictions { logits, boxes, .. } = look(&with_norms);
    // Distributions are of logits too.
    let of_boxes = if boxes.dims()[2] > 5 { 1.5 } else { 0.4 };
    let scales = [(logits, 1.5), (boxes, of_boxes)].map(|(values, spread)| {
        let spread_now = values.var_bias(1).mean().into_scalar::<f32>().sqrt();
        spread / spread_now.max(1e-6)
    });
    with_norms.map(&mut Change {
        path: Vec::new(),
        random: ChaCha8Rng::seed_from_u64(seed),
        scales: Some(scales),
    })
}

struct Change {
    path: Vec<String>,
    random: ChaCha8Rng,
    /// What the last weights of the class and of the box subnet are multiplied by; norms change where this is missing.
    scales: Option<[f32; 2]>,
}

impl ModuleMapper for Change {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join(".");
        if let Some([classes, boxes]) = self.scales {
            let scale = match &*path {
                "class_subnet.output.weight" => classes,
                "box_subnet.output.weight" => boxes,
                _ => return param,
            };
            return param.map(|weight| weight * scale);
        }
        let range = match self.path.last().map(String::as_str) {
            Some("gamma" | "running_var" | "scales") => 0.5..1.5,
            Some("beta" | "running_mean") => -0.5..0.5,
            _ => return param,
        };
        let random = &mut self.random;
        param.map(|values| {
            let count = values.dims().iter().product();
            let numbers: Vec<f32> = (0..count)
                .map(|_| random.random_range(range.clone()))
                .collect();
            let data = TensorData::new(numbers, values.dims());
            Tensor::from_data(data, &values.device())
        })
    }
}
