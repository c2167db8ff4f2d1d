//! A detector in eight bits: the ranges of its convolutions' inputs, and its file.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use image::RgbImage;
use retinanet_convolution::{InputHistograms, InputRange, LayerCall, Quantization, record_calls};
use retinanet_images::{TestTimeView, prepare_views};

use crate::weights::error::WeightsError;
use crate::weights::file::{CLASSES_KEY, SCALE, WeightFile};
use crate::weights::load::load;
use crate::weights::names::Names;
use crate::{Detector, DetectorConfig, DetectorError};

/// Key of the input ranges, as JSON, in the metadata of a file in eight bits.
const RANGES_KEY: &str = "retinanet.input_ranges";

impl Detector {
    /// Runs the network on an upright image, and counts what its convolutions are given.
    pub fn observe_inputs(&self, image: &Arc<RgbImage>, histograms: &mut InputHistograms) {
        let view = TestTimeView::plain(self.preparation(), image.dimensions());
        let views = [(Arc::clone(image), view)];
        let prepared = prepare_views(&views, self.preparation(), self.pixel_form());
        histograms.observe(|| self.predict(prepared));
    }

    /// Computes so in eight bits, where the CPU computes; `path` is the file that says so.
    ///
    /// # Errors
    ///
    /// Returns an error if there are not as many ranges as the model calls convolutions.
    pub(crate) fn with_quantization(
        mut self,
        quantization: Option<Quantization>,
        path: &Path,
    ) -> Result<Self, WeightsError> {
        let Some(quantization) = quantization.filter(|_| !self.is_on_gpu()) else {
            return Ok(self);
        };
        let image = Tensor::zeros([1, 3, 64, 64], &self.device);
        let calls = record_calls(|| drop(self.model().forward(image)));
        let convolutions = calls.iter();
        let convolutions = convolutions
            .filter(|call| matches!(call, LayerCall::Convolution { .. }))
            .count();
        let ranges = quantization.ranges().count();
        if ranges != convolutions {
            return Err(WeightsError::Read {
                path: path.to_owned(),
                reason: format!(
                    "`{RANGES_KEY}` has {ranges} ranges for the model's {convolutions} convolutions"
                ),
            });
        }
        self.quantization = Some(quantization);
        Ok(self)
    }

    /// Whether it computes in eight bits.
    pub const fn is_quantized(&self) -> bool {
        self.quantization.is_some()
    }
}

/// The file of a detector in eight bits, not yet written: the weights of convolutions as whole numbers, and the ranges of
/// their inputs.
#[derive(Debug)]
pub struct QuantizedWeights(Vec<u8>);

impl QuantizedWeights {
    /// Rounds a detector's weights. `path` is what the file will be called.
    ///
    /// # Errors
    ///
    /// Returns an error if a weight is non-finite.
    pub fn of(
        detector: &Detector,
        histograms: &InputHistograms,
        path: &Path,
    ) -> Result<Self, WeightsError> {
        let failed = |reason: String| WeightsError::Write {
            path: path.to_owned(),
            reason,
        };
        let mut file = WeightFile::of(detector.model(), Names::Native, path)?;
        file.quantize();
        let ranges: Vec<[f32; 2]> = (histograms.ranges().iter())
            .map(|range| [range.low, range.high])
            .collect();
        let entries = [
            (CLASSES_KEY, serde_json::to_string(detector.classes())),
            (RANGES_KEY, serde_json::to_string(&ranges)),
        ];
        for (key, text) in entries {
            let text = text.map_err(|error| failed(error.to_string()))?;
            file.metadata.insert(key.to_owned(), text);
        }
        file.to_safetensors().map(Self).map_err(failed)
    }

