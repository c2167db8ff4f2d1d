use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{anyhow, Context};
use image::RgbImage;
use rayon::prelude::*;
use retinanet_boxes::{ClassId, ClassList, Detection, GroundTruth};
use retinanet_data::{
    Batch, Batching, CocoDataset, DataError, EvalLoader, ImageRecord, TrainLoader, Transform,
};
use retinanet_dataset_tools::doctor::{Report, Severity};
use retinanet_experiment::{config_to_toml, load_config, require_data, ExperimentConfig};
use retinanet_images::{class_color, decode_image};
use retinanet_report::{
    thumbnail, BoxOverlay, ClassColor, DatasetPage, ImageFinding, ImageView, Picture,
};
use retinanet_settings::{Count, Whole};

use crate::args::{Split, ViewArguments};
use crate::commands::check;
use crate::console;
use crate::drawings;
use crate::failure::Failure;

/// The longer side of an image that is shown as it is, in pixels.
const LONGEST: u32 = 1_280;

/// What pages of this program say of who made them.
const GENERATOR: &str = "name=\"generator\" content=\"retinanet\"";

/// Of more images than this the files are not checked, which would take minutes.
const MOST_FILES: usize = 2_000;

pub(crate) fn run(arguments: &ViewArguments) -> Result<(), Failure> {
    let config = load_config(&arguments.config, &arguments.settings.set)?;
    require_data(&config.data, &[arguments.split.into()])?;
    super::set_threads(config.compute.threads.map(Whole::as_usize));
    let scene = Scene::new(config, arguments.split)?;
    let images = scene.dataset.images.len();
    let report = check::split_of(&scene.config, arguments.split, images <= MOST_FILES)?;
    let findings = by_file(&report);
    let chosen = choose(&scene.dataset.images, &findings, arguments.images);
    if !arguments.yes {
        let written = scene.files(&chosen, arguments);
        drawings::ask_before_mixing(&arguments.out, &written)?;
    }
    let views = (chosen.par_iter())
        .map(|&index| scene.view(index, arguments, &findings))
        .collect::<Result<Vec<_>, _>>()?;
    let page = arguments.out.join("index.html");
    let drawn = views.len();
    write_page(&scene.page(arguments, &report, views), &page)?;
    console::result(&format!(
        "drew {drawn} of {images} images; open {}",
        page.display()
    ));
    Ok(())
}

/// What was found, by the image's file name, the worst first.
type Findings<'a> = HashMap<&'a str, Vec<(Severity, ImageFinding)>>;

fn by_file(report: &Report) -> Findings<'_> {
    let mut found = Findings::new();
    for finding in &report.findings {
        for example in &finding.examples {
            let Some(file) = &example.file else { continue };
            let remark = ImageFinding {
                severity: finding.severity.to_string(),
                title: finding.kind.title().to_owned(),
                detail: example.detail.clone(),
            };
            let remarks = found.entry(file.as_str()).or_default();
            remarks.push((finding.severity, remark));
        }
    }
    found
}

/// Indices of so many images: the most suspicious first, then others spread over the data set. Notes make
/// no image suspicious.
fn choose(images: &[ImageRecord], findings: &Findings<'_>, count: usize) -> Vec<usize> {
    let counted = |index: usize, severity: Severity| {
        let found = findings.get(images[index].file_name.as_str());
        found.map_or(0, |it| it.iter().filter(|(it, _)| *it == severity).count())
    };
    let suspicion = |index: &usize| {
        let severities = [Severity::Error, Severity::Warning];
        severities.map(|severity| counted(*index, severity))
    };
    let (mut suspicious, others): (Vec<usize>, Vec<usize>) =
        (0..images.len()).partition(|index| suspicion(index) != [0, 0]);
    suspicious.sort_by_key(|index| Reverse(suspicion(index)));
    suspicious.truncate(count);
    let left = count - suspicious.len();
    suspicious.extend(super::spread(left, others.len()).map(|place| others[place]));
    suspicious
}

/// A config's images, as they are and as the network sees them.
struct Scene {
    config: ExperimentConfig,
    dataset: Arc<CocoDataset>,
    transform: Transform,
    seen: Seen,
}

/// What makes samples.
enum Seen {
    InTraining(TrainLoader),
    InEvaluation(EvalLoader),
}

