//! `init`: from somebody's own photos to a config that fits them.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{anyhow, Context};
use retinanet_data::CocoDataset;
use retinanet_dataset_tools::doctor::{check, CheckRequest, Report, Role, Severity, Split};
use retinanet_dataset_tools::{
    convert, discover, find_images, near_copies, split_groups, DatasetFormat, Destination, Found,
    FoundSplit, Source,
};
use retinanet_experiment::{load_config, ExperimentConfig, Observer};
use retinanet_pretrained::BUILTIN;
use retinanet_recipe::{Facts, Halves, Recipe, StepCost, Wishes};
use retinanet_settings::Whole;
use retinanet_trainer::{measure_step, roughly, Plan};
use serde_json::Value;

use crate::args::InitArguments;
use crate::console;
use crate::device;
use crate::failure::Failure;
use crate::pretrained;

/// One image of so many is set aside where there is nothing to evaluate on.
const VALIDATION_SHARE: f64 = 0.2;

/// Fewer than this cannot be split.
const LEAST_IMAGES: usize = 2;

/// Sides of the images that steps are tried with, in pixels.
const MEASURED_SIDES: [usize; 2] = [128, 256];

pub(crate) fn run(arguments: &InitArguments) -> Result<(), Failure> {
    let out = arguments.out();
    write_config(arguments, &out)?;
    console::result(&format!("next:\n  retinanet train {}", out.display()));
    Ok(())
}

/// Looks at the data, and writes a config that fits it.
pub(crate) fn write_config(arguments: &InitArguments, out: &Path) -> Result<(), Failure> {
    refuse_existing(out)?;
    let found = find(arguments)?;
    let made = MadeFolder::new(out)?;
    let (halves, train, val) = prepare(&found, &made)?;
    let facts = Facts::of(&train, &val);
    require_boxes(&facts, &halves)?;
    tell_data(&found, &facts);

    let wishes = wishes(arguments)?;
    console::result(&start_line(&wishes));
    let mut recipe = Recipe::draft(halves, facts, wishes);
    let cost = measure(&recipe)?;
    recipe = recipe.that_takes(&cost);
    let fitted = recipe
        .fit_anchors(&config_of(&recipe)?, &train)
        .map_err(Failure::work)?;
    console::result(&format!(
        "anchors: {:.1} % of the boxes are reached, {:.1} % by the paper's",
        100.0 * fitted.after.reached,
        100.0 * fitted.before.reached
    ));
    console::result(&plan_line(&recipe));
    // What is written has to be what is read.
    config_of(&recipe)?;
    super::write_over(out, recipe.to_toml().as_bytes())?;
    made.keep();
    console::result(&format!(
        "config: {}, with the reason of each setting",
        out.display()
    ));
    Ok(())
}

fn refuse_existing(out: &Path) -> Result<(), Failure> {
    if out.exists() {
        let out = out.display();
        return Err(Failure::usage(anyhow!(
            "`{out}` is there already: `retinanet train {out}` trains it, and `--out` names another"
        )));
    }
    Ok(())
}

/// What the arguments name, or what their folder holds.
fn find(arguments: &InitArguments) -> Result<Found, Failure> {
    let Some(annotations) = &arguments.annotations else {
        let folder = arguments.folder.as_deref().unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return Err(Failure::usage(anyhow!(
                "`{}` is not a folder; name annotations with `--annotations` and `--images`",
                folder.display()
            )));
        }
        return discover(folder).map_err(Failure::usage);
    };
    let half = |annotations: &PathBuf, images: Option<&PathBuf>| {
        let beside = annotations.parent().unwrap_or(Path::new("."));
        let images = match images {
            Some(images) => images.clone(),
            None => find_images(annotations, beside).map_err(Failure::usage)?,
        };
        Ok::<_, Failure>(FoundSplit {
            annotations: annotations.clone(),
            images,
            split: None,
        })
    };
    let images = arguments.images.as_ref();
    let val_images = arguments.val_images.as_ref().or(images);
    Ok(Found {
        format: DatasetFormat::Coco,
        train: half(annotations, images)?,
        val: (arguments.val.as_ref())
            .map(|val| half(val, val_images))
            .transpose()?,
    })
}

/// Makes COCO files of what was found, checks them, and sets images aside where there is nothing to evaluate on.
fn prepare(
    found: &Found,
    made: &MadeFolder,
) -> Result<(Halves, CocoDataset, CocoDataset), Failure> {
    let train = as_coco(found.format, &found.train, made, "train")?;
    let val = (found.val.as_ref())
        .map(|val| as_coco(found.format, val, made, "val"))
        .transpose()?;
    check_halves(&train, val.as_ref())?;
    let (train, val) = match val {
        Some(val) => (train, val),
        None => set_aside(&train, made)?,
    };
    let read = |split: &Split| CocoDataset::read(&split.annotations, &split.images_root);
    let datasets = (read(&train)?, read(&val)?);
    let halves = Halves {
        train: train.annotations,
        train_images: train.images_root,
        val: val.annotations,
        val_images: val.images_root,
    };
    Ok((halves, datasets.0, datasets.1))
}

