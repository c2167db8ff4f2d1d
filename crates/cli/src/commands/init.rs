//! `init`: from somebody's own photos to a config that fits them.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{anyhow, Context};
use retinanet_data::CocoDataset;
use retinanet_dataset_tools::doctor::{CheckRequest, Report, Role, Severity, Split};
use retinanet_dataset_tools::{
    convert, discover, find_images, near_copies, split_groups, Coverage, DatasetFormat,
    Destination, Found, FoundSplit, Source, MADE_BY_INIT,
};
use retinanet_experiment::{load_config, ExperimentConfig, Observer};
use retinanet_pretrained::{BUILTIN, BUILTIN_BACKBONE};
use retinanet_recipe::{anchor_coverage, Facts, Halves, Recipe, StepCost, Wishes};
use retinanet_settings::Whole;
use retinanet_trainer::{measure_step, roughly, Plan};
use serde_json::Value;

use super::check::look_over;
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
const MEASURED_SIDES: [usize; 2] = [128, 320];

pub(crate) fn run(arguments: &InitArguments) -> Result<(), Failure> {
    let out = arguments.out();
    refuse_existing(&out, "; `--out` names another")?;
    write_config(arguments, &out)?;
    let next = console::one_word(&out);
    console::result(&format!("next:\n  retinanet train {next}"));
    Ok(())
}

/// Checks the data, and writes a config that fits it.
pub(crate) fn write_config(arguments: &InitArguments, out: &Path) -> Result<(), Failure> {
    require_place(out)?;
    let wishes = wishes(arguments)?;
    let found = find(arguments)?;
    let made = MadeFolder::new(out)?;
    let (halves, train, val) = prepare(&found, &made)?;
    let facts = Facts::of(&train, &val);
    require_boxes(&facts, &halves)?;
    tell_data(&found, &facts);

    console::result(&start_line(&wishes));
    let mut recipe = Recipe::draft(halves, facts, wishes);
    let cost = measure(&recipe)?;
    recipe = recipe.that_takes(&cost);
    let coverage = anchor_coverage(&config_of(&recipe)?, &train).map_err(Failure::work)?;
    console::result(&anchors_line(&coverage));
    console::result(&plan_line(&recipe));
    super::write_over(out, recipe.to_toml().as_bytes())?;
    made.keep();
    console::result(&format!(
        "config: {}, with the reason of each setting",
        out.display()
    ));
    Ok(())
}

/// Refuses to write over a config; `or` is what else can be done.
pub(crate) fn refuse_existing(out: &Path, or: &str) -> Result<(), Failure> {
    if out.is_dir() {
        return Err(Failure::usage(anyhow!("`{}` is a folder", out.display())));
    }
    if out.exists() {
        return Err(Failure::usage(anyhow!(
            "`{}` is there already: `retinanet train {}` trains it{or}",
            out.display(),
            console::one_word(out)
        )));
    }
    Ok(())
}

/// Refuses a place where no config can be, before the data is checked.
fn require_place(out: &Path) -> Result<(), Failure> {
    let is_toml = out.extension().is_some_and(|it| it == "toml");
    if !is_toml {
        let out = out.display();
        return Err(Failure::usage(anyhow!(
            "`--out {out}`: a config's name ends with `.toml`"
        )));
    }
    let folder = out.parent().filter(|it| !it.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => Err(Failure::usage(anyhow!(
            "`--out {}`: there is no folder `{}`",
            out.display(),
            folder.display()
        ))),
        _ => Ok(()),
    }
}