impl Scene {
    fn new(config: ExperimentConfig, split: Split) -> Result<Self, Failure> {
        let data = &config.data;
        let transform = data.transform()?;
        let generator = config.anchor_generator()?;
        let one = Count::literal(1);
        let (dataset, seen) = match split {
            Split::Train => {
                let dataset = Arc::new(data.read_train()?);
                let batching = Batching {
                    seed: config.seed.get(),
                    ..Batching::of(one)
                };
                let loader = TrainLoader::new(
                    Arc::clone(&dataset),
                    data.loader,
                    batching,
                    transform.clone(),
                    generator,
                    config.target_assigner()?,
                );
                (dataset, loader.map(Seen::InTraining))
            }
            Split::Val => {
                let dataset = data.read_to_evaluate(&data.val)?;
                let dataset = Arc::new(dataset);
                let loader = EvalLoader::new(
                    Arc::clone(&dataset),
                    data.loader,
                    one,
                    transform.clone(),
                    generator,
                    None,
                );
                (dataset, loader.map(Seen::InEvaluation))
            }
        };
        Ok(Self {
            seen: seen?,
            config,
            dataset,
            transform,
        })
    }

    /// The files that showing these images writes.
    fn files(&self, chosen: &[usize], arguments: &ViewArguments) -> Vec<PathBuf> {
        let epochs = match self.seen {
            Seen::InTraining(_) => arguments.epochs,
            Seen::InEvaluation(_) => 1,
        };
        let pictures = chosen.iter().flat_map(|&index| {
            let name = address(&self.dataset.images[index].file_name);
            let after = (0..epochs).map(move |epoch| after(&name, epoch));
            [before(&address(&self.dataset.images[index].file_name))]
                .into_iter()
                .chain(after)
        });
        let files = pictures.map(|file| arguments.out.join(file));
        let page = page_of_ours(&arguments.out.join("index.html"));
        files.chain(page).collect()
    }

    /// Writes an image's pictures, and tells what the page shows of it.
    fn view(
        &self,
        index: usize,
        arguments: &ViewArguments,
        findings: &Findings<'_>,
    ) -> Result<ImageView, Failure> {
        let record = &self.dataset.images[index];
        let image = decode_image(&record.path, self.dataset.decoding)?;
        let name = address(&record.file_name);
        let file = before(&name);
        write_picture(&arguments.out.join(&file), &image)?;
        let mut views = vec![picture("as it is".into(), file, &image, &record.objects)];
        for (epoch, batch) in self.samples(index, arguments.epochs).enumerate() {
            let batch = batch?;
            let image = batch.picture(0, self.transform.preparation());
            let file = after(&name, epoch);
            super::write_png(&arguments.out.join(&file), &image)?;
            let caption = match self.seen {
                Seen::InTraining(_) => format!("as the network sees it in epoch {epoch}"),
                Seen::InEvaluation(_) => "as the network sees it in evaluation".to_owned(),
            };
            views.push(picture(caption, file, &image, &batch.items[0].objects));
        }
        let found = findings.get(record.file_name.as_str());
        let findings = found.into_iter().flatten();
        Ok(ImageView {
            file_name: record.file_name.clone(),
            about: about(record),
            findings: findings.map(|(_, finding)| finding.clone()).collect(),
            views,
        })
    }

    /// An image as the network sees it: in evaluation always the same.
    fn samples(
        &self,
        index: usize,
        epochs: usize,
    ) -> Box<dyn Iterator<Item = Result<Batch, DataError>> + '_> {
        match &self.seen {
            Seen::InTraining(loader) => {
                Box::new((0..epochs as u64).map(move |epoch| loader.sample(index, epoch)))
            }
            Seen::InEvaluation(loader) => {
                Box::new(std::iter::once_with(move || loader.sample(index)))
            }
        }
    }

    fn page(
        &self,
        arguments: &ViewArguments,
        report: &Report,
        images: Vec<ImageView>,
    ) -> DatasetPage {
        let settings = match (&self.seen, config_to_toml(&self.config)) {
            (Seen::InTraining(_), Ok(config)) => augmentation(&config),
            _ => String::new(),
        };
        let opened = if report.files_opened {
            ""
        } else {
            " Findings are those of the annotations alone."
        };
        DatasetPage {
            title: arguments.config.display().to_string(),
            about: format!(
                "{} images of {}, the most suspicious first: each as it is, then as the network sees it. Grey \
                 boxes are ignored, neither objects nor background.{opened}",
                images.len(),
                self.dataset.annotations.display(),
            ),
            settings,
            classes: class_colors(&self.dataset.classes),
            images,
        }
    }
}

/// Asks before a page goes into a folder with other files, unless it replaces one of this program's.
pub(super) fn ask_before_page(page: &Path, files: &[PathBuf]) -> Result<(), Failure> {
    let Some(folder) = page.parent().filter(|_| page_of_ours(page).is_none()) else {
        return Ok(());
    };
    drawings::ask_before_mixing(folder, files)
}

