use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{sync_channel, Receiver};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context};
use image::RgbImage;
use retinanet_boxes::{CategoryId, ClassList, Detection};
use retinanet_data::ParallelMap;
use retinanet_dataset_tools::{write_labels, Destination, DetectedImage};
use retinanet_detector::{Detector, ImageDetections};
use retinanet_experiment::{ImageTimes, Observer, Progress};
use retinanet_images::{decode_image, draw_detections, Decoding, ImagesError};
use serde::Serialize;

use crate::args::{AnnotationFormat, LabelsArguments, PredictArguments};
use crate::console::{self, Console};
use crate::drawings;
use crate::failure::Failure;
use crate::inputs::{self, find_images, Input};
use crate::outputs::{self, given};
use crate::timing;

use super::LoadedModel;

/// Threads that read images while the network looks at others.
const READERS: usize = 2;

/// A detection in COCO's results format, for an image that has a name and no id.
#[derive(Serialize)]
struct NamedDetection<'a> {
    file_name: &'a str,
    category_id: CategoryId,
    bbox: [f64; 4],
    score: f32,
}

/// A line of CSV.
#[derive(Serialize)]
struct CsvLine<'a> {
    file_name: &'a str,
    class: &'a str,
    category_id: u64,
    score: f32,
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// What was found on an image.
struct Prediction {
    name: String,
    /// Width and height of the upright image, in pixels.
    size: (u32, u32),
    detections: Vec<Detection>,
}

/// An image to look at, and the file that its drawing goes to, if it is drawn.
type Job = (Input, Option<PathBuf>);

/// An image to draw, with what was found on it, and where it goes.
type Drawing = (PathBuf, Arc<RgbImage>, Vec<Detection>);

/// What came of all images.
#[derive(Default)]
struct Outcome {
    predictions: Vec<Prediction>,
    times: Vec<ImageTimes>,
    /// Images that could not be read, and what is wrong with them.
    failed: Vec<String>,
}

impl Outcome {
    fn tell_failed(&mut self, error: ImagesError, console: &mut Console) {
        let error = format!("{:#}", anyhow::Error::new(error));
        console.message(&format!("not read: {error}"));
        self.failed.push(error);
        console.progress(Progress::Tick);
    }
}

pub(crate) fn run(arguments: &PredictArguments) -> Result<(), Failure> {
    let drawings = Some(arguments.out.as_path()).filter(|_| !arguments.no_drawings);
    let inputs::Found { inputs, left_out } = find_images(&arguments.images, drawings)?;
    let drawings = drawings.map(|folder| {
        let names = inputs.iter().map(|input| text_of(&input.name));
        drawings::files(folder, names)
    });
    refuse_overlaps(arguments, &inputs, drawings.as_deref().unwrap_or_default())?;
    refuse_labels_in_the_way(&arguments.labels)?;
    let model = super::load_model(&arguments.model)?;
    if let Some(drawings) = drawings.as_ref().filter(|_| !arguments.yes) {
        drawings::ask_before_mixing(&arguments.out, drawings)?;
    }
    let inputs = with_drawings(inputs, drawings);
    let score = model.score(arguments.score);
    let LoadedModel { detector, .. } = model;
    let detector = super::with_test_time_augmentation(detector, &arguments.test_time)?;
    let images = inputs.len();

    let mut console = Console::new(1);
    if !left_out.is_empty() {
        console.message(&format!("left out: {}", left_out.join(", ")));
    }
    let started = Instant::now();
    let outcome = predict(arguments, score, inputs, &detector, &mut console)?;
    let took = started.elapsed();

    write_results(arguments, &outcome.predictions, detector.classes())?;
    tell(arguments, &outcome, took);
    match outcome.failed.as_slice() {
        [] => Ok(()),
        [first, ..] => Err(Failure::work(anyhow!(
            "{} of {images} images could not be read, the others are done; the first: {first}",
            outcome.failed.len(),
        ))),
    }
}

/// Each image with the file that its drawing goes to, if it is drawn.
fn with_drawings(inputs: Vec<Input>, drawings: Option<Vec<PathBuf>>) -> Vec<Job> {
    let drawings = drawings.into_iter().flatten().map(Some);
    let drawings = drawings.chain(std::iter::repeat(None));
    inputs.into_iter().zip(drawings).collect()
}

