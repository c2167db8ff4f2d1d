use std::path::Path;

use anyhow::anyhow;
use burn::tensor::Device;
use retinanet_boxes::{CategoryId, Class, ClassList};
use retinanet_data::{CocoDataset, LabelIds, ReadOptions};
use retinanet_detector::{
    coco_classes, count_classes, load_pretrained, load_weights, save_backbone, save_weights,
    BackboneExport, Names, WeightFormat,
};
use retinanet_experiment::{load_config, ExperimentConfig};

use crate::args::ImportArguments;
use crate::console;
use crate::failure::Failure;
use crate::outputs::{given, refuse_overlaps};

/// COCO's categories, without gaps in their ids and with them.
const COCO: usize = 80;
const COCO_WITH_GAPS: usize = 91;

pub(crate) fn run(arguments: &ImportArguments) -> Result<(), Failure> {
    let read = [
        given("WEIGHTS", Some(&arguments.weights)),
        given("--config", Some(&arguments.config)),
        given("--annotations", arguments.annotations.as_ref()),
    ];
    refuse_overlaps(
        read.into_iter().flatten(),
        given("--out", Some(&arguments.out)),
    )?;
    let config = load_config(&arguments.config, &arguments.settings.set)?;
    let anchors = config.model.anchor_generator()?.anchors_per_cell();
    let (weights, out) = (&arguments.weights, &arguments.out);
    let device = Device::flex();
    let Some(count) = count_classes(weights, anchors).map_err(Failure::work)? else {
        return import_backbone(arguments, &config);
    };

    let classes = match &arguments.annotations {
        Some(annotations) => named_classes(annotations, config.data.labels, count)?,
        None => known_classes(count)?,
    };
    let mut model = config.model.init(count, 0, &device)?;
    let loaded = load_weights(&mut model, weights).map_err(Failure::work)?;
    save_weights(
        &model,
        &classes,
        out,
        WeightFormat::Safetensors,
        Names::Native,
    )
    .map_err(Failure::work)?;
    console::result(&format!(
        "read {}: {loaded}\nwrote a detector of {count} classes to {}\nnext:\n  retinanet predict \
         --weights {} --config {} IMAGE_OR_FOLDER",
        weights.display(),
        out.display(),
        console::one_word(out),
        console::one_word(&arguments.config)
    ));
    if count == COCO_WITH_GAPS && config.data.labels == LabelIds::Contiguous {
        console::result(
            "note: 91 classes are category ids; to evaluate, set data.labels = \"category_id\", as \
             preset = \"torchvision\" does",
        );
    }
    Ok(())
}

/// Imports a backbone alone: the detector around it does not matter.
fn import_backbone(arguments: &ImportArguments, config: &ExperimentConfig) -> Result<(), Failure> {
    let (weights, out) = (&arguments.weights, &arguments.out);
    let mut model = config.model.init(1, 0, &Device::flex())?;
    let loaded = load_pretrained(&mut model, weights).map_err(Failure::work)?;
    let (format, whole) = (WeightFormat::Safetensors, BackboneExport::default());
    save_backbone(&model, out, format, whole).map_err(Failure::work)?;
    console::result(&format!(
        "read {}: {loaded}\nwrote the backbone to {}\nnext:\n  retinanet train {} --set \
         model.pretrained={}",
        weights.display(),
        out.display(),
        console::one_word(&arguments.config),
        console::one_word(out)
    ));
    Ok(())
}

/// The classes that an annotation file names.
fn named_classes(path: &Path, labels: LabelIds, count: usize) -> Result<ClassList, Failure> {
    let options = ReadOptions {
        labels,
        ..ReadOptions::default()
    };
    let dataset = CocoDataset::read_with(path, Path::new(""), options).map_err(Failure::work)?;
    if dataset.classes.len() == count {
        return Ok(dataset.classes);
    }
    Err(Failure::work(anyhow!(
        "the weights tell {count} classes apart, and `{}` names {} (data.labels is {labels:?})",
        path.display(),
        dataset.classes.len()
    )))
}

/// COCO's classes where the number is COCO's; else numbers for names.
fn known_classes(count: usize) -> Result<ClassList, Failure> {
    let classes = match count {
        COCO => ClassList::new(coco_classes()),
        COCO_WITH_GAPS => ClassList::by_category_id(coco_classes()),
        _ => ClassList::new(
            (0..count)
                .map(|index| Class::new(CategoryId(index as u64), format!("class {index}")))
                .collect(),
        ),
    };
    classes.map_err(Failure::work)
}
