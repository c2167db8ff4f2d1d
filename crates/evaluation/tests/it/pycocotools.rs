//! Agreement with pycocotools 2.0.11 on its own demo and two other public fixtures.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use retinanet_boxes::CategoryId;
use retinanet_evaluation::{CocoDetection, EvaluationError, Evaluator};
use serde::Deserialize;

const TOLERANCE: f64 = 1e-6;

/// One entry of the fixtures' `expected.json`.
#[derive(Deserialize)]
struct Expected {
    gt: String,
    dt: String,
    iou_type: String,
    #[serde(rename = "pycocotools_2.0.11")]
    metrics: BTreeMap<String, f64>,
    #[serde(rename = "per_class_AP")]
    per_class: BTreeMap<u64, Option<f64>>,
}

/// The folder of the fixtures, or nothing if it is not there.
fn fixtures() -> Option<PathBuf> {
    let shared = std::env::var_os("RETINANET_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let folder = shared.join("data/coco_eval");
    if folder.join("expected.json").exists() {
        return Some(folder);
    }
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    {
        eprintln!("skipped: no fixtures in {}", folder.display());
    }
    None
}

fn expected(folder: &Path) -> Result<BTreeMap<String, Expected>, Box<dyn Error>> {
    let bytes = fs_err::read(folder.join("expected.json"))?;
    let mut pairs: BTreeMap<String, Expected> = serde_json::from_slice(&bytes)?;
    pairs.retain(|_, pair| pair.iou_type == "bbox");
    Ok(pairs)
}

fn evaluator(folder: &Path, pair: &Expected) -> Result<Evaluator, EvaluationError> {
    Evaluator::from_file(&folder.join(&pair.gt))
}

fn detections(folder: &Path, pair: &Expected) -> Result<Vec<CocoDetection>, EvaluationError> {
    evaluator(folder, pair)?.read_detections(&folder.join(&pair.dt))
}

#[test]
fn the_twelve_numbers_agree() -> Result<(), Box<dyn Error>> {
    let Some(folder) = fixtures() else {
        return Ok(());
    };
    let pairs = expected(&folder)?;
    assert!(pairs.len() >= 3, "{:?}", pairs.keys());
    for (name, pair) in &pairs {
        assert_eq!(pair.metrics.len(), 12);
        let metrics = evaluator(&folder, pair)?.evaluate(&detections(&folder, pair)?)?;
        let found = serde_json::to_value(metrics)?;
        for (key, expected) in &pair.metrics {
            let found = found[key].as_f64().ok_or("no number")?;
            assert!(
                (found - expected).abs() < TOLERANCE,
                "{name}: {key} is {found} instead of {expected}"
            );
        }
    }
    Ok(())
}

#[test]
fn ap_of_every_class_agrees() -> Result<(), Box<dyn Error>> {
    let Some(folder) = fixtures() else {
        return Ok(());
    };
    for (name, pair) in &expected(&folder)? {
        let analysis = evaluator(&folder, pair)?.analyse(&detections(&folder, pair)?, 0.5)?;
        assert_eq!(analysis.classes.len(), pair.per_class.len(), "{name}");
        for (class, metrics) in analysis.classes.iter().zip(&analysis.metrics.per_class) {
            assert_eq!((class.ap, class.ap50), (metrics.ap, metrics.ap50));
            let CategoryId(category) = class.category_id;
            let expected = pair.per_class[&category].unwrap_or(-1.0);
            assert!(
                (class.ap - expected).abs() < TOLERANCE,
                "{name}: AP of {} is {} instead of {expected}",
                class.name,
                class.ap
            );
        }
    }
    Ok(())
}