/// What the arguments name, or what their folder holds.
fn find(arguments: &InitArguments) -> Result<Found, Failure> {
    let named = (arguments.annotations.as_ref())
        .or(arguments.folder.as_ref().filter(|path| path.is_file()));
    let paths = [&arguments.folder, &arguments.annotations, &arguments.images];
    if let Some(path) = paths
        .into_iter()
        .flatten()
        .find(|path| path.to_str().is_none())
    {
        return Err(Failure::usage(anyhow!(
            "`{}` has a name that is not UTF-8, which a config has to be",
            path.display()
        )));
    }
    let Some(annotations) = named else {
        let folder = arguments.folder.as_deref().unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return Err(Failure::usage(anyhow!(
                "there is no `{}`",
                folder.display()
            )));
        }
        fs_err::read_dir(folder).map_err(Failure::work)?;
        return discover(folder).map_err(Failure::usage);
    };
    let format = format_of(annotations);
    let half = |annotations: &PathBuf, images: Option<&PathBuf>| {
        let beside = annotations.parent().unwrap_or(Path::new("."));
        let images = match (images, format) {
            (Some(images), _) => images.clone(),
            (None, DatasetFormat::Coco) => {
                find_images(annotations, beside).map_err(Failure::usage)?
            }
            (None, _) => beside.to_owned(),
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
        format,
        train: half(annotations, images)?,
        val: (arguments.val.as_ref())
            .map(|val| half(val, val_images))
            .transpose()?,
        unread_lists: None,
    })
}

