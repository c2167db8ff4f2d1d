//! The command line.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use retinanet_experiment::DataSplit;

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
    /// Tries rising learning rates on a fresh model, to find one that fits
    LrFind(LrFindArguments),
    /// Trains a list of changes to a config, with several seeds each, and writes their table
    Study(StudyArguments),
    /// Lists runs: how far they are, and the best of their evaluations
    Runs(RunsArguments),
    /// Finds objects in images and draws them
    Predict(PredictArguments),
    /// Finds objects in images that come by HTTP, and serves a page to drop photos on
    Serve(ServeArguments),
    /// Writes a model's weights to a file, for this program or another
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

#[derive(Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each flag is there or not, whatever the others are"
)]
pub(crate) struct TrainArguments {
    /// The experiment, a TOML file; with --resume also the directory of a run alone
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
    /// Trains though it takes more days or more memory than seems meant
    #[arg(long)]
    pub(crate) yes: bool,
    /// Trains though `dataset check` finds errors in the annotations
    #[arg(long)]
    pub(crate) no_check: bool,
    /// Trains on a GPU without comparing it with the CPU first, or though it computes otherwise
    #[arg(long)]
    pub(crate) trust_device: bool,
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
    /// How many images, or views of them, go through the network at once; 1 where not given, and 4
    /// for `serve`
    #[arg(long, value_parser = from_1_to::<1_024>)]
    pub(crate) batch: Option<usize>,
}

#[derive(Args)]
pub(crate) struct LrFindArguments {
    /// The experiment, a TOML file
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// What computes: flex (the CPU), wgpu (the GPU), wgpu:1 (the second GPU)
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// How many steps, from 1e-6 to 1
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..))]
    pub(crate) steps: u64,
    /// As for `train`
    #[arg(long)]
    pub(crate) trust_device: bool,
}

#[derive(Args)]
pub(crate) struct StudyArguments {
    /// The study, a TOML file
    pub(crate) study: PathBuf,
    /// The config that its runs start from, in place of the study's own
    #[arg(long, value_name = "CONFIG")]
    pub(crate) base: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// What computes: flex (the CPU), wgpu (the GPU), wgpu:1 (the second GPU)
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// Where runs and tables go; `runs/studies/` and the study's name where not given
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// How many runs train at once
    #[arg(long, value_parser = from_1_to::<64>, default_value_t = 1)]
    pub(crate) jobs: usize,
}

#[derive(Args)]
pub(crate) struct RunsArguments {
    /// A folder of runs, or a run
    #[arg(default_value = "runs")]
    pub(crate) folder: PathBuf,
    /// Gives a hash of the newest weights, and of their average if there is one: the same where they
    /// are the same to the last bit
    #[arg(long)]
    pub(crate) hash: bool,
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
    /// With --compare: how often images are drawn anew to tell chance from difference
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
    /// Only detections with at least this score; that of the largest F1 on the validation images where not
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
    /// The lowest score of an answer where a request does not ask for another; as for `predict` where not
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
}

#[derive(Args)]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    /// The file's format
    #[arg(long, value_enum, default_value_t = Format::Safetensors)]
    pub(crate) format: Format,
    /// Whose names the tensors get
    #[arg(long, value_enum, default_value_t = ExportNames::Native)]
    pub(crate) names: ExportNames,
    /// The backbone alone, for `model.pretrained` of another detector
    #[arg(long, conflicts_with = "names")]
    pub(crate) backbone: bool,
    /// The file
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    /// Hugging Face's format, which most programs read
    Safetensors,
    /// Burn's own format
    Burnpack,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ExportNames {
    /// This program's; `eval` and `predict` take the file with the model's config
    Native,
    /// torchvision's, to load with `strict=True`
    Torchvision,
    /// detectron2's
    Detectron2,
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
    /// A COCO annotation file that names the classes; where not given, 91 and 80 classes are COCO's
    #[arg(long, value_name = "FILE")]
    pub(crate) annotations: Option<PathBuf>,
    /// The safetensors file to write
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Subcommand)]
pub(crate) enum DatasetCommand {
    /// Looks annotations and images over: what is wrong, what training does about it, what to do
    Check(CheckArguments),
    /// Counts classes, sizes and boxes an image
    Stats(StatsArguments),
    /// Draws images with their boxes, as they are and as training sees them, and a page of them
    View(ViewArguments),
    /// Splits annotations into parts that have the same share of every class
    Split(SplitArguments),
    /// Converts annotations between COCO, Pascal VOC, YOLO and CSV
    Convert(ConvertArguments),
    /// Draws the built-in shapes data set: PNG files and COCO JSON
    Synth(SynthArguments),
}

