//! A detector in eight bits: the ranges of its convolutions' inputs, and its file.

use std::iter;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{DType, TensorData};
use image::RgbImage;
use retinanet_convolution::{InputHistograms, InputRange, Quantization};
use retinanet_images::{TestTimeView, prepare_views};

use crate::weights::error::WeightsError;
use crate::weights::file::{CLASSES_KEY, WeightFile};
use crate::weights::load::load;
use crate::weights::names::Names;
use crate::{Detector, DetectorConfig, DetectorError};

/// What follows the name of whole weights in the name of what one of them is worth, by outputs.
const STEP: &str = ".step";

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
        Ok(detector.with_quantization(quantization))
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
        let convolutions = (self.tensors.iter()).filter_map(|(name, data)| match data.shape()[..] {
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
            let (whole, steps) = Quantization::round_weights(&values, shape[0]);
            let steps = TensorData::new(steps, [shape[0]]);
            self.tensors.insert(format!("{name}{STEP}"), steps);
            self.tensors.insert(name, TensorData::new(whole, shape));
        }
    }

    /// Turns whole numbers into what they are worth; those that nothing tells the worth of are left out.
    pub(crate) fn restore(&mut self) {
        let is_whole = |data: &TensorData| data.dtype() == DType::I8;
        let whole: Vec<_> = (self.tensors.extract_if(.., |_, data| is_whole(data))).collect();
        for (name, data) in whole {
            let Some(steps) = self.tensors.remove(&format!("{name}{STEP}")) else {
                continue;
            };
            let shape = data.shape().to_vec();
            let each = shape.iter().skip(1).product::<usize>().max(1);
            let steps: Vec<f32> = steps.iter().collect();
            if steps.len() * each == data.num_elements() {
                let steps = steps.into_iter().flat_map(|step| iter::repeat_n(step, each));
                let values = data.iter::<i8>().zip(steps);
                let values: Vec<f32> = values.map(|(it, step)| f32::from(it) * step).collect();
                self.tensors.insert(name, TensorData::new(values, shape));
            }
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
        Ok(Some(Quantization::new(&ranges.collect::<Result<Vec<_>, _>>()?)))
    }
}