/// Refuses what is no folder for a page, before any work.
pub(super) fn require_page_folder(folder: &Path) -> Result<(), Failure> {
    if !folder.exists() || folder.is_dir() {
        return Ok(());
    }
    Err(Failure::usage(anyhow!(
        "`{}` is a file, and the page needs a folder",
        folder.display()
    )))
}

/// A page, if this program has made it: one of somebody else's is a file like any other.
pub(super) fn page_of_ours(page: &Path) -> Option<PathBuf> {
    let is_ours = fs_err::read_to_string(page).is_ok_and(|text| text.contains(GENERATOR));
    is_ours.then(|| page.to_owned())
}

/// An image's name, parted by `/`, within the page's folder.
pub(super) fn address(file_name: &str) -> String {
    let name = super::below(file_name).to_string_lossy().into_owned();
    if cfg!(windows) {
        name.replace('\\', "/")
    } else {
        name
    }
}

pub(super) fn write_page(page: &DatasetPage, path: &Path) -> Result<(), Failure> {
    page.write(path)
        .with_context(|| format!("cannot write `{}`", path.display()))
        .map_err(Failure::Work)
}

/// Writes an image small enough for a page.
pub(super) fn write_picture(path: &Path, image: &RgbImage) -> Result<(), Failure> {
    let jpeg = thumbnail(image, LONGEST)
        .with_context(|| format!("cannot make `{}`", path.display()))
        .map_err(Failure::Work)?;
    super::write_over(path, &jpeg)
}

/// The classes as a page names and colours them.
pub(super) fn class_colors(classes: &ClassList) -> Vec<ClassColor> {
    let classes = classes.iter().map(|(id, class)| ClassColor {
        name: class.name.clone(),
        color: css_color(id),
    });
    classes.collect()
}

/// Detections as a page shows them.
pub(super) fn overlays<'a>(detections: impl IntoIterator<Item = &'a Detection>) -> Vec<BoxOverlay> {
    let overlays = detections.into_iter().map(|detection| BoxOverlay {
        class: detection.class.index(),
        bbox: detection.bbox.to_xywh(),
        crowd: false,
    });
    overlays.collect()
}

fn before(name: &str) -> String {
    format!("before/{name}.jpg")
}

fn after(name: &str, epoch: usize) -> String {
    format!("after/{name}.{epoch}.png")
}

pub(super) fn picture(
    caption: String,
    file: String,
    image: &RgbImage,
    objects: &[GroundTruth],
) -> Picture {
    let (width, height) = image.dimensions();
    let objects = objects.iter().map(|object| BoxOverlay {
        class: object.class.index(),
        bbox: object.bbox.to_xywh(),
        crowd: object.crowd,
    });
    Picture {
        caption,
        file,
        width,
        height,
        objects: objects.collect(),
    }
}

fn css_color(class: ClassId) -> String {
    let [red, green, blue] = class_color(class);
    format!("#{red:02x}{green:02x}{blue:02x}")
}

pub(super) fn about(record: &ImageRecord) -> String {
    let ImageRecord {
        id,
        width,
        height,
        objects,
        ..
    } = record;
    let noun = if objects.len() == 1 { "box" } else { "boxes" };
    format!("image {}, {width}×{height}, {} {noun}", id.0, objects.len())
}

/// What a config says about augmentation.
fn augmentation(config: &str) -> String {
    let mut of_augment = false;
    let lines = config.lines().filter(|line| {
        if line.starts_with('[') {
            of_augment = line.starts_with("[data.augment");
        }
        of_augment && !line.is_empty()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use retinanet_boxes::ImageId;

    use super::*;

    #[test]
    fn the_most_suspicious_come_first_and_the_others_are_spread() {
        let image = |index: u64| ImageRecord {
            id: ImageId(index),
            file_name: format!("{index}.png"),
            path: "".into(),
            width: 1,
            height: 1,
            objects: Vec::new(),
            outlines: Vec::new(),
        };
        let images: Vec<_> = (0..10).map(image).collect();
        let finding = |severity: Severity| {
            let found = ImageFinding {
                severity: severity.to_string(),
                title: String::new(),
                detail: String::new(),
            };
            (severity, found)
        };
        let findings = Findings::from([
            ("2.png", vec![finding(Severity::Note); 3]),
            ("3.png", vec![finding(Severity::Warning)]),
            ("5.png", vec![finding(Severity::Error)]),
            ("7.png", vec![finding(Severity::Warning); 2]),
        ]);
        assert_eq!(choose(&images, &findings, 2), [5, 7]);
        // Of 0, 1, 2, 4, 6, 8 and 9 the first and the one in the middle.
        assert_eq!(choose(&images, &findings, 5), [5, 7, 3, 0, 4]);
        assert_eq!(choose(&images, &findings, 100).len(), 10);
    }
}
