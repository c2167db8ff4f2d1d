//! Runs a graph in [tract](https://github.com/sonos/tract) beside the detector that it was made of.

use std::io::Cursor;
use std::sync::Arc;

use burn::tensor::Device;
use image::{Rgb, RgbImage};
use retinanet_boxes::Detection;
use retinanet_detector::{Detector, DetectorConfig, images_to_device};
use retinanet_images::{PixelForm, Preparation, TestTimeView, prepare_views};
use retinanet_settings::Whole;
use tract_onnx::prelude::{
    Framework, InferenceFact, InferenceModelExt, IntoRunnable, TValue, TVec, Tensor, TractResult,
    tvec,
};

use crate::{ExportError, GraphOutput, OnnxOptions, PixelType, to_onnx};

/// Batch, height and width of the images of both.
const SHAPES: [[usize; 3]; 2] = [[1, 160, 200], [2, 128, 96]];

/// How far logits and deltas may be off, of the largest one.
const PREDICTIONS: f32 = 1e-4;

/// How far scores may be off; with weights of half precision ten times that.
const SCORES: f32 = 1e-4;

/// How far edges may be off, in pixels.
const PIXELS: f32 = 0.01;

/// What weights of half precision may make of the tolerances.
const HALF: f32 = 100.0;

/// Compares what a graph's file says of made-up images with what the detector says.
///
/// `config` and `options` are those that the file was made with.
///
/// # Errors
///
/// Returns an error if the file cannot be run, or says something else.
pub fn check_onnx(
    detector: &Detector,
    config: &DetectorConfig,
    options: OnnxOptions,
    file: &[u8],
) -> Result<(), CheckError> {
    let raw = OnnxOptions {
        output: GraphOutput::Raw,
        ..options
    };
    let raw_file = to_onnx(detector, config, raw)?;
    let slack = if options.half { HALF } else { 1.0 };
    for shape in SHAPES {
        let sample = Sample::new(detector, config, shape)?;
        let found = sample.run(&raw_file, options.input)?;
        for (name, ours, theirs) in [
            ("logits", &sample.logits, found.first()),
            ("deltas", &sample.deltas, found.get(1)),
        ] {
            let difference = difference(ours, &floats(theirs)?);
            if difference.is_nan() || difference > PREDICTIONS * slack {
                return Err(CheckError::Predictions { name, difference });
            }
        }
        if options.output == GraphOutput::Detections {
            sample.compare(&sample.run(file, options.input)?, slack)?;
        }
    }
    Ok(())
}

/// Images, and what the detector says of them.
struct Sample {
    shape: [usize; 3],
    /// `[batch, 3, height, width]`
    pixels: Vec<u8>,
    logits: Vec<f32>,
    deltas: Vec<f32>,
    detections: Vec<Vec<Detection>>,
    /// The score that all detections exceed.
    threshold: f32,
}

impl Sample {
    fn new(
        detector: &Detector,
        config: &DetectorConfig,
        shape: [usize; 3],
    ) -> Result<Self, CheckError> {
        let [batch, height, width] = shape;
        let images: Vec<_> = (0..batch)
            .map(|seed| Arc::new(picture(height as u32, width as u32, seed as u32)))
            .collect();
        // As they are, so that nothing but the graph is compared.
        let mut unresized = config.images.clone();
        unresized.short_side = Whole::literal(height.min(width) as u64);
        unresized.long_side = Whole::literal(height.max(width) as u64);
        let preparation = Preparation::new(&unresized).map_err(CheckError::Setting)?;
        let views: Vec<_> = (images.iter())
            .map(|image| {
                let view = TestTimeView::plain(&preparation, image.dimensions());
                (Arc::clone(image), view)
            })
            .collect();
        let mut prepared = prepare_views(&views, &preparation, PixelForm::Numbers);
        let padded = [batch, prepared.height, prepared.width];
        let numbers = images_to_device(&mut prepared.pixels, padded, &Device::flex());
        let predictions = detector.model().forward(numbers);
        let anchors = (config.model.anchor_generator())
            .map_err(ExportError::from)?
            .generate(prepared.height, prepared.width);
        let logits = predictions.logits.clone().into_data().iter().collect();
        let deltas = predictions.deltas(&config.model);
        let decoder = config.decode.init(&config.model);
        let thresholds = config.decode.thresholds(predictions.level_anchors.len());
        Ok(Self {
            shape,
            pixels: planes(&images),
            logits,
            deltas,
            detections: decoder.decode(predictions, &anchors, &prepared.sizes),
            threshold: thresholds.into_iter().fold(1.0, f32::min),
        })
    }

