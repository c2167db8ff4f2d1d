//! The command line.

mod bench;
mod dataset;
mod export;
mod training;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use retinanet_experiment::DataSplit;

pub(crate) use self::bench::{BenchArguments, Workload};
pub(crate) use self::dataset::{
    AnchorsCommand, AnchorsDataArguments, AnchorsReportArguments, AnchorsViewArguments,
    AnnotationFormat, CheckArguments, ConvertArguments, DatasetCommand, ErrorsArguments,
    LabelsArguments, RankArguments, SplitArguments, StatsArguments, SynthArguments, ViewArguments,
};
pub(crate) use self::export::{ExportArguments, ExportNames, Format, GraphArguments, GraphInput};
pub(crate) use self::training::{
    InitArguments, LrFindArguments, RunsArguments, StudyArguments, TrainArguments, TuneArguments,
    Until,
};

/// Trains, evaluates and uses RetinaNet detectors.
#[derive(Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Checks annotations and images, and writes a config that fits them
    Init(InitArguments),
    /// Trains a detector from a config
    Train(TrainArguments),
    /// Measures a detector, or a file of detections, against annotations
    Eval(EvalArguments),
    /// Tries rising learning rates on a fresh model, to find one that fits
    LrFind(LrFindArguments),
    /// Trains a list of changes to a config, with several seeds each, and writes their table
    Study(StudyArguments),
    /// Trains a study's changes for a little, and the better ones on, until the best are trained to their end
    Tune(TuneArguments),
    /// Lists runs: how far they are, and the best of their evaluations
    Runs(RunsArguments),
    /// Finds objects in images and draws them
    Predict(PredictArguments),
    /// Finds objects in images that come by HTTP, and serves a page to drop photos on
    Serve(ServeArguments),
    /// Writes a model's weights, or the whole detector as an ONNX graph, to a file for this program or another
    Export(ExportArguments),
    /// Turns another program's weights into this one's
    Import(ImportArguments),
    /// Makes data sets
    #[command(subcommand)]
    Dataset(DatasetCommand),
    /// Shows how well anchors cover a data set's boxes, and finds better ones
    #[command(subcommand)]
    Anchors(AnchorsCommand),
    /// Looks at what can compute
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Measures how fast this program is on this machine, and how much memory it takes
    Bench(BenchArguments),
    /// Shows what a config says
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// `--set`, wherever a config is read.
#[derive(Clone, Args)]
pub(crate) struct Settings {
    /// Changes a setting, as often as needed: `--set model.backbone=resnet34`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) set: Vec<(String, String)>,
}

/// Which trained model.
#[derive(Clone, Args)]
pub(crate) struct ModelArguments {
    /// The directory of a run; its best checkpoint counts
    #[arg(long, value_name = "DIR", conflicts_with = "weights")]
    pub(crate) run: Option<PathBuf>,
    /// Another checkpoint of the run: last, best, step-N
    #[arg(long, value_name = "NAME", requires = "run", value_parser = checkpoint)]
    pub(crate) checkpoint: Option<String>,
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

/// Test-time augmentation.
#[derive(Clone, Args)]
pub(crate) struct TestTimeArguments {
    /// Looks at each image mirrored too
    #[arg(long)]
    pub(crate) flip: bool,
    /// Looks at each image at these lengths of its shorter side: `--short-sides 600,800,1000`
    #[arg(long, value_name = "PIXELS", value_delimiter = ',')]
    pub(crate) short_sides: Vec<u32>,
    /// Looks at larger images in tiles of this side too, in pixels of the image as it is stored
    #[arg(long, value_name = "PIXELS")]
    pub(crate) tile: Option<u32>,
    /// The share of a tile that its neighbour shows too
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, requires = "tile")]
    pub(crate) tile_overlap: f64,
    /// How many images, or views of them, go through the network at once; 1 if not given, and 4
    /// for `serve`
    #[arg(long, value_parser = from_1_to::<1_024>)]
    pub(crate) batch: Option<usize>,
}

