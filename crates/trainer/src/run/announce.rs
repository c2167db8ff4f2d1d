//! What a run says when it begins.

use retinanet_boxes::{ClassList, one_line};
use retinanet_dataset_tools::{Coverage, CoverageReport, Depth};
use retinanet_detector::{LoadedWeights, RetinaNet};
use retinanet_experiment::{ExperimentConfig, Observer};

use crate::planning::plan::Plan;
use crate::run::data_changes::class_differences;
use crate::run::run_directory::{RunDirectory, RunDirectoryError};

/// What a person wants to know before leaving the run alone. Gives what the anchors reach.
pub(crate) fn tell_start(
    plan: &Plan,
    run: &RunDirectory,
    model: &RetinaNet,
    pretrained: Option<&LoadedWeights>,
    observer: &mut dyn Observer,
) -> Result<CoverageReport, RunDirectoryError> {
    let ExperimentConfig { model: config, .. } = &plan.config;
    let classes: Vec<_> = plan
        .train
        .classes
        .iter()
        .map(|(_, class)| one_line(&class.name))
        .collect();
    let lines = [
        format!("run        {}", run.root().display()),
        format!(
            "data       {} images to train on, {} to evaluate on",
            plan.train.images.len(),
            plan.val.images.len()
        ),
        format!("classes    {}: {}", classes.len(), classes.join(", ")),
        format!(
            "model      {:?}, {:.2} M parameters",
            config.backbone,
            model.count_parameters() as f64 / 1e6
        ),
    ];
    for line in &lines {
        tell(run, observer, line)?;
    }
    tell_schedule(plan, run, observer)?;
    let coverage = tell_coverage(plan, run, observer)?;
    if let (Some(loaded), Some(file)) = (pretrained, &config.pretrained) {
        tell(run, observer, &format!("weights    {file}: {loaded}"))?;
        if let Some(differences) = other_classes(loaded, &plan.train.classes) {
            tell(
                run,
                observer,
                &format!(
                    "warning: the class output of {file} is taken over, and was learnt for other classes: \
                     {differences}"
                ),
            )?;
        }
    } else if config.norm.is_fixed() || config.freeze_at.get() > 0 {
        tell(
            run,
            observer,
            "warning: the weights are initialised at random, and `model.norm` or `model.freeze_at` keeps \
             some of them from learning; from scratch use norm = \"batch_norm\" or \
             \"group_norm\", and freeze_at = 0",
        )?;
    }
    Ok(coverage)
}

/// In what the classes of the weights to start from differ from the data's, if they do.
fn other_classes(loaded: &LoadedWeights, classes: &ClassList) -> Option<String> {
    let learnt = loaded.classes.as_ref()?;
    Some(class_differences(learnt, classes)).filter(|differences| !differences.is_empty())
}

/// Tells how many steps there are and how the learning rate goes.
pub(crate) fn tell_schedule(
    plan: &Plan,
    run: &RunDirectory,
    observer: &mut dyn Observer,
) -> Result<(), RunDirectoryError> {
    let ExperimentConfig {
        optimizer, train, ..
    } = &plan.config;
    let batch_size = train.batch_size.images();
    let scaled = if batch_size == optimizer.reference_batch.as_usize() {
        String::new()
    } else {
        format!(
            " ({} for {} images a batch, here {})",
            optimizer.lr, optimizer.reference_batch, batch_size
        )
    };
    let line = format!(
        "schedule   {} steps, learning rate {}{scaled}, {}",
        plan.iterations,
        plan.schedule.base,
        plan.schedule.describe()
    );
    tell(run, observer, &line)?;
    // Both are counted in epochs or in steps, as the length of training is, which is easily overlooked.
    let every = |steps: u64| {
        if steps >= plan.iterations {
            "at the end".to_owned()
        } else {
            format!("every {steps} steps")
        }
    };
    let line = format!(
        "evaluation {}, checkpoint {}",
        every(plan.eval_every),
        every(plan.checkpoint_every)
    );
    tell(run, observer, &line)
}

/// What the anchors reach of the training boxes. Of many images they are measured only: matching
/// every box takes milliseconds an image.
pub(crate) fn coverage(plan: &Plan) -> CoverageReport {
    const MATCHED_IMAGES: usize = 1_000;
    let depth = if plan.train.images.len() <= MATCHED_IMAGES {
        Depth::Match
    } else {
        Depth::Reach
    };
    CoverageReport::new(
        &plan.train,
        &plan.transform,
        &plan.generator,
        plan.assigner.assigner(),
        depth,
    )
}

/// How many boxes find anchors where each has a threshold of its own.
fn learnt(coverage: &Coverage) -> String {
    let boxes = coverage.boxes;
    let matched = coverage.share_of_learnt().map(|share| {
        format!(
            "; {:.1} % of {boxes} boxes have one at least",
            100.0 * share
        )
    });
    format!(
        "anchors    around the boxes' centres{}",
        matched.unwrap_or_default()
    )
}

/// Tells how many boxes the anchors reach, and warns where that is too few.
fn tell_coverage(
    plan: &Plan,
    run: &RunDirectory,
    observer: &mut dyn Observer,
) -> Result<CoverageReport, RunDirectoryError> {
    const FEW: f64 = 0.95;
    let report = coverage(plan);
    if !report.needs_fitting_anchors {
        tell(run, observer, &learnt(&report.all))?;
        if report.all.share_of_learnt().is_some_and(|it| it < FEW) {
            tell(
                run,
                observer,
                "warning: more than 5 % of the boxes have no anchor's centre inside, and are not learnt; larger inputs \
                 (`data.short_side`) or `model.finest_level = \"p2\"` reach smaller objects",
            )?;
        }
        return Ok(report);
    }
    let reached = report.all.share_of_foreground();
    let line = format!(
        "anchors    reach {:.1} % of {} boxes with IoU {}, {:.1} % with {}; best IoU {:.2} on average",
        100.0 * reached,
        report.all.boxes,
        report.foreground,
        100.0 * report.all.share_of_background(),
        report.background,
        report.all.mean_iou(),
    );
    tell(run, observer, &line)?;
    if reached < FEW {
        tell(
            run,
            observer,
            "warning: more than 5 % of the boxes are out of the anchors' reach, and are learnt from \
             low-quality matches at best; `retinanet anchors report` shows which, `retinanet \
             anchors optimize` proposes anchors that fit",
        )?;
    }
    Ok(report)
}

/// Tells the person who watches, and the run's log.
pub(crate) fn tell(
    run: &RunDirectory,
    observer: &mut dyn Observer,
    text: &str,
) -> Result<(), RunDirectoryError> {
    observer.message(text);
    run.log(text)
}