fn refuse_overlaps(
    arguments: &PredictArguments,
    inputs: &[Input],
    drawings: &[PathBuf],
) -> Result<(), Failure> {
    let PredictArguments {
        model,
        json,
        csv,
        labels,
        ..
    } = arguments;
    let read = [
        given("--weights", model.weights.as_ref()),
        given("--config", model.config.as_ref()),
    ];
    let images = inputs
        .iter()
        .map(|input| ("an image", input.path.as_path()));
    let written = [
        given("--json", json.as_ref()),
        given("--csv", csv.as_ref()),
        given("--labels", labels.labels.as_ref()),
    ];
    for (option, path) in written.iter().flatten() {
        super::refuse_file_of_run(model.run.as_deref(), option, path)?;
    }
    let drawings = drawings.iter().map(|path| ("a drawing", path.as_path()));
    outputs::refuse_overlaps(
        read.into_iter().flatten().chain(images),
        written.into_iter().flatten().chain(drawings),
    )
}

/// Labels of several files go into a folder of their own: among others, a list of classes would change what they mean.
pub(crate) fn refuse_labels_in_the_way(arguments: &LabelsArguments) -> Result<(), Failure> {
    let (Some(path), Some(format)) = (&arguments.labels, arguments.to) else {
        return Ok(());
    };
    let is_folder = matches!(
        format,
        AnnotationFormat::Voc | AnnotationFormat::Yolo | AnnotationFormat::Labelme
    );
    let is_empty = || fs_err::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    let fits = if is_folder {
        path.as_os_str() != "-" && (!path.exists() || is_empty())
    } else {
        !path.is_dir()
    };
    if fits {
        return Ok(());
    }
    let needed = if is_folder {
        "a new or an empty folder"
    } else {
        "a file"
    };
    Err(Failure::usage(anyhow!(
        "--labels `{}` must be {needed} for these labels",
        path.display()
    )))
}

/// Reads images on threads of their own, looks at them here, and draws them on another thread: never
/// more than a few are in memory.
fn predict(
    arguments: &PredictArguments,
    min_score: f32,
    inputs: Vec<Job>,
    detector: &Detector,
    console: &mut Console,
) -> Result<Outcome, Failure> {
    console.progress(Progress::Start {
        what: "predicting",
        total: inputs.len() as u64,
    });
    let batch = arguments.test_time.batch.unwrap_or(1);
    let max_pixels = (arguments.max_megapixels as u64).saturating_mul(1_000_000);
    let decoding = detector.preparation().decoding(max_pixels);
    let read = move |job: Job| (read_image(&job.0.path, decoding), job);
    let mut images = ParallelMap::start(inputs.into_iter(), READERS, batch + READERS, read)
        .context("cannot start threads")
        .map_err(Failure::Work)?
        .peekable();
    let (sender, drawings) = sync_channel::<Drawing>(batch);
    let classes = detector.classes();
    std::thread::scope(|scope| {
        let artist = scope.spawn(|| draw_all(drawings, classes));
        let mut outcome = Outcome::default();
        while images.peek().is_some() {
            let mut readable = Vec::new();
            for image in images.by_ref().take(batch) {
                match image.map_err(|panic| Failure::work(anyhow!("{panic}")))? {
                    (Ok((pixels, took)), job) => readable.push((job, pixels, took)),
                    (Err(error), _) => outcome.tell_failed(error, console),
                }
            }
            let found = detect(detector, &readable);
            for (((input, drawing), pixels, read), found) in readable.into_iter().zip(found) {
                let ImageDetections {
                    mut detections,
                    times: detect,
                } = found;
                detections.retain(|detection| detection.score >= min_score);
                outcome.times.push(ImageTimes { read, detect });
                let prediction = Prediction {
                    name: text_of(&input.name),
                    size: pixels.dimensions(),
                    detections,
                };
                if let Some(drawing) = drawing {
                    let detections = prediction.detections.clone();
                    if sender.send((drawing, pixels, detections)).is_err() {
                        // The artist has failed, and says why below.
                        break;
                    }
                }
                outcome.predictions.push(prediction);
                console.progress(Progress::Tick);
            }
            if artist.is_finished() {
                break;
            }
        }
        drop(sender);
        let drawn = artist.join().map_err(|_| anyhow!("drawing panicked"));
        drawn.map_err(Failure::Work)??;
        console.progress(Progress::Finish);
        Ok(outcome)
    })
}

/// The detections on images that were read.
fn detect<T>(
    detector: &Detector,
    readable: &[(T, Arc<RgbImage>, Duration)],
) -> Vec<ImageDetections> {
    let pixels: Vec<_> = readable.iter().map(|it| Arc::clone(&it.1)).collect();
    detector.detect(&pixels)
}