    /// What a graph gives for the images.
    fn run(&self, file: &[u8], input: PixelType) -> Result<TVec<TValue>, CheckError> {
        let [batch, height, width] = self.shape;
        let shape = [batch, 3, height, width];
        let run = || -> TractResult<TVec<TValue>> {
            let pixels = match input {
                PixelType::Uint8 => Tensor::from_shape(&shape, &self.pixels)?,
                PixelType::Float32 => {
                    let floats: Vec<f32> = self.pixels.iter().map(|it| f32::from(*it)).collect();
                    Tensor::from_shape(&shape, &floats)?
                }
            };
            tract_onnx::onnx()
                .model_for_read(&mut Cursor::new(file))?
                .with_input_fact(0, InferenceFact::dt_shape(pixels.datum_type(), shape))?
                .into_optimized()?
                .into_runnable()?
                .run(tvec![pixels.into()])
        };
        run().map_err(|error| CheckError::Run(format!("{error:#}")))
    }

    fn compare(&self, found: &[TValue], slack: f32) -> Result<(), CheckError> {
        let [boxes, scores, labels, _] = found else {
            return Err(CheckError::Run("it gives other outputs".to_owned()));
        };
        let (boxes, scores) = (floats(Some(boxes))?, floats(Some(scores))?);
        let labels = floats(Some(labels))?;
        let most = scores.len() / self.shape[0];
        let (boxes, _) = boxes.as_chunks::<4>();
        for (image, ours) in self.detections.iter().enumerate() {
            let theirs = (image * most..(image + 1) * most)
                .filter(|place| labels[*place] >= 0.0)
                .map(|place| (labels[place] as u32, scores[place], boxes[place]));
            let mut theirs: Vec<_> = theirs.collect();
            let least = (ours.iter().map(|it| it.score))
                .chain(theirs.iter().map(|it| it.1))
                .fold(1.0, f32::min);
            // Rounding decides what is just above the threshold, and which of two alike is the last that stays.
            let sure = least.max(self.threshold) + SCORES * slack;
            for one in ours {
                let same = theirs.iter().position(|(label, score, edges)| {
                    let mut edges = edges.iter().zip(one.bbox.to_array());
                    *label == one.class.0
                        && (score - one.score).abs() <= SCORES * slack
                        && edges.all(|(a, b)| (a - b).abs() <= PIXELS * slack)
                });
                match same {
                    Some(place) => drop(theirs.remove(place)),
                    None if one.score > sure => {
                        return Err(CheckError::Detections { score: one.score });
                    }
                    None => {}
                }
            }
            if let Some((_, score, _)) = theirs.iter().find(|it| it.1 > sure) {
                return Err(CheckError::Detections { score: *score });
            }
        }
        Ok(())
    }
}

/// The largest difference, of the largest of ours; NaN where there are more of one than of the other.
fn difference(ours: &[f32], theirs: &[f32]) -> f32 {
    if ours.len() != theirs.len() {
        return f32::NAN;
    }
    let largest = ours
        .iter()
        .fold(f32::MIN_POSITIVE, |largest, it| largest.max(it.abs()));
    let differences = ours
        .iter()
        .zip(theirs)
        .map(|(a, b)| (a - b).abs() / largest);
    differences.fold(
        0.0,
        |largest: f32, it| if it.is_nan() { it } else { largest.max(it) },
    )
}

fn floats(value: Option<&TValue>) -> Result<Vec<f32>, CheckError> {
    let value = value.ok_or_else(|| CheckError::Run("it lacks an output".to_owned()))?;
    let read = || -> TractResult<Vec<f32>> {
        let floats = value.cast_to::<f32>()?;
        Ok(floats
            .to_plain_array_view::<f32>()?
            .iter()
            .copied()
            .collect())
    };
    read().map_err(|error| CheckError::Run(format!("{error:#}")))
}