#[derive(Args)]
pub(crate) struct ConvertArguments {
    /// What is there
    #[arg(long, value_enum)]
    pub(crate) from: AnnotationFormat,
    /// What shall be
    #[arg(long, value_enum)]
    pub(crate) to: AnnotationFormat,
    /// The COCO or CSV file, or the folder of the VOC or YOLO files
    pub(crate) source: PathBuf,
    /// Where the file or the folder goes
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// The folder of the images, for files that do not tell sizes, as YOLO's; the source, or the
    /// folder that it lies in, where not given
    #[arg(long, value_name = "DIR")]
    pub(crate) images: Option<PathBuf>,
    /// One of the splits that YOLO's data.yaml lists: train, val, test; all images where not given
    #[arg(long, value_name = "NAME")]
    pub(crate) split: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum AnnotationFormat {
    /// An instances JSON file
    Coco,
    /// A folder of XML files
    Voc,
    /// A folder of text files with a data.yaml or a classes.txt, or the data.yaml
    Yolo,
    /// A file with a line a box: `filename,width,height,class,xmin,ymin,xmax,ymax` with a header,
    /// or `path,x1,y1,x2,y2,class` without
    Csv,
}

#[derive(Args)]
pub(crate) struct StatsArguments {
    /// A COCO annotation file
    pub(crate) annotations: PathBuf,
    /// Writes the numbers as JSON too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct ViewArguments {
    /// The experiment, a TOML file
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Which images of the config
    #[arg(long, value_enum, default_value_t = Split::Train)]
    pub(crate) split: Split,
    /// Where the drawn images and the page go
    #[arg(long, value_name = "DIR", default_value = "view")]
    pub(crate) out: PathBuf,
    /// How many images, spread over the data set
    #[arg(long, value_parser = from_1_to::<65_536>, default_value_t = 16)]
    pub(crate) images: usize,
    /// Of how many epochs each image is shown
    #[arg(long, value_parser = from_1_to::<1_000>, default_value_t = 3)]
    pub(crate) epochs: usize,
}

#[derive(Args)]
pub(crate) struct SplitArguments {
    /// A COCO annotation file
    pub(crate) annotations: PathBuf,
    /// A part and its share of the images, twice or more: `--part train.json=0.8`
    #[arg(long = "part", value_name = "FILE=SHARE", required = true, value_parser = part, allow_hyphen_values = true)]
    pub(crate) parts: Vec<(PathBuf, f64)>,
    /// Another seed splits otherwise
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

#[derive(Args)]
pub(crate) struct CheckArguments {
    /// An experiment, a TOML file: looks over both of its splits, and at its anchors
    #[arg(
        required_unless_present = "annotations",
        conflicts_with = "annotations"
    )]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Instead of a config: a COCO annotation file; needs --images
    #[arg(long, value_name = "FILE", requires = "images")]
    pub(crate) annotations: Option<PathBuf>,
    /// The folder of the images; needs --annotations
    #[arg(long, value_name = "DIR", requires = "annotations")]
    pub(crate) images: Option<PathBuf>,
    /// Does not open the images
    #[arg(long)]
    pub(crate) annotations_only: bool,
    /// Writes what was found as JSON too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Writes a mended copy of the annotations; needs --annotations
    #[arg(long, value_name = "FILE", requires = "annotations")]
    pub(crate) fix: Option<PathBuf>,
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
    /// The most objects in an image
    #[arg(long)]
    pub(crate) max_objects: Option<usize>,
    /// Small objects in half of the images, among many things that look alike
    #[arg(long)]
    pub(crate) hard: bool,
}

#[derive(Subcommand)]
pub(crate) enum AnchorsCommand {
    /// Tells which share of the boxes anchors reach, by class, size and level
    Report(AnchorsReportArguments),
    /// Draws images with their positive anchors in green and missed boxes in red
    View(AnchorsViewArguments),
    /// Proposes sizes and aspect ratios that reach more boxes, as a patch for the config
    Optimize(AnchorsDataArguments),
}

/// Which boxes.
#[derive(Args)]
pub(crate) struct AnchorsDataArguments {
    /// The experiment, a TOML file
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Which images of the config
    #[arg(long, value_enum, default_value_t = Split::Train)]
    pub(crate) split: Split,
}

#[derive(Args)]
pub(crate) struct AnchorsReportArguments {
    #[command(flatten)]
    pub(crate) data: AnchorsDataArguments,
    /// Writes the numbers as JSON too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct AnchorsViewArguments {
    #[command(flatten)]
    pub(crate) data: AnchorsDataArguments,
    /// Where the drawn images go
    #[arg(long, value_name = "DIR", default_value = "anchors")]
    pub(crate) out: PathBuf,
    /// How many images, spread over the data set
    #[arg(long, value_parser = from_1_to::<65_536>, default_value_t = 16)]
    pub(crate) images: usize,
}

