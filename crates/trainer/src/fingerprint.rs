use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use retinanet_detector::RetinaNet;
use xxhash_rust::xxh3::Xxh3;

/// Which network the backbone is, its parameters' names say already; so hashes of before there were several stay.
const BACKBONE: &str = "Enum:Backbone";

/// A hash of all weights and running statistics with their names: the same for two models just
/// where they are the same to the last bit.
pub fn fingerprint(model: &RetinaNet) -> String {
    struct Hasher {
        path: Vec<String>,
        hash: Xxh3,
    }
    impl ModuleVisitor for Hasher {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            if container_type != BACKBONE {
                self.path.push(name.to_owned());
            }
        }
        fn exit_module(&mut self, _name: &str, container_type: &str) {
            if container_type != BACKBONE {
                self.path.pop();
            }
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.hash.update(self.path.join(".").as_bytes());
            for value in param.val().into_data().iter::<f32>() {
                self.hash.update(&value.to_bits().to_le_bytes());
            }
        }
    }
    let mut hasher = Hasher {
        path: Vec::new(),
        hash: Xxh3::new(),
    };
    model.valid().visit(&mut hasher);
    format!("{:032x}", hasher.hash.digest128())
}
