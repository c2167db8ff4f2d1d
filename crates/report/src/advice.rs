//! What a run should do next, by what its curves and its data say.

use retinanet_dataset_tools::Coverage;

use crate::{EvaluationPoint, Report, TrainingLog};

/// A difference of AP that is more than noise between neighbouring evaluations.
const NOTABLE_AP: f64 = 0.005;

/// A rise of the validation loss over its least value that is more than noise.
const NOTABLE_LOSS: f64 = 1.02;

/// The share of a step that may be spent waiting for images.
const MOST_WAITING: f64 = 0.25;

/// The share of boxes that anchors should reach.
const LEAST_COVERAGE: f64 = 0.9;

/// Fewer training boxes than this teach little of a class.
const LEAST_BOXES: usize = 20;

/// Fewer objects than this leave AP uncertain by several hundredths.
const LEAST_OBJECTS: usize = 100;

/// A list of more classes is cut off.
const MOST_NAMED: usize = 5;

/// Sentences, the most pressing first; none if nothing stands out.
pub(crate) fn advice(report: &Report) -> Vec<String> {
    let log = &report.log;
    let sentences = [
        non_finite(log),
        course(log),
        waiting(log),
        coverage(report),
        rare_classes(report),
        few_objects(report),
    ];
    sentences.into_iter().flatten().collect()
}

fn non_finite(log: &TrainingLog) -> Option<String> {
    let first = log.non_finite.first()?;
    Some(format!(
        "The loss or its gradient is non-finite, first at step {first}: a lower learning rate, a longer warm-up or \
         clipping of gradients helps."
    ))
}

/// How AP and the validation loss went: still improving, past their best, or level.
fn course(log: &TrainingLog) -> Option<String> {
    let evaluations: Vec<_> = (log.evaluations.iter())
        .filter_map(|it| Some((it, value(it, "AP").filter(|ap| *ap >= 0.0)?)))
        .collect();
    let [.., (earlier, ap_earlier), _, (last, ap)] = evaluations[..] else {
        return None;
    };
    let (best, best_ap) =
        (evaluations.iter().copied()).reduce(|best, it| if it.1 >= best.1 { it } else { best })?;
    let still_best = best.iteration == last.iteration;
    if still_best && ap - ap_earlier > NOTABLE_AP {
        return Some(format!(
            "AP still rises, by {:.3} since step {}: more steps will give more.",
            ap - ap_earlier,
            earlier.iteration
        ));
    }
    let kept = format!("the checkpoint `best` holds step {}", best.iteration);
    if let Some(turn) = overfits_since(log) {
        return Some(format!(
            "It overfits since {}: the validation loss rises while the training loss falls. Fewer steps, more \
             images or stronger augmentation help; {kept}.",
            when(log, turn.iteration)
        ));
    }
    if best_ap - ap > NOTABLE_AP {
        return Some(format!(
            "AP was best at {} and has fallen by {:.3} since; {kept}.",
            when(log, best.iteration),
            best_ap - ap
        ));
    }
    ((ap - ap_earlier).abs() <= NOTABLE_AP).then(|| {
        format!(
            "AP has hardly changed since step {}: a lower learning rate or more images will give more than more \
             steps will.",
            earlier.iteration
        )
    })
}

/// The evaluation from which on the validation loss rises while the training loss falls.
fn overfits_since(log: &TrainingLog) -> Option<&EvaluationPoint> {
    let losses: Vec<_> = (log.evaluations.iter())
        .filter_map(|it| Some((it, value(it, "loss")?)))
        .collect();
    let (_, last) = *losses.last()?;
    let (turn, least) = losses.into_iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    let training = &log.curves.loss;
    let at_turn = place(log, turn.iteration)?;
    let now = training.iter().rev().find_map(|loss| *loss)?;
    (last > NOTABLE_LOSS * least && now < training[at_turn]?).then_some(turn)
}

fn waiting(log: &TrainingLog) -> Option<String> {
    let shares: Vec<f64> = log.curves.waited_share.iter().flatten().copied().collect();
    let share = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
    (share > MOST_WAITING).then(|| {
        format!(
            "{:.0} % of the time training waits for images: more `data.workers`, or images that are stored \
             at about the size they are trained at, help.",
            100.0 * share
        )
    })
}

