//! Non-finite weights and statistics, and variances that are none.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

use crate::RetinaNet;

/// The first non-finite weight or running statistic, or negative variance, in words.
/// One of them makes every output NaN, where all losses and scores may still look like numbers.
pub fn faulty_number(model: &RetinaNet) -> Option<String> {
    let mut search = Search::default();
    model.visit(&mut search);
    search.found
}

#[derive(Default)]
struct Search {
    path: Vec<String>,
    found: Option<String>,
}

impl ModuleVisitor for Search {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.found.is_some() {
            return;
        }
        let data = param.val().into_data();
        // What is not `f32` has no such numbers.
        let values = data.as_slice::<f32>().unwrap_or_default();
        let is_variance = self.path.last().is_some_and(|name| name == "running_var");
        let faulty =
            (values.iter()).find(|value| !value.is_finite() || (is_variance && **value < 0.0));
        self.found = faulty.map(|value| format!("a value of `{}` is {value}", self.path.join(".")));
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use retinanet_settings::Whole;

    use super::*;
    use crate::ModelConfig;

    struct Spoiler(f32, &'static str, Vec<String>);

    impl burn::module::ModuleMapper for Spoiler {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.2.push(name.to_owned());
        }

        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.2.pop();
        }

        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let is_it = self.2.last().is_some_and(|name| name == self.1);
            let value = self.0;
            param.map(|tensor| if is_it { tensor * 0.0 + value } else { tensor })
        }
    }

    #[test]
    fn the_first_number_that_is_none_is_named() {
        let device = Device::flex();
        let model = || {
            let config = ModelConfig {
                width: Whole::literal(4),
                fpn_channels: Whole::literal(8),
                ..ModelConfig::default()
            };
            config.init(2, 0, &device).unwrap()
        };
        assert_eq!(faulty_number(&model()), None);
        for (value, name) in [
            (f32::NAN, "weight"),
            (f32::INFINITY, "gamma"),
            (f32::NEG_INFINITY, "running_mean"),
            (f32::NAN, "running_var"),
            (-0.25, "running_var"),
        ] {
            let spoiled = model().map(&mut Spoiler(value, name, Vec::new()));
            let found = faulty_number(&spoiled).unwrap();
            assert!(found.contains(&format!(".{name}` is {value}")), "{found}");
        }
    }
}