#[derive(Args)]
pub(crate) struct BenchArguments {
    /// Only this, as often as needed; everything that has its data where not given
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) only: Vec<Workload>,
    /// The residual network, as `model.backbone`
    #[arg(long, default_value = "resnet50")]
    pub(crate) backbone: String,
    /// The backbone's normalisation, as `model.norm`
    #[arg(long, default_value = "frozen_batch_norm")]
    pub(crate) norm: String,
    /// How many of stem, C2, C3, C4 and C5 do not train, as `model.freeze_at`
    #[arg(long, value_name = "STAGES", default_value_t = 2)]
    pub(crate) freeze_at: usize,
    /// Side of the images in pixels, or height and width: 800x1333
    #[arg(long, default_value = "512")]
    pub(crate) size: ImageSize,
    /// Images at once
    #[arg(long, value_parser = from_1_to::<1_024>, default_value_t = 1)]
    pub(crate) batch: usize,
    /// Classes that the model tells apart
    #[arg(long, value_parser = from_1_to::<10_000>, default_value_t = 91)]
    pub(crate) classes: usize,
    /// How often each thing is measured
    #[arg(long, value_parser = from_1_to::<65_536>, default_value_t = 10)]
    pub(crate) repeats: usize,
    /// How often each thing is done before it is measured
    #[arg(long, default_value_t = 2)]
    pub(crate) warmup: usize,
    /// Seed of the weights, the images and the boxes
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Threads of the CPU; all cores where not given
    #[arg(long, value_parser = from_1_to::<1_024>)]
    pub(crate) threads: Option<usize>,
    /// What computes: flex (the CPU), wgpu (the GPU), wgpu:1 (the second GPU)
    #[arg(long, default_value = "flex")]
    pub(crate) device: String,
    /// For the loader: a config, whose training images are loaded as it says
    #[arg(long, value_name = "CONFIG", conflicts_with = "annotations")]
    pub(crate) data: Option<PathBuf>,
    /// For the loader: a COCO annotation file; needs --images
    #[arg(long, value_name = "FILE", requires = "images")]
    pub(crate) annotations: Option<PathBuf>,
    /// For the loader: the folder of the images; needs --annotations
    #[arg(long, value_name = "DIR", requires = "annotations")]
    pub(crate) images: Option<PathBuf>,
    /// For the loader: threads that prepare images; the config's, or 2, where not given
    #[arg(long)]
    pub(crate) workers: Option<usize>,
    /// Prints JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `bench` can measure.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Single convolutions, forward and with their gradients
    Convolution,
    /// A training step: targets, forward, loss, backward, update
    Step,
    /// An image's way to detections: forward, decoding, non-maximum suppression
    Inference,
    /// Batches from a data set's files; needs --data, or --annotations and --images
    Loader,
    /// Targets for 100 boxes on an image of 800x1333
    Matcher,
    /// Decoding and non-maximum suppression for an image of 800x1333
    Decode,
}

impl Workload {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Convolution => "convolution",
            Self::Step => "step",
            Self::Inference => "inference",
            Self::Loader => "loader",
            Self::Matcher => "matcher",
            Self::Decode => "decode",
        }
    }
}

/// Height and width of an image in pixels, written `512` or `800x1333`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImageSize {
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl ImageSize {
    pub(crate) const fn width_and_height(self) -> (u32, u32) {
        (self.width as u32, self.height as u32)
    }
}

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (height, width) = text.split_once('x').unwrap_or((text, text));
        Ok(Self {
            height: from_1_to::<65_536>(height)?,
            width: from_1_to::<65_536>(width)?,
        })
    }
}

impl fmt::Display for ImageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

#[derive(Subcommand)]
pub(crate) enum DeviceCommand {
    /// Lists the GPUs, computes every layer of a config's model on one, forward and backward, and
    /// compares it with the CPU
    Check(DeviceCheckArguments),
}

#[derive(Args)]
pub(crate) struct DeviceCheckArguments {
    /// The experiment, a TOML file; the paper's network on small images where not given
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
    number.ok_or_else(|| format!("`{text}` is no number from 0 to 1"))
}

/// More of an image would take the matcher's memory: it holds a number for each pair of detection and object.
const MOST_DETECTIONS: usize = 10_000;

fn max_detections(text: &str) -> Result<usize, String> {
    let number = text
        .parse()
        .ok()
        .filter(|it| (11..=MOST_DETECTIONS).contains(it));
    number.ok_or_else(|| format!("`{text}` is no whole number from 11 to {MOST_DETECTIONS}"))
}

/// A count of at least 1 and no more than anyone means.
fn from_1_to<const MOST: usize>(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|it| (1..=MOST).contains(it));
    number.ok_or_else(|| format!("`{text}` is no whole number from 1 to {MOST}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_image_size_is_one_side_or_height_and_width() {
        let size = |text: &str| text.parse::<ImageSize>();
        let square = ImageSize {
            height: 512,
            width: 512,
        };
        assert_eq!(size("512"), Ok(square));
        assert_eq!(size("800x1333").map(|size| size.width), Ok(1333));
        assert_eq!(
            size("800x1333").map(|size| size.to_string()),
            Ok("800x1333".to_owned())
        );
        for text in ["", "0", "x", "512x", "0x512", "1x2x3", "-1"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn workloads_have_the_names_that_the_command_line_takes() {
        for workload in Workload::value_variants() {
            let taken = workload.to_possible_value().unwrap();
            assert_eq!(taken.get_name(), workload.name());
        }
    }
}
