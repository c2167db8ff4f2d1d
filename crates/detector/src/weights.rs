//! Weight files in the safetensors format, under the model's own names, with the classes in the
//! file's metadata.

use std::path::{Path, PathBuf};

use burn::store::{ApplyError, ModuleSnapshot, SafetensorsStore};
use retinanet_boxes::ClassList;
use safetensors::SafeTensors;

use crate::model::RetinaNet;

/// Key of the classes, as JSON, in a weight file's metadata.
const CLASSES_KEY: &str = "retinanet.classes";

/// Writes the model's weights and classes, beside the place first and then over it.
///
/// # Errors
///
/// Returns an error where the file cannot be written.
pub fn save_safetensors(
    model: &RetinaNet,
    classes: &ClassList,
    path: &Path,
) -> Result<(), WeightsError> {
    let classes = serde_json::to_string(classes).map_err(|error| WeightsError::Write {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    let mut store = SafetensorsStore::from_file(path)
        .overwrite(true)
        .skip_enum_variants(true)
        .metadata(CLASSES_KEY, classes);
    model
        .save_into(&mut store)
        .map_err(|error| WeightsError::Write {
            path: path.to_owned(),
            reason: error.to_string(),
        })
}

/// Reads weights that [`save_safetensors`] wrote into a model of the same config.
///
/// # Errors
///
/// Returns an error where the file cannot be read, or a tensor is missing, left over or of
/// another shape.
pub fn load_safetensors(model: &mut RetinaNet, path: &Path) -> Result<(), WeightsError> {
    // The store's own check ends at the first kind of fault; this one tells them all.
    let mut store = SafetensorsStore::from_file(path)
        .skip_enum_variants(true)
        .allow_partial(true)
        .validate(false);
    let result = model
        .load_from(&mut store)
        .map_err(|error| WeightsError::Read {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    let class_fault = result.errors.iter().find_map(class_output_mismatch);
    if let Some(found) = class_fault {
        let anchors = found.1 / model.classes();
        return Err(WeightsError::Classes {
            path: path.to_owned(),
            file: found.0 / anchors.max(1),
            model: model.classes(),
        });
    }
    let mut faults: Vec<String> = result.errors.iter().map(ToString::to_string).collect();
    faults.extend(
        result
            .missing
            .iter()
            .map(|(name, _)| format!("`{name}` is missing")),
    );
    faults.extend(
        result
            .unused
            .iter()
            .map(|name| format!("`{name}` is left over")),
    );
    if faults.is_empty() {
        return Ok(());
    }
    Err(WeightsError::Fit {
        path: path.to_owned(),
        faults,
    })
}

/// Reads the classes that a weight file tells.
///
/// # Errors
///
/// Returns an error where the file cannot be read or tells no classes.
pub fn read_classes(path: &Path) -> Result<ClassList, WeightsError> {
    let failed = |reason: String| WeightsError::Read {
        path: path.to_owned(),
        reason,
    };
    let bytes = fs_err::read(path).map_err(|error| failed(error.to_string()))?;
    let (_, metadata) =
        SafeTensors::read_metadata(&bytes).map_err(|error| failed(error.to_string()))?;
    let classes = metadata
        .metadata()
        .as_ref()
        .and_then(|metadata| metadata.get(CLASSES_KEY))
        .ok_or_else(|| failed(format!("its metadata has no `{CLASSES_KEY}`")))?;
    serde_json::from_str(classes).map_err(|error| failed(format!("`{CLASSES_KEY}`: {error}")))
}

/// The channels of the class output in the file and in the model, where they differ.
fn class_output_mismatch(error: &ApplyError) -> Option<(usize, usize)> {
    match error {
        ApplyError::ShapeMismatch {
            path,
            expected,
            found,
        } if path.starts_with("class_subnet.output.") => Some((found[0], expected[0])),
        _ => None,
    }
}

/// A weight file cannot be written or read, or does not fit the model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file cannot be written.
    #[error("cannot write the weights to `{}`: {reason}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The file cannot be read.
    #[error("cannot read weights from `{}`: {reason}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The file's class output is for another number of classes.
    #[error(
        "the weights in `{}` are for {file} classes, the data set has {model}",
        path.display()
    )]
    Classes {
        /// Which file.
        path: PathBuf,
        /// Classes of the file.
        file: usize,
        /// Classes of the model.
        model: usize,
    },
    /// Tensors are missing, left over or of another shape.
    #[error(
        "the weights in `{}` do not fit the model in {} places, first: {}; is it the same config?",
        path.display(),
        faults.len(),
        faults.iter().take(3).map(String::as_str).collect::<Vec<_>>().join("; ")
    )]
    Fit {
        /// Which file.
        path: PathBuf,
        /// One sentence for each tensor at fault.
        faults: Vec<String>,
    },
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use retinanet_backbone::Architecture;
    use retinanet_boxes::{CategoryId, Class};

    use super::*;
    use crate::ModelConfig;

    fn config() -> ModelConfig {
        ModelConfig {
            backbone: Architecture::Resnet18,
            width: 4,
            fpn_channels: 8,
            ..ModelConfig::default()
        }
    }

    fn classes(names: &[&str]) -> ClassList {
        let classes = names.iter().zip(3..).map(|(name, id)| Class {
            category: CategoryId(id),
            name: (*name).to_owned(),
        });
        ClassList::new(classes.collect()).unwrap()
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
        let model = config().init(2, &device).unwrap();
        let classes = classes(&["cat", "dog"]);
        save_safetensors(&model, &classes, &path).unwrap();

        let mut other = config().init(2, &device).unwrap();
        assert_ne!(logits(&other), logits(&model));
        load_safetensors(&mut other, &path).unwrap();
        assert_eq!(logits(&other), logits(&model));
        assert_eq!(read_classes(&path).unwrap(), classes);
    }

    #[test]
    fn another_number_of_classes_is_told() {
        let device = Device::flex();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let model = config().init(2, &device).unwrap();
        save_safetensors(&model, &classes(&["cat", "dog"]), &path).unwrap();

        let mut three = config().init(3, &device).unwrap();
        let error = load_safetensors(&mut three, &path).unwrap_err().to_string();
        assert!(
            error.ends_with("are for 2 classes, the data set has 3"),
            "{error}"
        );
    }

    #[test]
    fn another_architecture_and_a_broken_file_are_told() {
        let device = Device::flex();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let model = config().init(2, &device).unwrap();
        save_safetensors(&model, &classes(&["cat", "dog"]), &path).unwrap();

        let deeper = ModelConfig {
            backbone: Architecture::Resnet34,
            ..config()
        };
        let mut deeper = deeper.init(2, &device).unwrap();
        let error = load_safetensors(&mut deeper, &path)
            .unwrap_err()
            .to_string();
        assert!(error.contains("is missing"), "{error}");

        let bytes = fs_err::read(&path).unwrap();
        fs_err::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let mut same = config().init(2, &device).unwrap();
        let error = load_safetensors(&mut same, &path).unwrap_err();
        assert!(matches!(error, WeightsError::Read { .. }), "{error}");
    }
}