fn coverage(report: &Report) -> Option<String> {
    let coverage = report.coverage.as_ref()?;
    if !coverage.needs_fitting_anchors {
        return unlearnt(&coverage.all);
    }
    let share = coverage.all.share_of_foreground();
    (share < LEAST_COVERAGE).then(|| {
        format!(
            "{:.0} % of the boxes have no anchor with an IoU of {} or more: `retinanet anchors optimize` finds sizes \
             and aspect ratios that fit them.",
            100.0 * (1.0 - share),
            coverage.foreground
        )
    })
}

/// Where the assigner takes anchors around a box's centre, only boxes smaller than a cell go without.
fn unlearnt(coverage: &Coverage) -> Option<String> {
    let share = coverage.share_of_learnt()?;
    (share < LEAST_COVERAGE).then(|| {
        format!(
            "{:.0} % of the boxes have no anchor's centre inside: larger inputs (`data.short_side`) or \
             `model.finest_level = \"p2\"` reach smaller objects.",
            100.0 * (1.0 - share)
        )
    })
}

fn rare_classes(report: &Report) -> Option<String> {
    let mut rare: Vec<_> = (report.training_data.as_ref()?.classes.iter())
        .filter(|class| class.boxes < LEAST_BOXES)
        .collect();
    rare.sort_by_key(|class| class.boxes);
    let named = rare.iter().take(MOST_NAMED);
    let mut names: Vec<_> = named
        .map(|class| format!("{} ({})", class.name, class.boxes))
        .collect();
    if rare.len() > MOST_NAMED {
        names.push(format!("and {} more", rare.len() - MOST_NAMED));
    }
    (!rare.is_empty()).then(|| {
        format!(
            "Classes with fewer than {LEAST_BOXES} training boxes are hardly learnt: {}.",
            names.join(", ")
        )
    })
}

fn few_objects(report: &Report) -> Option<String> {
    let classes = &report.analysis.as_ref()?.classes;
    let objects: usize = classes.iter().map(|class| class.objects).sum();
    (1..LEAST_OBJECTS).contains(&objects).then(|| {
        let noun = if objects == 1 { "object" } else { "objects" };
        format!(
            "AP rests on {objects} {noun} to find and is uncertain by several hundredths: more validation images make it \
             surer."
        )
    })
}

fn value(evaluation: &EvaluationPoint, name: &str) -> Option<f64> {
    evaluation.values.get(name).copied().flatten()
}

/// Where a step stands on the curves.
fn place(log: &TrainingLog, iteration: u64) -> Option<usize> {
    let points = &log.curves.iteration;
    let after = points.partition_point(|it| *it < iteration);
    Some(after.min(points.len().checked_sub(1)?))
}

/// A step as an epoch, where epochs are known.
fn when(log: &TrainingLog, iteration: u64) -> String {
    let epoch = place(log, iteration).and_then(|at| log.curves.epoch[at]);
    epoch.map_or_else(
        || format!("step {iteration}"),
        |epoch| format!("epoch {}", epoch.round()),
    )
}

#[cfg(test)]
mod tests {
    use retinanet_dataset_tools::{ClassStats, CoverageReport, DatasetStats};

    use super::*;

    /// A run with an evaluation after each ten steps and epoch: AP, validation loss, training loss.
    fn log(evaluations: &[(f64, f64, f64)]) -> TrainingLog {
        let mut log = TrainingLog::default();
        for (epoch, &(ap, loss, training)) in (1..).zip(evaluations) {
            log.curves.iteration.push(10 * epoch);
            log.curves.epoch.push(Some(epoch as f64));
            log.curves.loss.push(Some(training));
            log.evaluations.push(EvaluationPoint {
                iteration: 10 * epoch,
                values: [("AP".into(), Some(ap)), ("loss".into(), Some(loss))].into(),
                per_class: Vec::new(),
            });
        }
        log
    }

    fn said(log: TrainingLog) -> Vec<String> {
        advice(&Report {
            log,
            ..Report::default()
        })
    }