#[derive(Args)]
pub(crate) struct EvalArguments {
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    #[command(flatten)]
    pub(crate) test_time: TestTimeArguments,
    /// Which images of the config
    #[arg(long, value_enum, default_value_t = Split::Val)]
    pub(crate) split: Split,
    /// Instead of a model: a COCO annotation file; needs --detections
    #[arg(
        long,
        value_name = "FILE",
        requires = "detections",
        conflicts_with_all = ["run", "weights", "config", "device", "set", "split", "flip", "short_sides", "tile", "batch"]
    )]
    pub(crate) annotations: Option<PathBuf>,
    /// Detections in COCO's results format
    #[arg(
        long,
        value_name = "FILE",
        requires = "annotations",
        conflicts_with_all = ["run", "weights", "config"]
    )]
    pub(crate) detections: Option<PathBuf>,
    /// Instead of a model: two runs, to tell what the second is better or worse in
    #[arg(
        long,
        num_args = 2,
        value_names = ["RUN_A", "RUN_B"],
        action = ArgAction::Set,
        conflicts_with_all = [
            "run", "weights", "config", "annotations", "detections", "write_detections", "score"
        ]
    )]
    pub(crate) compare: Option<Vec<PathBuf>>,
    /// With --compare: how often images are resampled to tell chance from difference
    #[arg(long, default_value_t = 1000, requires = "compare")]
    pub(crate) samples: usize,
    /// The score from which on a detection counts where classes are confused and images ranked
    #[arg(long, default_value_t = 0.3, value_parser = share)]
    pub(crate) score: f32,
    /// How many detections of an image and class count, where COCO counts 100
    #[arg(long, value_name = "COUNT", value_parser = max_detections, conflicts_with = "compare")]
    pub(crate) max_detections: Option<usize>,
    /// Writes all numbers and curves as JSON too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Writes the detections in COCO's results format too
    #[arg(long, value_name = "FILE", conflicts_with = "annotations")]
    pub(crate) write_detections: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Split {
    /// What the model was trained on
    Train,
    /// What it was not trained on
    Val,
}

impl From<Split> for DataSplit {
    fn from(split: Split) -> Self {
        match split {
            Split::Train => Self::Train,
            Split::Val => Self::Val,
        }
    }
}

#[derive(Args)]
pub(crate) struct PredictArguments {
    /// Image files, folders of them, or patterns such as `'photos/**/*.jpg'`
    #[arg(required = true)]
    pub(crate) images: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    #[command(flatten)]
    pub(crate) test_time: TestTimeArguments,
    /// Where the drawn images go
    #[arg(long, value_name = "DIR", default_value = "predictions")]
    pub(crate) out: PathBuf,
    /// Draws into a folder that holds other files too, without asking
    #[arg(long)]
    pub(crate) yes: bool,
    /// The largest image that is looked at, in millions of pixels
    #[arg(long, value_name = "MEGAPIXELS", default_value_t = 179, value_parser = from_1_to::<65_536>)]
    pub(crate) max_megapixels: usize,
    /// Draws nothing
    #[arg(long, conflicts_with = "out")]
    pub(crate) no_drawings: bool,
    /// Writes the detections in COCO's results format too, with `file_name` for `image_id`
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Writes the detections as CSV too
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) labels: LabelsArguments,
    /// Only detections with at least this score; that of the largest F1 on the validation images if not
    /// given, or 0.3 where that is not known
    #[arg(long, value_parser = share)]
    pub(crate) score: Option<f32>,
}

#[derive(Args)]
pub(crate) struct ServeArguments {
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    #[command(flatten)]
    pub(crate) test_time: TestTimeArguments,
    /// Where to listen; port 0 takes a free one, and 0.0.0.0 is open to other machines
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) address: SocketAddr,
    /// A name that leads to the service, besides localhost and addresses; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_host: Vec<String>,
    /// The lowest score of an answer where a request does not ask for another; as for `predict` if not
    /// given
    #[arg(long, value_parser = share)]
    pub(crate) score: Option<f32>,
    /// The largest image file that is taken, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = from_1_to::<65_536>)]
    pub(crate) max_mebibytes: usize,
    /// The largest image that is taken, in millions of pixels
    #[arg(long, value_name = "MEGAPIXELS", default_value_t = 50, value_parser = from_1_to::<65_536>)]
    pub(crate) max_megapixels: usize,
    /// The most images that wait at once; others are told to come again
    #[arg(long, value_name = "IMAGES", default_value_t = 64, value_parser = from_1_to::<65_536>)]
    pub(crate) max_waiting: usize,
    /// How long a client may take to send an image, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) timeout: u32,
    #[command(flatten)]
    pub(crate) label_studio: LabelStudioArguments,
}

