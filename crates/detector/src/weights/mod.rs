//! Weight files: this program's own with the classes in the file's metadata, and those of other
//! programs in and out.

mod coco;
pub(crate) mod error;
pub(crate) mod file;
pub(crate) mod load;
pub(crate) mod names;
mod portable;

use std::path::Path;

use burn::store::ModuleSnapshot;
use burn::tensor::TensorData;
use retinanet_boxes::ClassList;

use crate::model::RetinaNet;
use crate::numbers::faulty_number;
use crate::weights::file::{CLASSES_KEY, WeightFile};
use crate::weights::load::C5;
use crate::weights::names::layout;

pub use coco::coco_classes;
pub use error::WeightsError;
pub use file::WeightFormat;
pub use load::{LoadedWeights, load_pretrained, load_weights};
pub use names::Names;

/// Writes the model's weights and classes, beside the place first and then over it.
///
/// # Errors
///
/// Returns an error if the file cannot be written, or these names have no word for one of the
/// model's parameters.
pub fn save_weights(
    model: &RetinaNet,
    classes: &ClassList,
    path: &Path,
    format: WeightFormat,
    names: Names,
) -> Result<(), WeightsError> {
    let mut file = WeightFile::of(model, names, path)?;
    let classes = serde_json::to_string(classes).map_err(|error| WeightsError::Write {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    file.metadata.insert(CLASSES_KEY.to_owned(), classes);
    file.write(path, format)
}

impl WeightFile {
    /// The classes that the file tells.
    pub(crate) fn classes(&self, path: &Path) -> Result<ClassList, WeightsError> {
        let failed = |reason: String| WeightsError::Read {
            path: path.to_owned(),
            reason,
        };
        let classes = self.metadata.get(CLASSES_KEY).ok_or_else(|| {
            failed(format!(
                "its metadata has no `{CLASSES_KEY}`; weights of another program go through \
                 `retinanet import` first"
            ))
        })?;
        serde_json::from_str(classes).map_err(|error| failed(format!("`{CLASSES_KEY}`: {error}")))
    }

    /// A model's weights under these names, on their way to a file.
    pub(crate) fn of(model: &RetinaNet, names: Names, path: &Path) -> Result<Self, WeightsError> {
        let failed = |reason: String| WeightsError::Write {
            path: path.to_owned(),
            reason,
        };
        if let Some(fault) = faulty_number(model) {
            return Err(failed(fault));
        }
        let parameters = model.collect(None, None, true);
        let layout = layout(&parameters);
        let mut file = Self::default();
        for parameter in parameters {
            let (native, dtype, shape, _, bytes) = parameter
                .into_parts()
                .map_err(|error| failed(error.to_string()))?;
            let name = names
                .of(&native, layout)
                .ok_or_else(|| failed(format!("{} lack `{native}`", names.describe())))?;
            if names == Names::Torchvision
                && let Some(norm) = name.strip_suffix("running_mean")
            {
                // Only a count, but strict loading asks for it.
                let count = TensorData::new(vec![0_i64], [0_usize; 0]);
                let name = format!("{norm}num_batches_tracked");
                file.tensors.insert(name, count);
            }
            let values = TensorData::from_bytes(bytes, shape, dtype);
            file.tensors.insert(name, values);
        }
        Ok(file)
    }
}

/// What is written of a backbone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackboneExport {
    /// Whether the last stage, whose output is C5, is left out: it has most of the weights, and what it has learned
    /// carries over least.
    pub without_c5: bool,
    /// Whether the weights are written in half precision: half the size, each to 3 digits.
    pub half: bool,
}

/// Writes the weights of the model's backbone alone, for training to start from.
///
/// # Errors
///
/// Returns an error if the file cannot be written, or a weight has no place in half precision.
pub fn save_backbone(
    model: &RetinaNet,
    path: &Path,
    format: WeightFormat,
    export: BackboneExport,
) -> Result<(), WeightsError> {
    let mut file = WeightFile::of(model, Names::Native, path)?;
    file.tensors.retain(|name, _| {
        let is_c5 = name.starts_with(&format!("{C5}."));
        name.starts_with("backbone.") && !(export.without_c5 && is_c5)
    });
    if export.half {
        file.halve(path)?;
    }
    file.write(path, format)
}

/// Reads the classes that a weight file tells.
///
/// # Errors
///
/// Returns an error if the file cannot be read or tells no classes.
pub fn read_classes(path: &Path) -> Result<ClassList, WeightsError> {
    WeightFile::read(path)?.classes(path)
}

/// How many classes the detector in a weight file of any program tells apart, with so many anchors
/// in a cell; nothing if the file has a backbone alone.
///
/// # Errors
///
/// Returns an error if the file cannot be read, or its names are nobody's known.
pub fn count_classes(path: &Path, anchors_per_cell: usize) -> Result<Option<usize>, WeightsError> {
    let file = WeightFile::read(path)?;
    let names = file.names(path)?;
    let layout = names::Layout {
        finest_level: 3,
        head_norms: false,
    };
    let bias = names.of("class_subnet.output.bias", layout);
    let bias = bias.and_then(|name| file.tensors.get(&name));
    let Some(logits) = bias.map(TensorData::num_elements) else {
        return Ok(None);
    };
    if logits.is_multiple_of(anchors_per_cell) {
        Ok(Some(logits / anchors_per_cell))
    } else {
        Err(WeightsError::Anchors {
            path: path.to_owned(),
            logits,
            anchors_per_cell,
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use retinanet_backbone::Architecture;
    use retinanet_boxes::{CategoryId, Class};

    use retinanet_settings::Whole;

    use super::*;
    use crate::ModelConfig;

    fn config() -> ModelConfig {
        ModelConfig {
            backbone: Architecture::Resnet18,
            width: Whole::literal(4),
            fpn_channels: Whole::literal(8),
            ..ModelConfig::default()
        }
    }

    fn classes(names: &[&str]) -> ClassList {
        let classes = names
            .iter()
            .zip(3..)
            .map(|(name, id)| Class::new(CategoryId(id), *name));
        ClassList::new(classes.collect()).unwrap()
    }

    fn save(model: &RetinaNet, classes: &ClassList, path: &Path) {
        save_weights(
            model,
            classes,
            path,
            WeightFormat::Safetensors,
            Names::Native,
        )
        .unwrap();
    }

    fn logits(model: &RetinaNet) -> Vec<f32> {
        let images = Tensor::ones([1, 3, 32, 32], &Device::flex());
        let logits = model.forward(images).logits;
        logits.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn weights_and_classes_come_back_bit_for_bit() {
        let device = Device::flex();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let model = config().init(2, 0, &device).unwrap();
        let classes = classes(&["cat", "dog"]);
        save(&model, &classes, &path);

        let mut other = config().init(2, 1, &device).unwrap();
        assert_ne!(logits(&other), logits(&model));
        load_weights(&mut other, &path).unwrap();
        assert_eq!(logits(&other), logits(&model));
        assert_eq!(read_classes(&path).unwrap(), classes);
    }

    #[test]
    fn another_number_of_classes_is_told() {
        let device = Device::flex();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let model = config().init(2, 0, &device).unwrap();
        save(&model, &classes(&["cat", "dog"]), &path);

        let mut three = config().init(3, 0, &device).unwrap();
        let error = load_weights(&mut three, &path).unwrap_err().to_string();
        assert!(
            error.ends_with("are for 2 classes, the model tells 3 apart"),
            "{error}"
        );
    }

    /// Fewer anchors a cell, in one of them of a detector whose class output would divide.
    #[test]
    fn outputs_of_other_anchors_start_afresh_in_training_alone() {
        let device = Device::flex();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let model = config().init(2, 0, &device).unwrap();
        save(&model, &classes(&["cat", "dog"]), &path);

        let mut config = config();
        config.anchors.scales_per_octave = Whole::literal(2);
        let mut fewer = config.init(2, 1, &device).unwrap();
        let whole = load_weights(&mut fewer, &path).unwrap_err().to_string();
        assert!(whole.contains("`box_subnet.output.weight` is"), "{whole}");
        let loaded = load_pretrained(&mut fewer, &path).unwrap();
        let told = loaded.to_string();
        assert!(told.contains("box output has other values"), "{told}");
        assert!(told.contains("class output has other values"), "{told}");
        let of = |model: &RetinaNet, output: bool| {
            let subnet = model.box_subnet();
            let conv = if output {
                &subnet.output
            } else {
                &subnet.convs[0]
            };
            conv.weight.val().into_data()
        };
        assert_eq!(of(&fewer, false), of(&model, false));
        assert_eq!(
            of(&fewer, true),
            of(&config.init(2, 1, &device).unwrap(), true)
        );
    }

    /// As a detector of one's own that learned without them, for the preset `gfl`.
    #[test]
    fn factors_of_levels_start_afresh_in_training_alone() {
        let device = Device::flex();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        save(
            &config().init(2, 0, &device).unwrap(),
            &classes(&["cat", "dog"]),
            &path,
        );
        let mut config = config();
        config.head.level_scales = true;
        let mut scaled = config.init(2, 1, &device).unwrap();
        let whole = load_weights(&mut scaled, &path).unwrap_err().to_string();
        assert!(whole.contains("`box_subnet.scales` is missing"), "{whole}");
        let told = load_pretrained(&mut scaled, &path).unwrap().to_string();
        assert!(told.contains("the file has no factors of levels"), "{told}");
    }

    #[test]
    fn another_architecture_and_a_broken_file_are_told() {
        let device = Device::flex();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let model = config().init(2, 0, &device).unwrap();
        save(&model, &classes(&["cat", "dog"]), &path);

        let deeper = ModelConfig {
            backbone: Architecture::Resnet34,
            ..config()
        };
        let mut deeper = deeper.init(2, 0, &device).unwrap();
        let error = load_weights(&mut deeper, &path).unwrap_err().to_string();
        assert!(error.contains("is missing"), "{error}");

        let bytes = fs_err::read(&path).unwrap();
        fs_err::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let mut same = config().init(2, 0, &device).unwrap();
        let error = load_weights(&mut same, &path).unwrap_err();
        assert!(matches!(error, WeightsError::Read { .. }), "{error}");
    }

    #[test]
    fn a_backbone_without_its_last_stage_in_half_precision_is_a_start() {
        let device = Device::flex();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backbone.safetensors");
        let (model, mut other) = (
            config().init(2, 0, &device).unwrap(),
            config().init(3, 1, &device).unwrap(),
        );
        let before = other.collect(None, None, true);
        let export = BackboneExport {
            without_c5: true,
            half: true,
        };
        save_backbone(&model, &path, WeightFormat::Safetensors, export).unwrap();
        let loaded = load_pretrained(&mut other, &path).unwrap();
        assert!(
            loaded.to_string().contains("C5, which starts afresh"),
            "{loaded}"
        );

        let values = |tensors: Vec<burn::store::burn_pack::Tensor>| {
            let named = tensors.into_iter().map(|tensor| {
                let (name, dtype, shape, _, bytes) = tensor.into_parts().unwrap();
                let data = TensorData::from_bytes(bytes, shape, dtype);
                (name, data.try_to_vec::<f32>().unwrap())
            });
            named.collect::<std::collections::BTreeMap<_, _>>()
        };
        let after = values(other.collect(None, None, true));
        let (source, before) = (values(model.collect(None, None, true)), values(before));
        for (name, values) in after {
            let is_taken = name.starts_with("backbone.") && !name.starts_with("backbone.layer4.");
            let wanted = if is_taken {
                &source[&name]
            } else {
                &before[&name]
            };
            let tolerance = if is_taken { 1e-3 } else { 0.0 };
            for (value, wanted) in values.iter().zip(wanted) {
                assert!(
                    (value - wanted).abs() <= tolerance * wanted.abs() + 1e-7,
                    "{name}"
                );
            }
        }
    }
}