/// Blocks of colours with noise on them.
fn picture(height: u32, width: u32, seed: u32) -> RgbImage {
    let hash = |value: u32| {
        value
            .wrapping_mul(0x9E37_79B1)
            .rotate_left(13)
            .wrapping_mul(0x85EB_CA77)
    };
    RgbImage::from_fn(width, height, |x, y| {
        let block = hash(x / 24 + 64 * (y / 24) + (seed << 16));
        let noise = hash(x + width * y + (seed << 20));
        Rgb([0, 8, 16].map(|bits| {
            (((block >> bits) as u8) / 5 * 4).saturating_add((noise >> bits) as u8 / 5)
        }))
    })
}

/// `[batch, 3, height, width]`
fn planes(images: &[Arc<RgbImage>]) -> Vec<u8> {
    let channels = |image: &Arc<RgbImage>| {
        let image = Arc::clone(image);
        (0..3).flat_map(move |channel| {
            let values: Vec<u8> = image.pixels().map(|pixel| pixel[channel]).collect();
            values
        })
    };
    images.iter().flat_map(channels).collect()
}

/// A graph does not say what its detector says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The graph cannot be run.
    #[error("the graph cannot be run: {0}")]
    Run(String),
    /// Logits or deltas differ.
    #[error("the graph's {name} differ from the detector's by {difference:.1e} of the largest")]
    Predictions {
        /// Which.
        name: &'static str,
        /// By how much, of the largest; NaN where they are not as many, or are not numbers.
        difference: f32,
    },
    /// Detections differ.
    #[error("the graph and the detector do not both have a detection with a score of {score}")]
    Detections {
        /// The score.
        score: f32,
    },
    /// Settings do not fit each other.
    #[error(transparent)]
    Setting(retinanet_settings::SettingError),
    /// There is no graph.
    #[error(transparent)]
    Export(#[from] ExportError),
}

#[cfg(test)]
mod tests {
    use retinanet_boxes::{CategoryId, Class, ClassList};
    use retinanet_detector::{HeadConfig, ModelConfig, Prior};

    use super::*;

    fn detector(seed: u64) -> (Detector, DetectorConfig) {
        let config = DetectorConfig {
            model: ModelConfig {
                width: Whole::literal(4),
                fpn_channels: Whole::literal(64),
                // Above the threshold, so that there are detections to compare.
                head: HeadConfig {
                    depth: Whole::literal(1),
                    prior: Prior::literal(0.2),
                    ..HeadConfig::default()
                },
                ..ModelConfig::default()
            },
            ..DetectorConfig::default()
        };
        let classes = vec![
            Class::new(CategoryId(1), "a"),
            Class::new(CategoryId(2), "b"),
        ];
        let device = Device::flex();
        let model = config.model.init(2, seed, &device).unwrap();
        let classes = ClassList::new(classes).unwrap();
        let detector = Detector::new(&config, &model, classes, &device).unwrap();
        (detector, config)
    }

    #[test]
    fn a_graph_passes_and_another_detectors_does_not() {
        let (detector, config) = detector(1);
        for (input, half) in [(PixelType::Uint8, false), (PixelType::Float32, true)] {
            let options = OnnxOptions {
                input,
                half,
                ..OnnxOptions::default()
            };
            let file = to_onnx(&detector, &config, options).unwrap();
            check_onnx(&detector, &config, options, &file).unwrap();
            let cut = &file[..file.len() / 2];
            let refused = check_onnx(&detector, &config, options, cut);
            assert!(matches!(refused, Err(CheckError::Run(_))), "{refused:?}");
        }
        let (_, mut other) = self::detector(1);
        other.decode.class_agnostic = true;
        other.decode.max_detections = Whole::literal(3);
        let options = OnnxOptions::default();
        let file = to_onnx(&detector, &other, options).unwrap();
        let refused = check_onnx(&detector, &config, options, &file);
        assert!(
            matches!(refused, Err(CheckError::Detections { .. })),
            "{refused:?}"
        );
    }
}
