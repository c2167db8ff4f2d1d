//! A report of a run that never was, with all that a page can hold.

use std::fmt::Write;

use image::{Rgb, RgbImage};
use retinanet_boxes::{CategoryId, ImageId};
use retinanet_dataset_tools::{Bin, ClassStats, Coverage, CoverageReport, DatasetStats};
use retinanet_evaluation::{
    Analysis, Calibration, CalibrationBin, ClassAnalysis, ClassMetrics, CocoDetection, Confusion,
    ErrorPart, ErrorParts, ImageAnalysis, JudgedDetection, JudgedObject, Metrics, OperatingPoint,
};
use retinanet_report::{CumulativeLoss, FactGroup, GalleryImage, LossShares, Report, TrainingLog};

/// How many classes there are; the last one has no object.
pub(crate) const CLASSES: usize = 40;

/// How many images the gallery has.
pub(crate) const IMAGES: usize = 16;

/// Names that a page must show as they are.
pub(crate) const NASTY: [&str; 4] = [
    "</script><script>throw 1</script>",
    "<img src=x onerror=alert(1)>",
    "Ünïcödé \"quotes\" & 'more' <!--",
    "a name that is so long that no column of any table could ever hold it in one line",
];

const STEPS: u32 = 4_000;

pub(crate) fn report() -> Report {
    let metrics = metrics(STEPS);
    Report {
        title: "made-up <run> & co".into(),
        facts: facts(),
        config: "seed = 0\n\n[model]\nbackbone = \"resnet50\" # </pre>\n".repeat(12),
        log: log(),
        levels: ["P3", "P4", "P5", "P6", "P7"].map(str::to_owned).to_vec(),
        analysis: Some(analysis(metrics)),
        training_data: Some(dataset(1)),
        validation_data: Some(dataset(5)),
        coverage: Some(coverage()),
        loss_shares: Some(loss_shares()),
        gallery: (0..IMAGES).map(picture).collect(),
    }
}