/// The COCO file of a half: its own, or one that is made of it.
fn as_coco(
    format: DatasetFormat,
    half: &FoundSplit,
    made: &MadeFolder,
    name: &str,
) -> Result<Split, Failure> {
    if format == DatasetFormat::Coco {
        return Ok(Split::new(&half.annotations, &half.images));
    }
    let path = made.file(name)?;
    let source = Source {
        format,
        path: &half.annotations,
        images: Some(&half.images),
        split: half.split.as_deref(),
    };
    let destination = Destination {
        format: DatasetFormat::Coco,
        path: &path,
    };
    convert(source, destination).map_err(Failure::work)?;
    Ok(Split::new(path, &half.images))
}

/// Stops where training would fail or lie, and tells what else was found.
fn check_halves(train: &Split, val: Option<&Split>) -> Result<(), Failure> {
    let mut reports = vec![look_over(&CheckRequest {
        other: val.cloned(),
        ..CheckRequest::new(train.clone())
    })?];
    if let Some(val) = val {
        reports.push(look_over(&CheckRequest {
            role: Role::Validation,
            ..CheckRequest::new(val.clone())
        })?);
    }
    let bad: Vec<&Report> = reports.iter().filter(|report| report.fails()).collect();
    for report in &bad {
        console::result(&report.to_string());
    }
    if !bad.is_empty() {
        let files: Vec<&str> = bad.iter().map(|report| report.file.as_str()).collect();
        return Err(Failure::work(anyhow!(
            "training on `{}` would fail or lie; see above",
            files.join("` and `")
        )));
    }
    console::result(&format!("check: {}", warnings(&reports)));
    Ok(())
}

/// What the checks found that is no error, in one line.
fn warnings(reports: &[Report]) -> String {
    let findings = reports.iter().flat_map(|report| &report.findings);
    let mut told = HashSet::new();
    let titles: Vec<String> = findings
        .filter(|finding| finding.severity == Severity::Warning)
        .filter(|finding| told.insert(finding.kind))
        .map(|finding| format!("{} ({})", finding.kind.title(), finding.count))
        .collect();
    if titles.is_empty() {
        return "every image was opened, nothing is wrong".to_owned();
    }
    format!(
        "no errors, but {}; `retinanet dataset check` shows them",
        titles.join(", ")
    )
}

