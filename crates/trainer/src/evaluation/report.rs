//! Fills a run's `report.html` from what training and evaluation know.

use retinanet_boxes::ImageId;
use retinanet_criterion::{LossCurves, LossShares};
use retinanet_data::{CocoDataset, in_full};
use retinanet_dataset_tools::{CoverageReport, DatasetStats};
use retinanet_evaluation::{Analysis, CocoDetection};
use retinanet_experiment::config_to_toml;
use retinanet_report::{CumulativeLoss, FactGroup, GalleryImage, Report, TrainingLog};

use crate::planning::plan::Plan;
use crate::run::announce::coverage;
use crate::run::run_directory::RunDirectory;

/// How many of the worst images are shown.
const GALLERY: usize = 24;

/// Burn's version, as the workspace pins it.
const BURN: &str = "0.22.1";

/// Writes the report of one run, as often as it is evaluated.
pub(crate) struct Reporter {
    /// What anchors reach of the training boxes; like the data, the same all along.
    coverage: CoverageReport,
    training_data: DatasetStats,
    validation_data: DatasetStats,
}

/// What an evaluation gave.
pub(crate) struct Findings {
    /// After how many steps.
    pub(crate) iteration: u64,
    pub(crate) detections: Vec<CocoDetection>,
    pub(crate) analysis: Analysis,
    pub(crate) shares: LossShares,
}

impl Reporter {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self::with_coverage(plan, coverage(plan))
    }

    pub(crate) fn with_coverage(plan: &Plan, coverage: CoverageReport) -> Self {
        Self {
            coverage,
            training_data: DatasetStats::of(&plan.train),
            validation_data: DatasetStats::of(&plan.val),
        }
    }

    /// Writes `report.html`, and what it shows into `eval/` for other programs. Gives what the run should do next.
    ///
    /// # Errors
    ///
    /// Returns what went wrong, in words: nobody should lose a run for its report.
    pub(crate) fn write(
        &self,
        plan: &Plan,
        run: &RunDirectory,
        findings: &Findings,
    ) -> Result<Vec<String>, String> {
        let written = run
            .write_compact("eval/detections.json", &findings.detections)
            .and_then(|()| run.write_compact("eval/analysis.json", &findings.analysis))
            .and_then(|()| run.write_compact("eval/loss_shares.json", &findings.shares));
        written.map_err(|error| in_full(&error))?;
        let log = TrainingLog::read(&run.root().join("metrics.jsonl"));
        let log = log.map_err(|error| in_full(&error))?;
        let gallery = gallery(&findings.analysis, &plan.val)?;
        let config = config_to_toml(&plan.config).map_err(|error| in_full(&error))?;
        let name = run.root().file_name().unwrap_or_default();
        let report = Report {
            title: name.to_string_lossy().into_owned(),
            facts: facts(plan, run, findings.iteration, log.seconds),
            config,
            levels: levels(plan.generator.strides()),
            log,
            analysis: Some(findings.analysis.clone()),
            training_data: Some(self.training_data.clone()),
            validation_data: Some(self.validation_data.clone()),
            coverage: Some(self.coverage.clone()),
            loss_shares: Some(shown_shares(&findings.shares)),
            gallery,
        };
        let path = run.root().join("report.html");
        report.write(&path).map_err(|error| in_full(&error))?;
        Ok(report.advice())
    }
}

fn facts(plan: &Plan, run: &RunDirectory, iteration: u64, seconds: f64) -> Vec<FactGroup> {
    let group = |title: &str, facts: Vec<(&str, String)>| FactGroup {
        title: title.into(),
        facts: (facts.into_iter())
            .map(|(name, value)| (name.into(), value))
            .collect(),
    };
    let described = |dataset: &CocoDataset| {
        let file = dataset.annotations.display();
        format!("{} images, {file}", dataset.images.len())
    };
    let threads = rayon::current_num_threads();
    let run_facts = vec![
        ("directory", run.root().display().to_string()),
        ("steps", format!("{} of {}", iteration, plan.iterations)),
        ("time in steps", in_hours(seconds)),
        ("seed", plan.config.seed.to_string()),
    ];
    let data_facts = vec![
        ("training", described(&plan.train)),
        ("validation", described(&plan.val)),
        ("classes", plan.train.classes.len().to_string()),
    ];
    let machine_facts = vec![
        ("device", plan.config.compute.device.clone()),
        ("CPU threads", threads.to_string()),
        (
            "system",
            format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH),
        ),
        ("retinanet", env!("CARGO_PKG_VERSION").into()),
        ("Burn", BURN.into()),
    ];
    vec![
        group("Run", run_facts),
        group("Data", data_facts),
        group("Machine and versions", machine_facts),
    ]
}

/// The worst images of an analysis, with what was found on them; read one after another, since they
/// may be large.
fn gallery(analysis: &Analysis, dataset: &CocoDataset) -> Result<Vec<GalleryImage>, String> {
    let record = |id: ImageId| dataset.images.iter().find(|record| record.id == id);
    let worst = analysis.images.iter().take(GALLERY);
    let shown = worst.filter_map(|image| Some((image, record(image.image_id)?)));
    shown
        .map(|(image, record)| {
            let pixels = record
                .decode(dataset.decoding)
                .map_err(|error| in_full(&error))?;
            GalleryImage::new(&pixels, image.clone()).map_err(|error| in_full(&error))
        })
        .collect()
}

fn levels(strides: &[usize]) -> Vec<String> {
    let name = |stride: &usize| format!("P{}", stride.ilog2());
    strides.iter().map(name).collect()
}

fn shown_shares(shares: &LossShares) -> retinanet_report::LossShares {
    let points = |curve: &[[f64; 2]]| {
        let point = |[x, y]: &[f64; 2]| (*x as f32, *y as f32);
        curve.iter().map(point).collect()
    };
    let curves = |curves: &LossCurves| CumulativeLoss {
        gamma: curves.gamma,
        positives: points(&curves.positives),
        negatives: points(&curves.negatives),
    };
    retinanet_report::LossShares {
        positives: shares.positive_share,
        negatives: if shares.negatives + shares.positives == 0 {
            0.0
        } else {
            1.0 - shares.positive_share
        },
        curves: shares.curves.iter().map(curves).collect(),
    }
}

fn in_hours(seconds: f64) -> String {
    let minutes = (seconds / 60.0) as u64;
    format!(
        "{} h {:02} min {:02} s",
        minutes / 60,
        minutes % 60,
        seconds as u64 % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_burn_is_the_one_that_is_built() {
        let lock = include_str!("../../../../Cargo.lock");
        let entry = format!("name = \"burn\"\nversion = \"{BURN}\"\n");
        assert!(lock.contains(&entry));
    }

    #[test]
    fn time_is_told_in_hours() {
        assert_eq!(in_hours(3_725.9), "1 h 02 min 05 s");
    }
}
