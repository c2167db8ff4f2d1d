//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Trains, evaluates and uses RetinaNet detectors.
#[derive(Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Trains a detector from a config
    Train(TrainArguments),
    /// Measures a detector, or a file of detections, against annotations
    Eval(EvalArguments),
    /// Finds objects in images and draws them
    Predict(PredictArguments),
    /// Writes a run's best weights to a file
    Export(ExportArguments),
    /// Makes data sets
    #[command(subcommand)]
    Dataset(DatasetCommand),
    /// Shows what a config says
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// `--set`, wherever a config is read.
#[derive(Args)]
pub(crate) struct Settings {
    /// Changes a setting, as often as needed: `--set model.backbone=resnet34`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) set: Vec<(String, String)>,
}

#[derive(Args)]
pub(crate) struct TrainArguments {
    /// The experiment, a TOML file
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// What computes: flex (the CPU), wgpu (the GPU), wgpu:1 (the second GPU)
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// Where the run goes; `runs/` and the config's name where not given
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Goes on with a run that was stopped
    #[arg(long)]
    pub(crate) resume: bool,
}

/// Which trained model.
#[derive(Args)]
pub(crate) struct ModelArguments {
    /// The directory of a run; its best checkpoint counts
    #[arg(long, value_name = "DIR", conflicts_with = "weights")]
    pub(crate) run: Option<PathBuf>,
    /// An exported weight file; needs --config
    #[arg(long, value_name = "FILE", requires = "config")]
    pub(crate) weights: Option<PathBuf>,
    /// The config that the weights were trained with
    #[arg(long, value_name = "FILE", requires = "weights")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// What computes: flex (the CPU), wgpu (the GPU), wgpu:1 (the second GPU)
    #[arg(long)]
    pub(crate) device: Option<String>,
}

#[derive(Args)]
pub(crate) struct EvalArguments {
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    /// Which images of the config
    #[arg(long, value_enum, default_value_t = Split::Val)]
    pub(crate) split: Split,
    /// Instead of a model: a COCO annotation file; needs --detections
    #[arg(
        long,
        value_name = "FILE",
        requires = "detections",
        conflicts_with_all = ["run", "weights"]
    )]
    pub(crate) annotations: Option<PathBuf>,
    /// Detections in COCO's results format
    #[arg(long, value_name = "FILE", requires = "annotations")]
    pub(crate) detections: Option<PathBuf>,
    /// Writes the numbers as JSON too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Split {
    /// What the model was trained on
    Train,
    /// What it was not trained on
    Val,
}

#[derive(Args)]
pub(crate) struct PredictArguments {
    /// Image files, or folders of them
    #[arg(required = true)]
    pub(crate) images: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    /// Where the drawn images go
    #[arg(long, value_name = "DIR", default_value = "predictions")]
    pub(crate) out: PathBuf,
    /// Writes the detections in COCO's results format too, with `file_name` for `image_id`
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Only detections with at least this score
    #[arg(long, default_value_t = 0.3)]
    pub(crate) score: f32,
}

#[derive(Args)]
pub(crate) struct ExportArguments {
    /// The directory of a run; its best checkpoint counts
    #[arg(long, value_name = "DIR")]
    pub(crate) run: PathBuf,
    /// The file's format
    #[arg(long, value_enum, default_value_t = Format::Safetensors)]
    pub(crate) format: Format,
    /// The file
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    /// Weights and classes; `eval` and `predict` take it with the run's config.toml
    Safetensors,
}

#[derive(Subcommand)]
pub(crate) enum DatasetCommand {
    /// Draws the built-in shapes data set: PNG files and COCO JSON
    Synth(SynthArguments),
}

#[derive(Args)]
pub(crate) struct SynthArguments {
    /// The folder
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Another seed draws other images
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Images to train on
    #[arg(long)]
    pub(crate) train_images: Option<usize>,
    /// Images to evaluate on
    #[arg(long)]
    pub(crate) val_images: Option<usize>,
    /// Width of the images in pixels
    #[arg(long)]
    pub(crate) width: Option<u32>,
    /// Height of the images in pixels
    #[arg(long)]
    pub(crate) height: Option<u32>,
}

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Prints the whole config with every default
    Show(ShowArguments),
}

#[derive(Args)]
pub(crate) struct ShowArguments {
    /// The experiment, a TOML file
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not of the form KEY=VALUE"))?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