    /// The detector that the file will give; `path` is what it will be called.
    ///
    /// # Errors
    ///
    /// Returns an error if the config is not the detector's.
    pub fn detector(
        &self,
        config: &DetectorConfig,
        of: &Detector,
        path: &Path,
    ) -> Result<Detector, DetectorError> {
        let file = WeightFile::from_safetensors(&self.0).map_err(|error| WeightsError::Read {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let quantization = file.quantization(path)?;
        let mut model = (config.model).init(of.classes().len(), 0, &of.device)?;
        load(&mut model, file, path, false)?;
        let detector = Detector::new(config, &model, of.classes().clone(), &of.device)?;
        Ok(detector.with_quantization(quantization, path)?)
    }

    /// Writes the file, or leaves what is there.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), WeightsError> {
        retinanet_files::write(path, &self.0).map_err(|error| WeightsError::Write {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    /// Its size in bytes.
    pub const fn size(&self) -> usize {
        self.0.len()
    }
}

impl WeightFile {
    /// Turns the weights of convolutions into whole numbers: all but those of few channels, which stay as they are.
    fn quantize(&mut self) {
        let convolutions =
            (self.tensors.iter()).filter_map(|(name, data)| match data.shape()[..] {
                [_, inputs, ..] if data.shape().len() == 4 => {
                    (inputs >= Quantization::FEWEST_CHANNELS).then(|| name.clone())
                }
                _ => None,
            });
        for name in convolutions.collect::<Vec<_>>() {
            let Some(data) = self.tensors.remove(&name) else {
                continue;
            };
            let shape = data.shape().to_vec();
            let values: Vec<f32> = data.iter().collect();
            let (whole, scales) = Quantization::round_weights(&values, shape[0]);
            let scales = TensorData::new(scales, [shape[0]]);
            self.tensors.insert(format!("{name}{SCALE}"), scales);
            self.tensors.insert(name, TensorData::new(whole, shape));
        }
    }

    /// How the file's model is computed in eight bits, if it is one of those.
    pub(crate) fn quantization(&self, path: &Path) -> Result<Option<Quantization>, WeightsError> {
        let Some(text) = self.metadata.get(RANGES_KEY) else {
            return Ok(None);
        };
        let failed = |reason: String| WeightsError::Read {
            path: path.to_owned(),
            reason: format!("`{RANGES_KEY}`: {reason}"),
        };
        let ranges: Vec<[f32; 2]> =
            serde_json::from_str(text).map_err(|error| failed(error.to_string()))?;
        let ranges = ranges.into_iter().map(|[low, high]| {
            let is_one = low.is_finite() && high.is_finite() && low <= 0.0 && high >= 0.0;
            is_one
                .then_some(InputRange { low, high })
                .ok_or_else(|| failed(format!("{low} to {high} is no range around 0")))
        });
        Ok(Some(Quantization::new(
            &ranges.collect::<Result<Vec<_>, _>>()?,
        )))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use retinanet_boxes::{CategoryId, Class, ClassList};
    use retinanet_settings::Whole;

    use super::*;
    use crate::ModelConfig;

    fn detector() -> (Detector, DetectorConfig) {
        let config = DetectorConfig {
            model: ModelConfig {
                width: Whole::literal(16),
                fpn_channels: Whole::literal(16),
                ..ModelConfig::default()
            },
            ..DetectorConfig::default()
        };
        let class = |id| Class::new(CategoryId(id), format!("class {id}"));
        let classes = ClassList::new(vec![class(3), class(7)]).unwrap();
        let device = Device::flex();
        let model = config.model.init(2, 5, &device).unwrap();
        let detector = Detector::new(&config, &model, classes, &device).unwrap();
        (detector, config)
    }

    fn photo() -> Arc<RgbImage> {
        let pixel = |x, y| image::Rgb([(x * 3) as u8, (y * 5) as u8, (x + y) as u8]);
        Arc::new(RgbImage::from_fn(90, 70, pixel))
    }

    fn logits(detector: &Detector) -> Vec<f32> {
        let view = TestTimeView::plain(detector.preparation(), photo().dimensions());
        let prepared = prepare_views(
            &[(photo(), view)],
            detector.preparation(),
            detector.pixel_form(),
        );
        let logits = detector.predict(prepared).logits.into_data();
        logits.try_into_vec().unwrap()
    }

    #[test]
    fn a_file_in_eight_bits_gives_the_detector_that_it_was_measured_as() {
        let (detector, config) = detector();
        let mut histograms = InputHistograms::default();
        detector.observe_inputs(&photo(), &mut histograms);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.safetensors");
        let weights = QuantizedWeights::of(&detector, &histograms, &path).unwrap();
        let measured = weights.detector(&config, &detector, &path).unwrap();
        weights.write(&path).unwrap();
        let whole = detector.to_bytes(&config, false, &path).unwrap();
        assert!(weights.size() < whole.len() / 2, "{}", weights.size());

        let read = Detector::from_weights(&config, &path, &Device::flex()).unwrap();
        assert!(read.is_quantized() && !detector.is_quantized());
        assert_eq!(read.classes(), detector.classes());
        assert_eq!(logits(&read), logits(&measured));
        let (found, expected) = (logits(&read), logits(&detector));
        let pairs = found.iter().zip(&expected);
        let off = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!((1e-6..0.1).contains(&off), "{off}");

        let few = Quantization::new(&histograms.ranges()[1..]);
        let refused = detector.with_quantization(Some(few), &path).err().unwrap();
        assert!(
            refused.to_string().contains("ranges for the model's"),
            "{refused}"
        );

        // Rounding its weights again changes nothing.
        let again = QuantizedWeights::of(&read, &histograms, &path).unwrap();
        let again = again.detector(&config, &read, &path).unwrap();
        assert_eq!(logits(&again), logits(&read));
    }

    #[test]
    fn ranges_that_are_none_and_whole_weights_without_a_scale_are_told() {
        let path = Path::new("some.safetensors");
        let told = |text: &str| {
            let mut file = WeightFile::default();
            file.metadata.insert(RANGES_KEY.into(), text.into());
            file.quantization(path).unwrap_err().to_string()
        };
        for text in [
            "[[1.0, 2.0]]",
            "[[-1.0, -0.5]]",
            "[[0.0, 1e300]]",
            "[[0.0]]",
            "{}",
        ] {
            assert!(told(text).contains("`retinanet.input_ranges`"), "{text}");
        }
        let mut file = WeightFile::default();
        assert!(file.quantization(path).unwrap().is_none());
        let whole = || TensorData::new(vec![1_i8, 2, 3, 4], [2, 2]);
        let scales = |values: Vec<f32>| {
            let count = values.len();
            TensorData::new(values, [count])
        };
        file.tensors = [
            ("a".to_owned(), whole()),
            ("a.scale".to_owned(), scales(vec![0.5, 10.0])),
            ("b".to_owned(), whole()),
            ("c".to_owned(), whole()),
            ("c.scale".to_owned(), scales(vec![0.5])),
        ]
        .into();
        file.restore();
        let names: Vec<_> = file.tensors.keys().collect();
        assert_eq!(names, ["a"]);
        let values: Vec<f32> = file.tensors["a"].iter().collect();
        assert_eq!(values, [0.5, 1.0, 30.0, 40.0]);
    }
}
