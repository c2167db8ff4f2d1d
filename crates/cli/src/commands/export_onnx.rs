use anyhow::anyhow;
use retinanet_onnx::{to_onnx, ExportError, GraphOutput, OnnxOptions, PixelType, OPSET};

use super::LoadedModel;
use crate::args::{ExportArguments, GraphArguments, GraphInput};
use crate::console;
use crate::failure::Failure;

/// Writes the detector as an ONNX graph.
pub(crate) fn run(model: &LoadedModel, arguments: &ExportArguments) -> Result<(), Failure> {
    let GraphArguments {
        input,
        raw,
        fold,
        check,
    } = arguments.graph;
    if check && !cfg!(feature = "tract") {
        return Err(Failure::usage(anyhow!(
            "`--check` needs a program that was built with `--features tract`; scripts/check_onnx.py checks in onnxruntime"
        )));
    }
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
    let config = model.config.detector()?;
    let file = to_onnx(&model.detector, &config, options).map_err(failure)?;
    #[cfg(feature = "tract")]
    if check {
        console::note("running the graph beside the detector");
        retinanet_onnx::check_onnx(&model.detector, &config, options, &file)
            .map_err(Failure::work)?;
    }
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