fn look_over(request: &CheckRequest) -> Result<Report, Failure> {
    let bar = console::work_bar("looking over", 0);
    let report = check(request, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    Ok(report?)
}

/// Splits a file into a half to train on and one to evaluate on, with near copies on one side.
fn set_aside(all: &Split, made: &MadeFolder) -> Result<(Split, Split), Failure> {
    let dataset = CocoDataset::read(&all.annotations, &all.images_root)?;
    if dataset.images.len() < LEAST_IMAGES {
        return Err(Failure::usage(anyhow!(
            "`{}` has {} image, and there have to be {LEAST_IMAGES} at least: one to train on, and one to evaluate on",
            all.annotations.display(),
            dataset.images.len()
        )));
    }
    let bar = console::work_bar("looking for near copies", dataset.images.len());
    let groups = near_copies(&dataset, &|done, _| bar.set_position(done as u64));
    bar.finish_and_clear();
    // A handful of images still gives one to evaluate on.
    let share = VALIDATION_SHARE.max(1.0 / dataset.images.len() as f64);
    let shares = [1.0 - share, share];
    let split = |groups| split_groups(&all.annotations, &shares, 0, groups);
    let mut parts = split(&groups)?;
    let alike = if groups.is_empty() {
        String::new()
    } else if parts.iter().all(has_boxes) {
        format!(
            "; {} images that look like others stay with them",
            groups.len()
        )
    } else {
        parts = split(&BTreeMap::new())?;
        "; nearly all look alike, so AP will be too good".to_owned()
    };
    console::result(&format!(
        "split: one image of {:.0} is set aside to evaluate on{alike}",
        1.0 / share
    ));
    let [train, val] = ["train", "val"].map(|name| made.file(name));
    let (train, val) = (train?, val?);
    for (path, part) in [&train, &val].into_iter().zip(&parts) {
        let text = serde_json::to_string(part)
            .context("cannot write a half")
            .map_err(Failure::work)?;
        super::write_over(path, text.as_bytes())?;
    }
    let half = |path: PathBuf| Split::new(path, &all.images_root);
    Ok((half(train), half(val)))
}

fn has_boxes(part: &Value) -> bool {
    part["annotations"]
        .as_array()
        .is_some_and(|it| !it.is_empty())
}

fn require_boxes(facts: &Facts, halves: &Halves) -> Result<(), Failure> {
    let refuse = |path: &Path, why: &str| {
        let path = path.display();
        Err(Failure::usage(anyhow!("`{path}` has no boxes: {why}")))
    };
    if facts.boxes == 0 {
        return refuse(&halves.train, "there is nothing to learn");
    }
    if facts.val_boxes == 0 {
        let why =
            "there is nothing to measure with; `--annotations` without `--val` sets images aside";
        return refuse(&halves.val, why);
    }
    Ok(())
}

fn tell_data(found: &Found, facts: &Facts) {
    let format = match found.format {
        DatasetFormat::Yolo => ", from YOLO's files",
        DatasetFormat::Voc => ", from Pascal VOC's files",
        DatasetFormat::Csv => ", from CSV",
        _ => "",
    };
    console::result(&format!(
        "data: {} images with {} boxes to train on, {} with {} to evaluate on; {} classes{format}",
        facts.images, facts.boxes, facts.val_images, facts.val_boxes, facts.classes
    ));
}

/// Device, time and the weights to start from.
fn wishes(arguments: &InitArguments) -> Result<Wishes, Failure> {
    let device = arguments
        .device
        .clone()
        .unwrap_or_else(|| "flex".to_owned());
    device::open(&device).map_err(Failure::usage)?;
    let backbone = if device == "flex" {
        "resnet18"
    } else {
        "resnet50"
    };
    let asked = "as asked".to_owned();
    let start = match arguments.pretrained.as_deref() {
        Some("none") => (backbone, None, asked),
        Some(place) => {
            pretrained::file(place)?;
            (backbone, Some(place.to_owned()), asked)
        }
        None => {
            let published = format!("torchvision:{backbone}");
            match pretrained::file(&published) {
                Ok(_) => (
                    backbone,
                    Some(published),
                    "learned from ImageNet".to_owned(),
                ),
                Err(_) => (
                    "resnet18",
                    Some(BUILTIN.to_owned()),
                    "ships with the program; ImageNet's could not be fetched".to_owned(),
                ),
            }
        }
    };
    let (backbone, pretrained, pretrained_because) = start;
    Ok(Wishes {
        minutes: arguments.minutes,
        device,
        backbone: backbone.to_owned(),
        pretrained,
        pretrained_because,
    })
}

fn start_line(wishes: &Wishes) -> String {
    match &wishes.pretrained {
        Some(place) => format!("start: {place}, {}", wishes.pretrained_because),
        None => "start: random weights".to_owned(),
    }
}

/// What steps of a recipe take on its device.
fn measure(recipe: &Recipe) -> Result<StepCost, Failure> {
    struct Quiet;
    impl Observer for Quiet {}

    let mut config = config_of(recipe)?;
    super::set_threads(config.compute.threads.map(Whole::as_usize));
    // The weights say nothing about the time.
    config.model.pretrained = None;
    let device = device::open(&config.compute.device).map_err(Failure::usage)?;
    console::note("measuring what a step takes");
    let plan = Plan::new(config, &mut Quiet)?;
    let line = measure_step(&plan, &device, MEASURED_SIDES)?;
    Ok(StepCost {
        fixed: line.fixed.max(0.0) / recipe.batch_size() as f64,
        per_pixel: line.per_pixel,
    })
}

/// The config that a recipe's text is.
fn config_of(recipe: &Recipe) -> Result<ExperimentConfig, Failure> {
    let folder = tempfile::tempdir().map_err(Failure::work)?;
    let path = folder.path().join("recipe.toml");
    fs_err::write(&path, recipe.to_toml()).map_err(Failure::work)?;
    Ok(load_config(&path, &[])?)
}

fn plan_line(recipe: &Recipe) -> String {
    let short = if recipe.is_short_of_time() {
        "; with more `--minutes` it would come out better"
    } else {
        ""
    };
    format!(
        "plan: input {} pixels, {} steps of {} images, which see each image {:.1} times: about {}{short}",
        recipe.short_side(),
        recipe.steps(),
        recipe.batch_size(),
        recipe.epochs(),
        roughly(recipe.seconds())
    )
}

/// The folder of the annotations that are made, beside the config; gone again if no config comes of them.
struct MadeFolder {
    path: PathBuf,
    is_kept: std::cell::Cell<bool>,
}

impl MadeFolder {
    fn new(config: &Path) -> Result<Self, Failure> {
        let name = config.file_stem().unwrap_or_default().to_string_lossy();
        let path = config.with_file_name(format!("{name}_data"));
        if path.exists() {
            return Err(Failure::usage(anyhow!(
                "`{}` is there already, where annotations are to be written; `--out` names another config",
                path.display()
            )));
        }
        Ok(Self {
            path,
            is_kept: false.into(),
        })
    }

    /// The place of a half, in a folder that is there from now on.
    fn file(&self, name: &str) -> Result<PathBuf, Failure> {
        fs_err::create_dir_all(&self.path).map_err(Failure::work)?;
        Ok(self.path.join(format!("{name}.json")))
    }

    fn keep(&self) {
        self.is_kept.set(true);
    }
}

impl Drop for MadeFolder {
    fn drop(&mut self) {
        if !self.is_kept.get() {
            // Where it cannot be removed, it is no worse than before.
            let _ = fs_err::remove_dir_all(&self.path);
        }
    }
}
