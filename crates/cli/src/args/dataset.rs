//! The arguments of `dataset` and `anchors`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use retinanet_dataset_tools::DatasetFormat;
use retinanet_settings::{Whole, MOST};

use super::{from_1_to, from_2_to, part, share, ModelArguments, Settings, Split};

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
    /// Converts annotations between COCO, Pascal VOC, YOLO, CSV, CVAT, Label Studio, labelme and VIA
    Convert(ConvertArguments),
    /// Chooses the unlabelled images that are most worth labelling next
    Rank(RankArguments),
    /// Finds the labels that are most probably wrong, doubled or missing
    Errors(ErrorsArguments),
    /// Renders the built-in shapes data set: PNG files and COCO JSON
    Synth(SynthArguments),
}

/// Detections as labels.
#[derive(Args)]
pub(crate) struct LabelsArguments {
    /// Writes images and detections as labels too, for a labelling tool to import: a file, or for voc, yolo and labelme a
    /// folder
    #[arg(long, value_name = "PATH", requires = "to")]
    pub(crate) labels: Option<PathBuf>,
    /// What the labels are
    #[arg(long, value_enum, value_name = "FORMAT", requires = "labels")]
    pub(crate) to: Option<AnnotationFormat>,
}

#[derive(Args)]
pub(crate) struct RankArguments {
    /// Image files, folders of them, or patterns such as `'photos/**/*.jpg'`
    #[arg(required = true)]
    pub(crate) images: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    /// How many images to choose
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = from_1_to::<1_000_000>)]
    pub(crate) take: usize,
    /// A folder for a page with the chosen images and what is detected on them
    #[arg(long, value_name = "DIR")]
    pub(crate) page: Option<PathBuf>,
    /// Writes the list as JSON too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) labels: LabelsArguments,
    /// The least score of the labels; as for `predict` if not given
    #[arg(long, value_parser = share)]
    pub(crate) score: Option<f32>,
    /// Writes the page among other files without asking
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Args)]
pub(crate) struct ErrorsArguments {
    /// The run whose images and labels are examined, by what it predicts
    #[arg(long, value_name = "DIR")]
    pub(crate) run: PathBuf,
    /// Trains so many detectors as the run was, each on all images to train on but a part, and lets it predict that part:
    /// the run has learned the errors of its own labels. A command that was stopped goes on
    #[arg(long, value_name = "COUNT", value_parser = from_2_to::<100>)]
    pub(crate) folds: Option<usize>,
    /// The folder of the page with pictures, and of the folds; beside the run if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// How many labels to list
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = from_1_to::<1_000_000>)]
    pub(crate) take: usize,
    /// Writes the list as JSON too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) labels: LabelsArguments,
    /// The device, in place of the config's
    #[arg(long, value_name = "NAME")]
    pub(crate) device: Option<String>,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Writes among other files without asking
    #[arg(long)]
    pub(crate) yes: bool,
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
    /// folder of the file, if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) images: Option<PathBuf>,
    /// One of the splits that YOLO's data.yaml, darknet's train.txt … or VOC's ImageSets/Main list: train, val,
    /// test; all images if not given
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
    /// An XML file of CVAT's, `CVAT for images 1.1`
    Cvat,
    /// A JSON file of Label Studio's
    LabelStudio,
    /// A folder of labelme's JSON files
    Labelme,
    /// A JSON file of VIA's, version 2
    Via,
}

impl From<AnnotationFormat> for DatasetFormat {
    fn from(format: AnnotationFormat) -> Self {
        match format {
            AnnotationFormat::Coco => Self::Coco,
            AnnotationFormat::Voc => Self::Voc,
            AnnotationFormat::Yolo => Self::Yolo,
            AnnotationFormat::Csv => Self::Csv,
            AnnotationFormat::Cvat => Self::Cvat,
            AnnotationFormat::LabelStudio => Self::LabelStudio,
            AnnotationFormat::Labelme => Self::Labelme,
            AnnotationFormat::Via => Self::Via,
        }
    }
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
    /// Writes into a folder that holds other files too, without asking
    #[arg(long)]
    pub(crate) yes: bool,
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
    /// An experiment, a TOML file: checks both of its splits, and its anchors
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
    /// Writes a repaired copy of the annotations; needs --annotations
    #[arg(long, value_name = "FILE", requires = "annotations")]
    pub(crate) fix: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct SynthArguments {
    /// The folder
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Another seed renders other images
    #[arg(long)]
    pub(crate) seed: Option<Whole<0, MOST>>,
    /// Images to train on
    #[arg(long)]
    pub(crate) train_images: Option<Whole<1, 100_000>>,
    /// Images to evaluate on
    #[arg(long)]
    pub(crate) val_images: Option<Whole<1, 100_000>>,
    /// Width of the images in pixels
    #[arg(long)]
    pub(crate) width: Option<Whole<64, 4096>>,
    /// Height of the images in pixels
    #[arg(long)]
    pub(crate) height: Option<Whole<64, 4096>>,
    /// The most objects in an image
    #[arg(long)]
    pub(crate) max_objects: Option<Whole<1, 50>>,
    /// Small objects in half of the images, among many things that look alike
    #[arg(long)]
    pub(crate) hard: bool,
    /// Textured, lit objects of 48 classes, for backbones to learn from
    #[arg(long, conflicts_with = "hard")]
    pub(crate) textured: bool,
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
