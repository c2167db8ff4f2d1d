use std::path::Path;

use anyhow::Context;
use image::imageops::{resize, FilterType};
use image::RgbImage;
use rayon::prelude::*;
use retinanet_anchors::{optimize as search, AnchorGenerator, Assigner};
use retinanet_boxes::BoundingBox;
use retinanet_data::{CocoDataset, ImageRecord, Transform};
use retinanet_dataset_tools::{cover_image, CoverageReport, Covered, Depth};
use retinanet_experiment::{load_config, require_data, ExperimentConfig};
use retinanet_images::{decode_image, draw_box, draw_faint_box};
use retinanet_recipe::anchor_targets;

use crate::args::{AnchorsDataArguments, AnchorsReportArguments, AnchorsViewArguments, Split};
use crate::console;
use crate::failure::Failure;
use crate::outputs::{given, refuse_overlaps};

/// Colours of positive anchors, of boxes that have some, and of boxes that have none.
const POSITIVE: [u8; 3] = [40, 220, 60];
const MATCHED: [u8; 3] = [250, 250, 250];
const MISSED: [u8; 3] = [240, 30, 30];

/// A config's boxes and anchors.
struct Scene {
    config: ExperimentConfig,
    dataset: CocoDataset,
    transform: Transform,
    generator: AnchorGenerator,
    assigner: Assigner,
}

impl Scene {
    fn new(arguments: &AnchorsDataArguments) -> Result<Self, Failure> {
        let config = load_config(&arguments.config, &arguments.settings.set)?;
        require_data(&config.data, &[arguments.split.into()])?;
        let dataset = match arguments.split {
            Split::Train => config.data.read_train(),
            Split::Val => config.data.read_to_evaluate(&config.data.val),
        };
        Ok(Self {
            dataset: dataset?,
            transform: config.data.transform()?,
            generator: config.anchor_generator()?,
            assigner: *config.target_assigner()?.assigner(),
            config,
        })
    }
}

pub(crate) fn report(arguments: &AnchorsReportArguments) -> Result<(), Failure> {
    refuse_overlaps(
        given("CONFIG", Some(&arguments.data.config)),
        given("--json", arguments.json.as_ref()),
    )?;
    let scene = Scene::new(&arguments.data)?;
    let report = CoverageReport::new(
        &scene.dataset,
        &scene.transform,
        &scene.generator,
        &scene.assigner,
        Depth::Match,
    );
    console::result(report.to_string().trim_end());
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)
            .context("cannot write the numbers")
            .map_err(Failure::work)?;
        super::write_over(path, text.as_bytes())?;
    }
    Ok(())
}

pub(crate) fn optimize(arguments: &AnchorsDataArguments) -> Result<(), Failure> {
    let scene = Scene::new(arguments)?;
    if !scene.assigner.needs_fitting_anchors() {
        console::note(
            "with this assigner (`criterion.assigner.kind`) anchors need not fit the boxes: one square anchor a cell does",
        );
    }
    let targets = anchor_targets(&scene.config, &scene.dataset)?;
    let proposal = search(
        &scene.config.model.anchors,
        scene.generator.strides(),
        &targets,
        scene.assigner.foreground(),
    )
    .map_err(Failure::usage)?;
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    console::result(&format!(
        "# of {} boxes, IoU {} or more: {} now, {} with\n# mean of the best IoU: {:.3} now, {:.3} with\n\
         [model.anchors]\nsizes = {:?}\naspect_ratios = {:?}",
        targets.len(),
        scene.assigner.foreground(),
        percent(proposal.before.reached),
        percent(proposal.after.reached),
        proposal.before.mean_iou,
        proposal.after.mean_iou,
        proposal.config.sizes,
        proposal.config.aspect_ratios,
    ));
    Ok(())
}

pub(crate) fn view(arguments: &AnchorsViewArguments) -> Result<(), Failure> {
    let scene = Scene::new(&arguments.data)?;
    let images = &scene.dataset.images;
    let places = super::spread(arguments.images, images.len());
    let chosen: Vec<&ImageRecord> = places.map(|place| &images[place]).collect();
    let missed: Vec<usize> = chosen
        .par_iter()
        .map(|image| draw(&scene, image, &arguments.out))
        .collect::<Result<_, _>>()?;
    console::result(&format!(
        "drew {} images into {}: positive anchors green, boxes white, {} boxes without any anchor red",
        chosen.len(),
        arguments.out.display(),
        missed.iter().sum::<usize>()
    ));
    Ok(())
}

/// Draws an image as the network sees it; tells how many boxes have no anchor.
fn draw(scene: &Scene, record: &ImageRecord, out: &Path) -> Result<usize, Failure> {
    let covered = cover_image(
        record,
        &scene.transform,
        &scene.generator,
        &scene.assigner,
        Depth::Match,
    );
    let mut image = network_input(scene, record)?;
    for anchor in positives(scene, &covered) {
        draw_faint_box(&mut image, &anchor, POSITIVE);
    }
    for covered in &covered {
        let is_missed = covered.positives == 0;
        draw_box(
            &mut image,
            &covered.bbox,
            if is_missed { MISSED } else { MATCHED },
        );
    }
    let mut path = out.join(super::below(&record.file_name)).into_os_string();
    path.push(".png");
    super::write_png(Path::new(&path), &image)?;
    Ok(covered
        .iter()
        .filter(|covered| covered.positives == 0)
        .count())
}

fn network_input(scene: &Scene, record: &ImageRecord) -> Result<RgbImage, Failure> {
    let image = decode_image(&record.path, scene.dataset.decoding)?;
    let (width, height) = (scene.transform.preparation()).resized_size(image.dimensions());
    Ok(resize(&image, width, height, FilterType::Triangle))
}

/// The anchors that are objects for the boxes of one image.
fn positives(scene: &Scene, covered: &[Covered]) -> Vec<BoundingBox> {
    let Some(first) = covered.first() else {
        return Vec::new();
    };
    let [height, width] = first.input;
    let anchors = scene.generator.generate(height, width);
    let boxes: Vec<_> = covered.iter().map(|covered| covered.bbox).collect();
    let assignments = scene.assigner.assign(&anchors, &boxes);
    let pairs = anchors.into_boxes().into_iter().zip(assignments);
    let positive = |(anchor, assignment)| {
        matches!(assignment, retinanet_anchors::Assignment::Object(_)).then_some(anchor)
    };
    pairs.filter_map(positive).collect()
}
