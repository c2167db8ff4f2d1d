use anyhow::{anyhow, bail};
use retinanet_detector::{Detector, QuantizedWeights};
use retinanet_experiment::{calibrate, examine, require_data, DataSplit, ExperimentConfig};

use super::LoadedModel;
use crate::args::ExportArguments;
use crate::console::{self, Console};
use crate::failure::Failure;

/// Writes the detector's weights in eight bits, unless that costs more AP than it may.
pub(crate) fn run(model: &LoadedModel, arguments: &ExportArguments) -> Result<(), Failure> {
    let LoadedModel {
        detector, config, ..
    } = model;
    if detector.is_on_gpu() {
        return Err(Failure::usage(anyhow!(
            "`--quantize` needs `--device flex`: only the CPU computes in eight bits"
        )));
    }
    if detector.is_quantized() {
        return Err(Failure::usage(anyhow!(
            "the weights are in eight bits already; `--quantize` needs those that they were made from"
        )));
    }
    require_data(&config.data, &[DataSplit::Train, DataSplit::Val])?;
    let mut console = Console::new(config.train.log_every.get());
    let before = average_precision(detector, config, &mut console)?;
    let count = arguments.quantization.calibration_images;
    let histograms = calibrate(detector, &config.data, count, &mut console)?;
    let weights =
        QuantizedWeights::of(detector, &histograms, &arguments.out).map_err(Failure::work)?;
    let quantized = weights
        .detector(&config.detector()?, detector, &arguments.out)
        .map_err(Failure::work)?;
    let after = average_precision(&quantized, config, &mut console)?;
    refuse_loss(before, after, arguments.quantization.most_lost).map_err(Failure::Work)?;
    weights.write(&arguments.out).map_err(Failure::work)?;
    console::result(&format!(
        "wrote {}, {:.1} MB: AP {before:.4}, in eight bits {after:.4}",
        arguments.out.display(),
        weights.size() as f64 / 1e6
    ));
    super::export::tell_next(arguments);
    Ok(())
}

fn refuse_loss(before: f64, after: f64, most: f32) -> anyhow::Result<()> {
    if before - after > f64::from(most) {
        bail!(
            "AP falls from {before:.4} to {after:.4} in eight bits, by more than {most} (`--most-lost`); nothing was written"
        );
    }
    Ok(())
}

/// AP on the config's validation images.
fn average_precision(
    detector: &Detector,
    config: &ExperimentConfig,
    console: &mut Console,
) -> Result<f64, Failure> {
    let examination = examine(detector, &config.data, &config.data.val, console)?;
    let metrics = examination.evaluator.as_ref().map(|evaluator| {
        let metrics = evaluator.evaluate(&examination.detections);
        metrics.map(|metrics| metrics.ap).map_err(Failure::work)
    });
    let ap = metrics.transpose()?.filter(|ap| *ap >= 0.0);
    ap.ok_or_else(|| {
        Failure::work(anyhow!(
            "`{}` has no objects to measure what eight bits cost; nothing was written",
            examination.annotations.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_may_be_lost_is_refused() {
        assert!(refuse_loss(0.5, 0.4901, 0.01).is_ok());
        assert!(refuse_loss(0.5, 0.6, 0.0).is_ok());
        let refused = refuse_loss(0.5, 0.4899, 0.01).unwrap_err().to_string();
        assert!(refused.contains("from 0.5000 to 0.4899"), "{refused}");
    }
}
