//! A detector in one file: weights, classes and settings, for where there is no run.

use std::path::Path;

use burn::tensor::Device;
use serde::de::DeserializeOwned;

use crate::weights::error::WeightsError;
use crate::weights::file::{CLASSES_KEY, WeightFile};
use crate::weights::load::load;
use crate::weights::names::Names;
use crate::{Detector, DetectorConfig, DetectorError};

/// Key of the settings, as JSON, in the metadata of a detector's file.
const CONFIG_KEY: &str = "retinanet.config";

impl Detector {
    /// The detector as the content of one file, a safetensors file that [`from_bytes`](Self::from_bytes) reads; with half
    /// precision in half the size, each weight to 3 digits.
    ///
    /// `config` is the detector's own; `path` is what the file will be called.
    ///
    /// # Errors
    ///
    /// Returns an error if a weight is non-finite, or has no place in half precision.
    pub fn to_bytes(
        &self,
        config: &DetectorConfig,
        half: bool,
        path: &Path,
    ) -> Result<Vec<u8>, WeightsError> {
        let mut file = WeightFile::of(self.model(), Names::Native, path)?;
        let failed = |reason: String| WeightsError::Write {
            path: path.to_owned(),
            reason,
        };
        let entries = [
            (CLASSES_KEY, serde_json::to_string(self.classes())),
            (CONFIG_KEY, serde_json::to_string(config)),
        ];
        for (key, text) in entries {
            let text = text.map_err(|error| failed(error.to_string()))?;
            file.metadata.insert(key.to_owned(), text);
        }
        if half {
            file.halve(path)?;
        }
        file.to_safetensors().map_err(failed)
    }

    /// The detector of such a file's content; `path` is what it is called.
    ///
    /// # Errors
    ///
    /// Returns an error if the content is no detector.
    pub fn from_bytes(bytes: Vec<u8>, path: &Path, device: &Device) -> Result<Self, DetectorError> {
        let failed = |reason: String| WeightsError::Read {
            path: path.to_owned(),
            reason,
        };
        let file =
            WeightFile::from_safetensors(&bytes).map_err(|error| failed(error.to_string()))?;
        drop(bytes);
        let config: DetectorConfig = entry(&file, CONFIG_KEY).map_err(failed)?;
        let classes: retinanet_boxes::ClassList = entry(&file, CLASSES_KEY).map_err(failed)?;
        let mut model = config.model.init(classes.len(), 0, device)?;
        load(&mut model, file, path, false)?;
        Self::new(&config, &model, classes, device)
    }
}

fn entry<T: DeserializeOwned>(file: &WeightFile, key: &str) -> Result<T, String> {
    let text = file.metadata.get(key);
    let text =
        text.ok_or_else(|| format!("its metadata has no `{key}`, so it is no detector's"))?;
    serde_json::from_str(text).map_err(|error| format!("`{key}` cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;
    use retinanet_boxes::{CategoryId, Class, ClassList};
    use retinanet_settings::Whole;

    use super::*;
    use crate::ModelConfig;

    fn detector() -> (Detector, DetectorConfig) {
        let config = DetectorConfig {
            model: ModelConfig {
                width: Whole::literal(4),
                fpn_channels: Whole::literal(8),
                ..ModelConfig::default()
            },
            winograd: false,
            ..DetectorConfig::default()
        };
        let class = |id| Class::new(CategoryId(id), format!("class {id}"));
        let classes = ClassList::new(vec![class(3), class(7)]).unwrap();
        let device = Device::flex();
        let model = config.model.init(2, 5, &device).unwrap();
        (
            Detector::new(&config, &model, classes, &device).unwrap(),
            config,
        )
    }

    #[test]
    fn a_file_holds_all_of_a_detector() {
        let (detector, config) = detector();
        let device = Device::flex();
        let images =
            Tensor::<4>::random([1, 3, 64, 64], burn::tensor::Distribution::Default, &device);
        let logits =
            |detector: &Detector| detector.model().forward(images.clone()).logits.into_data();
        let path = Path::new("detector.safetensors");
        let bytes = detector.to_bytes(&config, false, path).unwrap();
        let half = detector.to_bytes(&config, true, path).unwrap();
        assert!(half.len() < bytes.len() * 6 / 10);
        let read = Detector::from_bytes(bytes, path, &device).unwrap();
        assert_eq!(read.classes(), detector.classes());
        assert_eq!(logits(&read), logits(&detector));
        let read = Detector::from_bytes(half, path, &device).unwrap();
        let tolerance = burn::tensor::Tolerance::absolute(1e-2);
        logits(&read).assert_approx_eq::<f32>(&logits(&detector), tolerance);
    }

    #[test]
    fn what_is_no_detector_is_told() {
        let path = Path::new("some.safetensors");
        let device = Device::flex();
        let refusal = |bytes: &[u8]| {
            let refused = Detector::from_bytes(bytes.to_vec(), path, &device);
            refused.err().map(|error| error.to_string()).unwrap()
        };
        assert!(refusal(b"photo").contains("some.safetensors"));
        let (detector, _) = detector();
        let file = WeightFile::of(detector.model(), Names::Native, path).unwrap();
        let weights = file.to_safetensors().unwrap();
        assert!(refusal(&weights).contains("`retinanet.config`"));
        assert!(refusal(&weights[..weights.len() / 2]).contains("some.safetensors"));
    }
}
