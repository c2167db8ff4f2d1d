//! The stored outputs of torchvision and the hash that makes its parameters and inputs; see
//! `fixtures/torchvision/README.md`.

use burn::tensor::Tensor;
use safetensors::SafeTensors;

/// One of the stored files.
pub(super) struct Fixture {
    bytes: Vec<u8>,
}

impl Fixture {
    pub(super) fn read(name: &str) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/torchvision");
        let path = format!("{folder}/{name}.safetensors");
        Self {
            bytes: fs_err::read(path).unwrap(),
        }
    }

    pub(super) fn floats(&self, key: &str) -> Vec<f32> {
        let numbers = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
        self.data(key).chunks_exact(4).map(numbers).collect()
    }

    pub(super) fn doubles(&self, key: &str) -> Vec<f64> {
        let numbers = |bytes: &[u8]| f64::from_le_bytes(bytes.try_into().unwrap());
        self.data(key).chunks_exact(8).map(numbers).collect()
    }

    pub(super) fn integers(&self, key: &str) -> Vec<i64> {
        let numbers = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().unwrap());
        self.data(key).chunks_exact(8).map(numbers).collect()
    }

    pub(super) fn float(&self, key: &str) -> f64 {
        f64::from(self.floats(key)[0])
    }

    /// A list of names in the metadata.
    pub(super) fn names(&self, key: &str) -> Vec<String> {
        let (_, header) = SafeTensors::read_metadata(&self.bytes).unwrap();
        let text = &header.metadata().as_ref().unwrap()[key];
        serde_json::from_str(text).unwrap()
    }

    /// Checks a tensor against its stored sample: within a share of the largest value.
    pub(super) fn check<const D: usize>(&self, key: &str, tensor: Tensor<D>, tolerance: f64) {
        let shape: Vec<i64> = tensor.dims().iter().map(|&side| side as i64).collect();
        assert_eq!(shape, self.integers(&format!("{key}.shape")), "{key}");
        let values: Vec<f32> = tensor.into_data().try_to_vec().unwrap();
        let largest = self.float(&format!("{key}.max"));
        let error = sample_error(key, &values, &self.floats(key));
        assert!(
            error <= tolerance * largest,
            "{key}: {error:e} of {largest}"
        );
    }

    fn data(&self, key: &str) -> Vec<u8> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        tensors.tensor(key).unwrap().data().to_vec()
    }
}

/// The largest difference between a tensor's values and its sample.
pub(super) fn sample_error(key: &str, values: &[f32], sample: &[f32]) -> f64 {
    let pairs = (0..).zip(sample).map(|(index, expected)| {
        let place = bits(&format!("sample/{key}"), index) as usize % values.len();
        f64::from(values[place]) - f64::from(*expected)
    });
    pairs.map(f64::abs).fold(0.0, f64::max)
}

/// The hash: 32 bits for each place of something with a name.
pub(super) fn bits(name: &str, index: u32) -> u32 {
    let fnv = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
    let mut x = name.bytes().fold(2_166_136_261, fnv) ^ index.wrapping_mul(0x9E37_79B1);
    x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D);
    x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
    x ^ (x >> 16)
}

/// The hash as a number in `[-1, 1)`.
pub(super) fn unit(name: &str, index: u32) -> f64 {
    f64::from(bits(name, index) >> 8) / 16_777_216.0 * 2.0 - 1.0
}

/// The values of a parameter, by torchvision's name for it.
pub(super) fn parameter(name: &str, shape: &[usize]) -> Vec<f32> {
    let (center, scale) = center_and_scale(name, shape);
    let count = shape.iter().product::<usize>() as u32;
    (0..count)
        .map(|index| (center + scale * unit(name, index)) as f32)
        .collect()
}

fn center_and_scale(name: &str, shape: &[usize]) -> (f64, f64) {
    if shape.len() == 4 {
        let fan_in = shape[1..].iter().product::<usize>() as f64;
        let output = name.contains("cls_logits") || name.contains("bbox_reg");
        let factor = if output { 0.25 } else { 1.0 };
        return (0.0, factor * (gain(name) / fan_in).sqrt());
    }
    match name.rsplit('.').next() {
        _ if name == "head.classification_head.cls_logits.bias" => (-3.0, 1.0),
        Some("running_var") => (1.0, 0.5),
        Some("weight") => (0.5, 0.2),
        _ => (0.0, 0.1),
    }
}

fn gain(name: &str) -> f64 {
    if name.contains(".fpn.") { 3.0 } else { 6.0 }
}