    #[test]
    fn the_course_of_ap_is_told() {
        let rises = [(0.1, 1.0, 1.0), (0.2, 0.9, 0.9), (0.3, 0.8, 0.8)];
        let overfits = [
            (0.1, 1.0, 1.0),
            (0.3, 0.8, 0.7),
            (0.3, 0.9, 0.5),
            (0.29, 1.0, 0.3),
        ];
        let falls = [(0.1, 1.0, 1.0), (0.3, 0.8, 0.8), (0.2, 0.8, 0.8)];
        let level = [(0.3, 0.8, 0.8), (0.301, 0.8, 0.8), (0.302, 0.8, 0.8)];
        for (evaluations, sentence) in [
            (
                &rises[..],
                "AP still rises, by 0.200 since step 10: more steps",
            ),
            (&overfits, "It overfits since epoch 2: the validation loss"),
            (&falls, "AP was best at epoch 2 and has fallen by 0.100"),
            (&level, "AP has hardly changed since step 10: a lower"),
        ] {
            let said = said(log(evaluations));
            assert_eq!(said.len(), 1, "{said:?}");
            assert!(said[0].starts_with(sentence), "{said:?}");
        }
        // `best` is the later of two that are equal.
        assert!(said(log(&overfits))[0].ends_with("`best` holds step 30."));
    }

    #[test]
    fn too_little_is_no_course() {
        let nothing: &[String] = &[];
        assert_eq!(said(TrainingLog::default()), nothing);
        assert_eq!(said(log(&[(0.1, 1.0, 1.0), (0.3, 0.5, 0.5)])), nothing);
        // No objects to find: AP is undefined.
        assert_eq!(said(log(&[(-1.0, 1.0, 1.0); 5])), nothing);
    }

    #[test]
    fn a_rising_validation_loss_is_no_reason_while_ap_rises() {
        let said = said(log(&[(0.1, 0.5, 1.0), (0.2, 0.6, 0.5), (0.3, 0.7, 0.2)]));
        assert!(said[0].starts_with("AP still rises"), "{said:?}");
    }

    #[test]
    fn steps_that_are_non_finite_and_waiting_are_told() {
        let mut log = log(&[]);
        log.non_finite = vec![7, 9];
        log.curves.waited_share = vec![Some(0.2), None, Some(0.6)];
        let said = said(log);
        assert!(said[0].contains("first at step 7"), "{said:?}");
        assert!(said[1].starts_with("40 % of the time"), "{said:?}");
    }

    #[test]
    fn where_every_box_has_a_threshold_of_its_own_only_boxes_without_an_anchor_are_told() {
        let covered = |missed| Report {
            coverage: Some(CoverageReport {
                needs_fitting_anchors: false,
                foreground: 0.5,
                background: 0.4,
                all: Coverage {
                    boxes: 100,
                    matched: 100,
                    positives: 600,
                    missed,
                    ..Coverage::default()
                },
                by_class: Vec::new(),
                by_size: Vec::new(),
                by_level: Vec::new(),
                histogram: [0; 10],
            }),
            ..Report::default()
        };
        assert_eq!(advice(&covered(9)), Vec::<String>::new());
        let said = advice(&covered(12));
        assert!(said[0].starts_with("12 % of the boxes have no"), "{said:?}");
    }

    #[test]
    fn anchors_and_rare_classes_are_told() {
        let class = |name: &str, boxes| ClassStats {
            name: name.into(),
            boxes,
            images: boxes,
            share: 0.0,
            median_side: None,
        };
        let data = DatasetStats {
            classes: vec![class("cat", 500), class("yak", 3), class("emu", 0)],
            ..DatasetStats::default()
        };
        let all = Coverage {
            boxes: 100,
            foreground: 75,
            ..Coverage::default()
        };
        let report = Report {
            training_data: Some(data),
            coverage: Some(CoverageReport {
                needs_fitting_anchors: true,
                foreground: 0.5,
                background: 0.4,
                all,
                by_class: Vec::new(),
                by_size: Vec::new(),
                by_level: Vec::new(),
                histogram: [0; 10],
            }),
            ..Report::default()
        };
        let said = advice(&report);
        assert!(
            said[0].starts_with("25 % of the boxes have no anchor with an IoU of 0.5"),
            "{said:?}"
        );
        assert!(
            said[1].ends_with("hardly learnt: emu (0), yak (3)."),
            "{said:?}"
        );
    }
}