#[derive(Args)]
pub(crate) struct LabelStudioArguments {
    /// Labels Label Studio's tasks before people do, as its "ML backend"; where Label Studio is, like
    /// `http://localhost:8080`. Pictures are fetched there with the token in `LABEL_STUDIO_API_KEY`
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) label_studio: Option<String>,
    /// Another host that tasks' pictures are fetched from; may be given several times
    #[arg(long, value_name = "NAME", requires = "label_studio")]
    pub(crate) picture_host: Vec<String>,
    /// The folder of Label Studio's local files, its `LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT`, to read them without asking it
    #[arg(long, value_name = "DIR", requires = "label_studio")]
    pub(crate) local_files: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct ImportArguments {
    /// A weight file of torchvision, detectron2 or timm: .pth, .pt or .safetensors
    pub(crate) weights: PathBuf,
    /// The config of the same model, such as one with `preset = "torchvision"`
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// A COCO annotation file that names the classes; if not given, 91 and 80 classes are COCO's
    #[arg(long, value_name = "FILE")]
    pub(crate) annotations: Option<PathBuf>,
    /// The safetensors file to write
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Subcommand)]
pub(crate) enum DeviceCommand {
    /// Lists the GPUs, computes every layer of a config's model on one, forward and backward, and
    /// compares it with the CPU
    Check(DeviceCheckArguments),
    /// Takes two steps of a config, which comes as JSON through stdin; for `train` with `batch_size = "auto"`
    #[command(hide = true)]
    Fits(FitsArguments),
}

#[derive(Args)]
pub(crate) struct FitsArguments {
    /// Images at once
    #[arg(long, value_parser = from_1_to::<1_024>)]
    pub(crate) images: usize,
}

#[derive(Args)]
pub(crate) struct DeviceCheckArguments {
    /// The experiment, a TOML file; the paper's network on small images if not given
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// What computes: wgpu (the GPU), wgpu:1 (the second GPU)
    #[arg(long, default_value = "wgpu")]
    pub(crate) device: String,
    /// How many classes the model tells apart
    #[arg(long, default_value_t = 80, value_parser = from_1_to::<10_000>)]
    pub(crate) classes: usize,
    /// How many images go through a layer at once
    #[arg(long, default_value_t = 2, value_parser = from_1_to::<1_024>)]
    pub(crate) batch: usize,
    /// How often each layer is computed
    #[arg(long, default_value_t = 3, value_parser = from_1_to::<65_536>)]
    pub(crate) runs: usize,
}

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Prints the whole config with every default
    Show(ShowArguments),
    /// Lists the keys of a config: what each may be, its default, unit and meaning, and whether a run that goes on may
    /// change it
    Keys(KeysArguments),
}

#[derive(Args)]
pub(crate) struct KeysArguments {
    /// Only keys of this section or with this beginning, such as `train` or `data.augment.crop`
    pub(crate) section: Option<String>,
    /// As a document, with a table for each section
    #[arg(long)]
    pub(crate) markdown: bool,
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

fn checkpoint(text: &str) -> Result<String, String> {
    let step = text.strip_prefix("step-").map(str::parse::<u64>);
    match (text, step) {
        ("last" | "best", _) | (_, Some(Ok(_))) => Ok(text.to_owned()),
        _ => Err("it is last, best or step-N".to_owned()),
    }
}

fn part(text: &str) -> Result<(PathBuf, f64), String> {
    let parts = text.rsplit_once('=');
    let part = parts.and_then(|(file, share)| Some((file.into(), share.trim().parse().ok()?)));
    part.ok_or_else(|| format!("`{text}` is not of the form FILE=SHARE, as train.json=0.8"))
}

fn share(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|it| (0.0..=1.0).contains(it));
    number.ok_or_else(|| format!("`{text}` is not a number from 0 to 1"))
}

/// More of an image would take the matcher's memory: it holds a number for each pair of detection and object.
const MOST_DETECTIONS: usize = 10_000;

fn max_detections(text: &str) -> Result<usize, String> {
    let number = text
        .parse()
        .ok()
        .filter(|it| (11..=MOST_DETECTIONS).contains(it));
    number.ok_or_else(|| format!("`{text}` is not a whole number from 11 to {MOST_DETECTIONS}"))
}

/// A count of at least 1 and no more than anyone means.
fn from_1_to<const MOST: usize>(text: &str) -> Result<usize, String> {
    whole_number(text, 1, MOST)
}

fn from_2_to<const MOST: usize>(text: &str) -> Result<usize, String> {
    whole_number(text, 2, MOST)
}

fn whole_number(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|it| (least..=most).contains(it));
    number.ok_or_else(|| format!("`{text}` is not a whole number from {least} to {most}"))
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