/// Numbers in `[0, 1)` that look like chance and are the same every time.
pub(crate) fn noise(index: usize) -> f64 {
    let mixed = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

fn name(class: usize) -> String {
    let plain = || format!("class {class}");
    NASTY
        .get(class)
        .map_or_else(plain, |name| (*name).to_owned())
}

fn category(class: usize) -> CategoryId {
    CategoryId(2 * class as u64 + 1)
}

/// A data set with a share of the boxes.
fn dataset(share: usize) -> DatasetStats {
    let bins = |labels: [&'static str; 8], salt: usize| {
        let mut index = salt;
        labels.map(|label| {
            index += 1;
            let count = (4_000.0 * noise(index)) as usize / share;
            Bin { label, count }
        })
    };
    let class = |class: usize| ClassStats {
        name: name(class),
        boxes: (600.0 * noise(class)) as usize / share,
        images: (200.0 * noise(class)) as usize / share,
        share: noise(class) / 20.0,
        median_side: Some(100.0 * noise(class)),
    };
    DatasetStats {
        images: 12_345 / share,
        images_without_boxes: 67 / share,
        boxes: 12_000 / share,
        crowds: 10 / share,
        classes: (0..CLASSES).map(class).collect(),
        sides: bins(["8", "16", "32", "64", "128", "256", "512", "more"], 500),
        boxes_per_image: bins(["0", "1", "2", "3-5", "6-10", "11-20", "21-50", "51+"], 600),
        ..DatasetStats::default()
    }
}

fn facts() -> Vec<FactGroup> {
    let group = |title: &str, facts: &[(&str, &str)]| FactGroup {
        title: title.into(),
        facts: (facts.iter())
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
    };
    let data = [
        (
            "training images",
            "/data/sets/train/instances.json, 12 345 images",
        ),
        ("validation images", "val.json, 500 images"),
        ("seed", "0"),
    ];
    let machine = [
        ("device", "flex, 16 threads"),
        ("version", "0.1.0"),
        ("started", "2026-01-02 03:04:05 UTC"),
        ("took", "1 h 12 min"),
    ];
    vec![group("Data", &data), group("Machine", &machine)]
}

/// AP of a class after some steps, −1 for the one without objects.
fn class_ap(class: usize, step: u32) -> f64 {
    if class == CLASSES - 1 {
        return -1.0;
    }
    let learnt = 1.0 - (-f64::from(step) / 1_500.0).exp();
    (0.15 + 0.75 * noise(class)) * learnt
}

fn metrics(step: u32) -> Metrics {
    let per_class = (0..CLASSES).map(|class| ClassMetrics {
        category_id: category(class),
        name: name(class),
        ap: class_ap(class, step),
        ap50: (1.3 * class_ap(class, step)).clamp(-1.0, 1.0),
    });
    let with_objects = CLASSES - 1;
    let ap = (0..with_objects).map(|it| class_ap(it, step)).sum::<f64>() / with_objects as f64;
    Metrics {
        max_detections: 100,
        ap,
        ap50: 1.3 * ap,
        ap75: 0.9 * ap,
        ap_small: -1.0,
        ap_medium: 0.8 * ap,
        ap_large: 1.2 * ap,
        ar1: 0.5 * ap,
        ar10: 1.1 * ap,
        ar100: 1.2 * ap,
        ar_small: -1.0,
        ar_medium: ap,
        ar_large: 1.2 * ap,
        per_class: per_class.collect(),
    }
}

fn log() -> TrainingLog {
    let mut lines = String::new();
    for step in 1..=STEPS {
        step_line(&mut lines, step);
        if step.is_multiple_of(400) {
            let mut line = serde_json::to_value(metrics(step)).unwrap();
            line["kind"] = "evaluation".into();
            line["iteration"] = step.into();
            line["loss"] = (0.4 + 200.0 / f64::from(step)).into();
            writeln!(lines, "{line}").unwrap();
        }
    }
    lines.push_str("{\"kind\":\"step\",\"iter");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    fs_err::write(&path, lines).unwrap();
    TrainingLog::read(&path).unwrap()
}

fn step_line(lines: &mut String, step: u32) {
    let (index, at) = (step as usize, f64::from(step));
    let fall = (-at / 900.0).exp();
    let class = 0.2 + fall * (0.8 + 0.5 * noise(index));
    let bbox = 0.15 + fall * (0.5 + 0.3 * noise(index + 10_000));
    let spike = if step == 2_500 { 30.0 } else { 1.0 };
    let decay = if step > 3_000 { 0.1 } else { 1.0 };
    let mut line = serde_json::json!({
        "kind": "step",
        "iteration": step,
        "epoch": at / 800.0,
        "lr": 0.01 * (at / 500.0).min(1.0) * decay,
        "loss": spike * (class + bbox),
        "class_loss": spike * class,
        "box_loss": bbox,
        "gradient_norm": spike * (1.0 + 8.0 * fall * noise(index + 20_000)),
        "positives": 120 + (80.0 * noise(index + 30_000)) as u32,
        "images": 8,
        "seconds": 0.4 + 0.1 * noise(index + 40_000),
        "waited_seconds": 0.03 * noise(index + 50_000),
        "memory": 6_500_000_000_u64 + u64::from(step) * 10_000,
    });
    if step.is_multiple_of(20) {
        let shares = [0.4, 0.3, 0.15, 0.1, 0.05];
        line["levels"] = serde_json::json!(shares.map(|share| [share * class, share * bbox]));
    }
    if (1_200..1_204).contains(&step) {
        line["loss"] = serde_json::Value::Null;
        line["gradient_norm"] = serde_json::Value::Null;
    }
    writeln!(lines, "{line}").unwrap();
}

fn analysis(metrics: Metrics) -> Analysis {
    let point = |percent: u32| {
        let score = f64::from(percent) / 100.0;
        let (precision, recall) = (0.3 + 0.7 * score, 1.0 - score * score);
        OperatingPoint {
            score,
            precision,
            recall,
            f1: 2.0 * precision * recall / (precision + recall),
        }
    };
    Analysis {
        best: Some(point(43)),
        by_score: (0..=97).map(point).collect(),
        classes: (0..CLASSES).map(class_analysis).collect(),
        confusion: confusion(),
        errors: ErrorParts {
            classification: part(0.061, 412),
            localization: part(0.093, 950),
            both: part(0.004, 77),
            duplicate: part(0.0, 1),
            background: part(0.035, 1_204),
            missed: part(0.071, 389),
            false_positives: 0.174,
            false_negatives: 0.121,
        },
        calibration: Some(calibration()),
        images: (0..IMAGES).map(|image| picture(image).analysis).collect(),
        score: 0.3,
        metrics,
    }
}

const fn part(ap: f64, count: u64) -> ErrorPart {
    ErrorPart { ap, count }
}

fn class_analysis(class: usize) -> ClassAnalysis {
    let ap = class_ap(class, STEPS);
    let has_objects = ap >= 0.0;
    let reach = (0.4 + ap).min(1.0);
    let precision = |recall: f64| {
        if recall > reach {
            0.0
        } else {
            1.0 - (1.0 - ap) * (recall / reach).powi(3)
        }
    };
    let recalls = (0..if has_objects { 101 } else { 0 }).map(|it| f64::from(it) / 100.0);
    let best = OperatingPoint {
        score: 0.2 + 0.5 * noise(class + 100),
        precision: precision(0.7 * reach),
        recall: 0.7 * reach,
        f1: 2.0 / (1.0 / precision(0.7 * reach) + 1.0 / (0.7 * reach)),
    };
    ClassAnalysis {
        category_id: category(class),
        name: name(class),
        objects: if has_objects {
            1 + (3_000.0 * noise(class + 200)) as usize
        } else {
            0
        },
        detections: 1 + (20_000.0 * noise(class + 300)) as usize,
        ap,
        ap50: (1.3 * ap).clamp(-1.0, 1.0),
        ap75: if has_objects { 0.9 * ap } else { -1.0 },
        ap_small: -1.0,
        ap_medium: if has_objects { 0.8 * ap } else { -1.0 },
        ap_large: if has_objects { 1.1 * ap } else { -1.0 },
        ar100: if has_objects { reach } else { -1.0 },
        precision: recalls.clone().map(precision).collect(),
        scores: recalls
            .map(|recall| (1.0 - recall / reach).max(0.0))
            .collect(),
        best: has_objects.then_some(best),
    }
}

/// Some neighbours are taken for each other; the last ten classes for none.
fn confusion() -> Confusion {
    let mut counts = vec![vec![0_u64; CLASSES + 1]; CLASSES + 1];
    for object in 0..CLASSES - 1 {
        counts[object][object] = 10 + (400.0 * noise(object)) as u64;
        counts[object][CLASSES] = (90.0 * noise(object + 7)) as u64;
        counts[CLASSES][object] = (60.0 * noise(object + 11)) as u64;
        if object < CLASSES - 10 {
            counts[object][(object + 1) % (CLASSES - 10)] = (70.0 * noise(object + 13)) as u64 + 1;
            counts[object][(7 * object + 3) % (CLASSES - 10)] += (9.0 * noise(object + 17)) as u64;
        }
    }
    Confusion {
        names: (0..CLASSES).map(name).collect(),
        counts,
    }
}

fn calibration() -> Calibration {
    let bin = |index: usize| {
        let (from, to) = (index as f64 / 10.0, (index + 1) as f64 / 10.0);
        let is_empty = index == 8;
        CalibrationBin {
            from,
            to,
            detections: if is_empty { 0 } else { 8_000 >> index },
            score: if is_empty { 0.0 } else { from + 0.05 },
            precision: if is_empty {
                0.0
            } else {
                (from + 0.05).powf(1.3)
            },
        }
    };
    Calibration {
        error: 0.052,
        worst: 0.117,
        bins: (0..10).map(bin).collect(),
    }
}

fn coverage() -> CoverageReport {
    let row = |name: String, boxes: usize, share: f64| {
        let count = |share: f64| (boxes as f64 * share) as usize;
        let coverage = Coverage {
            boxes,
            matched: boxes,
            foreground: count(share),
            background: count((share + 0.1).min(1.0)),
            iou_sum: boxes as f64 * (0.3 + 0.5 * share),
            positives: count(9.0 * share),
            low_quality: count(0.4 * (1.0 - share)),
            missed: count(0.1 * (1.0 - share)),
        };
        (name, coverage)
    };
    let sizes = [
        ("small", 4_000, 0.72),
        ("medium", 5_000, 0.94),
        ("large", 3_000, 0.99),
    ];
    let levels = [
        "stride 8",
        "stride 16",
        "stride 32",
        "stride 64",
        "stride 128",
    ];
    CoverageReport {
        needs_fitting_anchors: true,
        foreground: 0.5,
        background: 0.4,
        all: row(String::new(), 12_000, 0.88).1,
        by_class: (0..CLASSES)
            .map(|class| row(name(class), 300, 0.6 + 0.4 * noise(class)))
            .collect(),
        by_size: (sizes.into_iter())
            .map(|(name, boxes, share)| row(name.into(), boxes, share))
            .collect(),
        by_level: (levels.into_iter().zip(1..))
            .map(|(name, level)| row(name.into(), 4_800 / level, 0.8 + 0.03 * level as f64))
            .collect(),
        histogram: [2, 10, 80, 400, 948, 1_900, 3_100, 3_200, 1_800, 560],
    }
}

/// The cumulative sum of losses from the smallest, at every hundredth of them.
fn cumulative(mut losses: Vec<f32>) -> Vec<(f32, f32)> {
    losses.sort_by(f32::total_cmp);
    let total: f32 = losses.iter().sum();
    let point = |step: usize| {
        let sum: f32 = losses[..step * losses.len() / 100].iter().sum();
        (step as f32 / 100.0, sum / total)
    };
    (0..=100).map(point).collect()
}

fn loss_shares() -> LossShares {
    let curve = |gamma: f64| {
        let loss = |hardness: f64| (hardness.powf(gamma) * -(1.0 - 0.999 * hardness).ln()) as f32;
        let positives = (0..2_000).map(|it| loss(0.05 + 0.9 * noise(it)));
        let negatives = (0..50_000).map(|it| loss(noise(it).powi(6)));
        CumulativeLoss {
            gamma,
            positives: cumulative(positives.collect()),
            negatives: cumulative(negatives.collect()),
        }
    };
    LossShares {
        positives: 0.624,
        negatives: 0.376,
        curves: [0.0, 0.5, 1.0, 2.0].map(curve).to_vec(),
    }
}

/// An image with objects in a row, some of them found, and some detections of nothing.
fn picture(index: usize) -> GalleryImage {
    let (width, height) = if index.is_multiple_of(3) {
        (960, 1_280)
    } else {
        (1_280, 800)
    };
    let objects: Vec<_> = (0..=index % 6).map(|it| object(index, it)).collect();
    let found = objects.iter().filter_map(|object| {
        Some(detection(
            index,
            object.category_id,
            object.bbox,
            object.found?,
            true,
        ))
    });
    let wrong = (0..index % 5).map(|it| {
        let bbox = [90.0 * it as f64, 500.0, 150.0, 120.0];
        let score = 0.05 + 0.8 * noise(100 * index + it);
        detection(index, category((index + it) % CLASSES), bbox, score, false)
    });
    let mut detections: Vec<_> = found.chain(wrong).collect();
    detections.sort_by(|a, b| b.detection.score.total_cmp(&a.detection.score));
    let count = |right: bool| {
        let shown = |it: &&JudgedDetection| it.right == right && it.detection.score >= 0.3;
        detections.iter().filter(shown).count()
    };
    let (right, wrong) = (count(true), count(false));
    let missed = objects.len() - right;
    let analysis = ImageAnalysis {
        image_id: ImageId(index as u64),
        file_name: format!("folder/<b>image</b>-{index}.jpg"),
        right,
        wrong,
        missed,
        f1: 2.0 * right as f64 / (2 * right + wrong + missed) as f64,
        detections,
        objects,
    };
    GalleryImage::new(&scene(width, height, &analysis), analysis).unwrap()
}

fn object(image: usize, index: usize) -> JudgedObject {
    let score = noise(50 * image + index);
    let (x, y) = (
        30.0 + 150.0 * index as f64,
        60.0 + 200.0 * noise(image + index),
    );
    JudgedObject {
        category_id: category((3 * image + index) % (CLASSES - 1)),
        bbox: [x, y, 120.0, 90.0 + 150.0 * noise(index)],
        found: (score > 0.25).then_some(score),
    }
}

fn detection(
    image: usize,
    category_id: CategoryId,
    [x, y, width, height]: [f64; 4],
    score: f64,
    right: bool,
) -> JudgedDetection {
    JudgedDetection {
        detection: CocoDetection {
            image_id: ImageId(image as u64),
            category_id,
            bbox: [x + 5.0, y - 8.0, width, height + 6.0],
            score,
        },
        right,
    }
}

/// A sky with a block for each object.
fn scene(width: u32, height: u32, analysis: &ImageAnalysis) -> RgbImage {
    let mut image = RgbImage::from_fn(width, height, |x, y| {
        let (across, down) = (x * 80 / width, y * 120 / height);
        Rgb([90 + across as u8, 130 + across as u8, 220 - down as u8])
    });
    for (index, object) in analysis.objects.iter().enumerate() {
        let [x, y, width, height] = object.bbox.map(|edge| edge as u32);
        let shade = (60 + 35 * index) as u8;
        for (x, y) in (y..y + height).flat_map(|y| (x..x + width).map(move |x| (x, y))) {
            image.put_pixel(x, y, Rgb([shade, 255 - shade, 90]));
        }
    }
    image
}
