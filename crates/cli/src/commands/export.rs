use anyhow::anyhow;
use retinanet_anchors::BoxCoderConfig;
use retinanet_detector::{
    save_backbone, save_weights, BackboneExport, ClassScores, Detector, ModelConfig, Names,
    WeightFormat,
};

use super::{export_onnx, export_quantized, export_web};
use crate::args::{ExportArguments, ExportNames, Format, GraphArguments};
use crate::console;
use crate::failure::Failure;
use crate::outputs::{given, refuse_overlaps};

pub(crate) fn run(arguments: &ExportArguments) -> Result<(), Failure> {
    refuse_to_damage(arguments)?;
    refuse_to_mislabel(arguments)?;
    refuse_to_overlook(arguments)?;
    let model = super::load_model(&arguments.model)?;
    let format = match arguments.format {
        Format::Safetensors => WeightFormat::Safetensors,
        Format::Burnpack => WeightFormat::Burnpack,
        Format::Onnx => return export_onnx::run(&model, arguments),
        Format::Web => return export_web::run(&model, arguments),
    };
    if arguments.quantization.quantize {
        return export_quantized::run(&model, arguments);
    }
    let (detector, config) = (model.detector, model.config);
    let names = match arguments.names {
        ExportNames::Native => Names::Native,
        ExportNames::Torchvision => Names::Torchvision,
        ExportNames::Detectron2 => Names::Detectron2,
    };
    if arguments.backbone {
        return export_backbone(&detector, format, arguments);
    }
    if names != Names::Native {
        require_said(&config.model, names)?;
    }
    save_weights(
        detector.model(),
        detector.classes(),
        &arguments.out,
        format,
        names,
    )
    .map_err(Failure::work)?;

    let out = arguments.out.display();
    console::result(&format!("wrote {out}, {}", names.describe()));
    if names == Names::Native {
        tell_next(arguments);
    }
    Ok(())
}

/// How the written file is taken up.
pub(super) fn tell_next(arguments: &ExportArguments) {
    let run = arguments.model.run.as_ref();
    let config = run.map(|run| run.join("config.toml"));
    if let Some(config) = config.as_ref().or(arguments.model.config.as_ref()) {
        console::result(&format!(
            "next:\n  retinanet eval --weights {} --config {}",
            console::one_word(&arguments.out),
            console::one_word(config)
        ));
    }
}

/// Refuses to write over the model's own files, of which a run has many.
fn refuse_to_damage(arguments: &ExportArguments) -> Result<(), Failure> {
    let ExportArguments { model, out, .. } = arguments;
    let read = [
        given("--weights", model.weights.as_ref()),
        given("--config", model.config.as_ref()),
    ];
    refuse_overlaps(read.into_iter().flatten(), [("--out", out.as_path())])?;
    super::refuse_file_of_run(model.run.as_deref(), "--out", out)
}

/// Refuses a file name that says another format than the one that is written.
fn refuse_to_mislabel(arguments: &ExportArguments) -> Result<(), Failure> {
    const EXTENSIONS: [&str; 11] = [
        "bpk",
        "ckpt",
        "engine",
        "h5",
        "onnx",
        "pb",
        "pkl",
        "pt",
        "pth",
        "safetensors",
        "tflite",
    ];
    let (written, own) = match arguments.format {
        Format::Safetensors => ("safetensors", "safetensors"),
        Format::Burnpack => ("burnpack", "bpk"),
        Format::Onnx => ("onnx", "onnx"),
        Format::Web => ("web", ""),
    };
    let extension = arguments.out.extension().unwrap_or_default();
    let extension = extension.to_ascii_lowercase();
    if extension != own && EXTENSIONS.iter().any(|it| extension == **it) {
        return Err(Failure::usage(anyhow!(
            "--out `{}` says one format, and {written} would be written; `--format` takes \
             safetensors, burnpack, onnx and web, no other",
            arguments.out.display()
        )));
    }
    Ok(())
}

/// Refuses options that the format has no use for.
fn refuse_to_overlook(arguments: &ExportArguments) -> Result<(), Failure> {
    let GraphArguments {
        input,
        raw,
        fold,
        check,
    } = arguments.graph;
    let is_graph = arguments.format == Format::Onnx;
    let is_weights = !is_graph && arguments.format != Format::Web;
    let of_graphs = [
        ("--input", input.is_some()),
        ("--raw", raw),
        ("--fold", fold),
        ("--check", check),
    ];
    let of_weights = [
        ("--backbone", arguments.backbone),
        ("--names", !matches!(arguments.names, ExportNames::Native)),
    ];
    let to_quantize = [("--quantize", arguments.quantization.quantize)];
    let is_own = arguments.format == Format::Safetensors
        && matches!(arguments.names, ExportNames::Native)
        && !arguments.backbone;
    let given = |options: &[(&'static str, bool)]| {
        let given = options.iter().find(|(_, given)| *given);
        given.map(|(option, _)| *option)
    };
    let (option, needed) = if let (Some(option), false) = (given(&of_graphs), is_graph) {
        (option, "--format onnx")
    } else if let (Some(option), false) = (given(&of_weights), is_weights) {
        (option, "--format safetensors or burnpack")
    } else if let (Some(option), false) = (given(&to_quantize), is_own) {
        (
            option,
            "--format safetensors and --names native, and no --backbone",
        )
    } else if arguments.half && is_weights && !arguments.backbone {
        ("--half", "--backbone, or --format onnx or web")
    } else {
        return Ok(());
    };
    Err(Failure::usage(anyhow!("`{option}` needs {needed}")))
}

/// Refuses what another program's RetinaNet would load and take for something else.
fn require_said(model: &ModelConfig, names: Names) -> Result<(), Failure> {
    let head = &model.head;
    let reasons = [
        (
            head.scores == ClassScores::Softmax,
            "the model's scores are a softmax (`model.head.scores`)",
        ),
        (
            head.centerness,
            "the model predicts centerness (`model.head.centerness`)",
        ),
        (
            head.level_scales,
            "the model's levels have factors (`model.head.level_scales`)",
        ),
        (
            model.bottom_up_path,
            "a path leads up the model's pyramid again (`model.bottom_up_path`)",
        ),
        (
            !matches!(model.box_coder, BoxCoderConfig::Deltas(_)),
            "the model's boxes are distances (`model.box_coder.kind`)",
        ),
    ];
    match reasons.into_iter().find(|(is_so, _)| *is_so) {
        Some((_, reason)) => Err(Failure::usage(anyhow!(
            "{reason}, which {} have no word for: only `--names native` keeps what it says",
            names.describe()
        ))),
        None => Ok(()),
    }
}

fn export_backbone(
    detector: &Detector,
    format: WeightFormat,
    arguments: &ExportArguments,
) -> Result<(), Failure> {
    let export = BackboneExport {
        without_c5: arguments.without_c5,
        half: arguments.half,
    };
    save_backbone(detector.model(), &arguments.out, format, export).map_err(Failure::work)?;
    let out = arguments.out.display();
    console::result(&format!(
        "wrote the backbone to {out}\nnext:\n  retinanet train CONFIG --set model.pretrained={}",
        console::one_word(&arguments.out)
    ));
    Ok(())
}