fn read_image(path: &Path, decoding: Decoding) -> Result<(Arc<RgbImage>, Duration), ImagesError> {
    let started = Instant::now();
    let image = decode_image(path, decoding)?;
    Ok((Arc::new(image), started.elapsed()))
}

fn draw_all(drawings: Receiver<Drawing>, classes: &ClassList) -> Result<(), Failure> {
    for (file, pixels, detections) in drawings {
        let mut image = Arc::unwrap_or_clone(pixels);
        draw_detections(&mut image, &detections, classes);
        drawings::write(&file, &image)?;
    }
    Ok(())
}

fn write_results(
    arguments: &PredictArguments,
    predictions: &[Prediction],
    classes: &ClassList,
) -> Result<(), Failure> {
    if let Some(path) = &arguments.json {
        let named: Vec<_> = named(predictions, classes)
            .map(|(file_name, category_id, detection)| NamedDetection {
                file_name,
                category_id,
                bbox: detection.bbox.to_xywh(),
                score: detection.score,
            })
            .collect();
        let text = serde_json::to_string_pretty(&named)
            .context("cannot write the detections")
            .map_err(Failure::work)?;
        super::write_over(path, text.as_bytes())?;
    }
    if let Some(path) = &arguments.csv {
        let text = csv(predictions, classes)
            .context("cannot write the detections")
            .map_err(Failure::Work)?;
        super::write_over(path, &text)?;
    }
    if let (Some(path), Some(format)) = (&arguments.labels.labels, arguments.labels.to) {
        let images: Vec<_> = predictions
            .iter()
            .map(|prediction| DetectedImage {
                name: &prediction.name,
                size: prediction.size,
                detections: &prediction.detections,
            })
            .collect();
        let format = format.into();
        write_labels(&images, classes, Destination { format, path }).map_err(Failure::work)?;
    }
    Ok(())
}

fn csv(predictions: &[Prediction], classes: &ClassList) -> anyhow::Result<Vec<u8>> {
    let mut writer = csv::WriterBuilder::new()
        .has_headers(false)
        .from_writer(Vec::new());
    // By hand, so that a file without detections has it too.
    writer.write_record([
        "file_name",
        "class",
        "category_id",
        "score",
        "x",
        "y",
        "width",
        "height",
    ])?;
    for (file_name, category, detection) in named(predictions, classes) {
        let [x, y, width, height] = detection.bbox.to_xywh();
        writer.serialize(CsvLine {
            file_name: &as_text(file_name),
            class: &as_text(classes.name(detection.class)),
            category_id: category.0,
            score: detection.score,
            x,
            y,
            width,
            height,
        })?;
    }
    Ok(writer
        .into_inner()
        .map_err(csv::IntoInnerError::into_error)?)
}

/// A name as text. Bytes that are not UTF-8 are written out, so that two names stay two.
fn text_of(name: &Path) -> String {
    let plain = name.to_str().map(str::to_owned);
    plain.unwrap_or_else(|| {
        name.as_os_str()
            .as_encoded_bytes()
            .escape_ascii()
            .to_string()
    })
}

/// A cell that a spreadsheet takes for text: it would run `=1+1` as a formula.
fn as_text(cell: &str) -> Cow<'_, str> {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        Cow::Owned(format!("'{cell}"))
    } else {
        Cow::Borrowed(cell)
    }
}

/// Every detection with its file's name and its category.
fn named<'a>(
    predictions: &'a [Prediction],
    classes: &'a ClassList,
) -> impl Iterator<Item = (&'a str, CategoryId, &'a Detection)> {
    predictions.iter().flat_map(move |prediction| {
        let name = prediction.name.as_str();
        let detections = prediction.detections.iter();
        detections.filter_map(move |it| Some((name, classes.category(it.class)?, it)))
    })
}

fn tell(arguments: &PredictArguments, outcome: &Outcome, took: Duration) {
    let Outcome {
        predictions, times, ..
    } = outcome;
    let objects: usize = predictions.iter().map(|it| it.detections.len()).sum();
    let drawn = if arguments.no_drawings {
        String::new()
    } else {
        format!(", drawn into {}", arguments.out.display())
    };
    let images = predictions.len();
    let counted = |count: usize, noun: &str| match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    };
    let (objects, images_told) = (counted(objects, "object"), counted(images, "image"));
    console::result(&format!("{objects} on {images_told}{drawn}"));
    if let Some(times) = timing::describe(times) {
        let rate = images as f64 / took.as_secs_f64().max(1e-9);
        console::result(&format!("{times}; {rate:.1} images/s"));
    }
}