/// The format of a file, by its name.
fn format_of(annotations: &Path) -> DatasetFormat {
    let extension = annotations.extension().unwrap_or_default();
    if extension.eq_ignore_ascii_case("csv") {
        DatasetFormat::Csv
    } else if ["yaml", "yml"]
        .iter()
        .any(|it| extension.eq_ignore_ascii_case(it))
    {
        DatasetFormat::Yolo
    } else {
        DatasetFormat::Coco
    }
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
    let sources = [Some(&found.train), found.val.as_ref()];
    let sources = sources
        .into_iter()
        .flatten()
        .map(|half| half.annotations.as_path());
    check_halves(&train, val.as_ref(), &sources.collect::<Vec<_>>())?;
    if let Some(lists) = &found.unread_lists {
        console::result(&format!(
            "note: the halves that `{}` lists are not read; images are set aside anew",
            lists.display()
        ));
    }
    let (train, val) = match val {
        Some(val) => (train, val),
        None => set_aside(&train, made, &found.train.annotations)?,
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

/// Stops where training would fail or lie, and tells what else was found; `sources` are what the halves were made of.
fn check_halves(train: &Split, val: Option<&Split>, sources: &[&Path]) -> Result<(), Failure> {
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
    let bad: Vec<(&Report, &Path)> = (reports.iter().zip(sources.iter().copied()))
        .filter(|(report, _)| report.fails())
        .collect();
    for (report, _) in &bad {
        console::result(&report.to_string());
    }
    if !bad.is_empty() {
        let files = bad.iter().map(|(_, source)| source.display().to_string());
        return Err(Failure::work(anyhow!(
            "training on `{}` would fail or lie; see above",
            files.collect::<Vec<_>>().join("` and `")
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

/// Splits a file into a half to train on and one to evaluate on, with near copies on one side.
fn set_aside(all: &Split, made: &MadeFolder, source: &Path) -> Result<(Split, Split), Failure> {
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
    let Parts {
        files,
        are_alike,
        told,
    } = split_with_boxes(all, dataset.images.len(), &groups)?;
    console::result(&format!("split: {told}"));
    let [train, val] = ["train", "val"].map(|name| made.file(name));
    let (train, val) = (train?, val?);
    for (path, part) in [&train, &val].into_iter().zip(&files) {
        let text = serde_json::to_string(part)
            .context("cannot write a half")
            .map_err(Failure::work)?;
        super::write_over(path, text.as_bytes())?;
    }
    let half = |path: PathBuf| Split::new(path, &all.images_root);
    let (train, val) = (half(train), half(val));
    if are_alike {
        // What is on both sides may be the very same image.
        check_halves(&train, Some(&val), &[source, source])?;
    }
    Ok((train, val))
}

/// What images were set aside.
struct Parts {
    files: Vec<Value>,
    /// Whether images that look alike are on both sides.
    are_alike: bool,
    /// How it came about, in words.
    told: String,
}

/// Two parts that both have boxes, and how they came about: if near copies cannot stay together they are parted, and of
/// few images with boxes a half is set aside.
fn split_with_boxes(
    all: &Split,
    images: usize,
    groups: &BTreeMap<u64, usize>,
) -> Result<Parts, Failure> {
    // A handful of images still gives one to evaluate on.
    let share = VALIDATION_SHARE.max(1.0 / images as f64);
    let alone = BTreeMap::new();
    let together = match groups.len() {
        0 => String::new(),
        count => format!("; {count} images that look like others stay with them"),
    };
    let parted = match groups.len() {
        0 => String::new(),
        _ => "; most look alike and are on both sides, so AP will be too good".to_owned(),
    };
    for (share, kept, alike) in [
        (share, groups, &together),
        (share, &alone, &parted),
        (0.5, &alone, &parted),
    ] {
        let parts = split_groups(&all.annotations, &[1.0 - share, share], 0, kept)?;
        if parts.iter().all(has_boxes) {
            return Ok(Parts {
                files: parts,
                are_alike: !groups.is_empty() && kept.is_empty(),
                told: format!(
                    "one image of {:.0} is set aside to evaluate on{alike}",
                    1.0 / share
                ),
            });
        }
    }
    Err(Failure::usage(anyhow!(
        "`{}` has too few images with boxes: there have to be two at least, one to train on and one to evaluate on",
        all.annotations.display()
    )))
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
    let usual = if device == "flex" {
        "resnet18"
    } else {
        "resnet50"
    };
    let asked = "as asked".to_owned();
    let (backbone, pretrained, pretrained_because) = match arguments.pretrained.as_deref() {
        Some("none") => (usual, None, asked),
        Some(place) => {
            pretrained::file(place)?;
            // A place that names its network is taken at its word.
            let named = place
                .split_once(':')
                .map_or(usual, |(from, name)| match from {
                    "builtin" => "resnet18",
                    "torchvision" => name,
                    _ => usual,
                });
            (named, Some(place.to_owned()), asked)
        }
        // Its pyramid and heads are those of a config for CPUs. Beside ImageNet's backbone: docs/results.md.
        None if device == "flex" => {
            let because = "ships with the program; pyramid and heads have learned, too";
            ("resnet18", Some(BUILTIN.to_owned()), because.to_owned())
        }
        None => {
            let published = format!("torchvision:{usual}");
            if pretrained::file(&published).is_ok() {
                (usual, Some(published), "learned from ImageNet".to_owned())
            } else {
                let because = "ships with the program; ImageNet's could not be fetched";
                (
                    "resnet18",
                    Some(BUILTIN_BACKBONE.to_owned()),
                    because.to_owned(),
                )
            }
        }
    };
    Ok(Wishes {
        minutes: arguments.minutes,
        device,
        backbone: backbone.to_owned(),
        predicts_boxes: pretrained.as_deref() == Some(BUILTIN),
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

    let config = config_of(recipe)?;
    super::set_threads(config.compute.threads.map(Whole::as_usize));
    let place = config.model.pretrained.as_deref();
    let weights = place.map(pretrained::file).transpose()?;
    let device = device::open(&config.compute.device).map_err(Failure::usage)?;
    console::note("measuring what a step takes");
    let plan = Plan::new(config, &mut Quiet)?.with_weights(weights);
    // Before anything is written: weights that do not fit would stop training.
    plan.check_pretrained()?;
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

fn anchors_line(coverage: &Coverage) -> String {
    /// With fewer, most objects are never learnt.
    const LEAST_LEARNT: f64 = 0.5;
    let share = coverage.share_of_learnt().unwrap_or(0.0);
    let warning = if share < LEAST_LEARNT {
        "; the others are too small or too thin in this input: more `--minutes` allow a larger one, and large photos \
         may be cut into tiles"
    } else {
        ""
    };
    format!(
        "anchors: one a cell, which learn {:.1} % of the boxes{warning}",
        100.0 * share
    )
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
        // What an `init` left that was stopped, or whose config is gone, is made anew.
        if path.exists() && !path.join(MADE_BY_INIT).exists() {
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
        let mark = "Made by `retinanet init`, which may write it anew.\n";
        fs_err::write(self.path.join(MADE_BY_INIT), mark).map_err(Failure::work)?;
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
