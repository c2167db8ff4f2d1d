use retinanet_detector::Detector;
use retinanet_experiment::ExperimentConfig;
use retinanet_onnx::{to_onnx, ExportError, GraphOutput, OnnxOptions, PixelType, OPSET};

use crate::args::{ExportArguments, GraphArguments, GraphInput};
use crate::console;
use crate::failure::Failure;

/// Writes the detector as an ONNX graph.
pub(crate) fn run(
    detector: &Detector,
    config: &ExperimentConfig,
    arguments: &ExportArguments,
) -> Result<(), Failure> {
    let GraphArguments { input, raw, fold } = arguments.graph;
    let options = OnnxOptions {
        input: match input {
            None | Some(GraphInput::Uint8) => PixelType::Uint8,
            Some(GraphInput::Float32) => PixelType::Float32,
        },
        output: if raw {
            GraphOutput::Raw
        } else {
            GraphOutput::Detections
        },
        fold,
        half: arguments.half,
    };
    let config = config.detector()?;
    let file = to_onnx(detector, &config, options).map_err(failure)?;
    let out = arguments.out.display();
    super::write_over(&arguments.out, &file)?;
    console::result(&format!(
        "wrote {out}, an ONNX graph of opset {OPSET}, {:.1} MB\n\
         input  `images` [batch, 3, height, width], RGB in [0, 255] as {}, the shorter side {} pixels as in training",
        file.len() as f64 / 1e6,
        match options.input {
            PixelType::Uint8 => "uint8",
            PixelType::Float32 => "float32",
        },
        config.images.short_side,
    ));
    console::result(match options.output {
        GraphOutput::Raw => "output `logits`, `deltas` and `anchors`",
        GraphOutput::Detections => "output `boxes`, `scores`, `labels` and `num_detections`",
    });
    Ok(())
}

fn failure(error: ExportError) -> Failure {
    match error {
        ExportError::Decode(error) => Failure::usage(error.within("eval")),
        error => Failure::work(error),
    }
}
