//! What `metrics.jsonl` says of a run, thinned to what a picture can show.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use fs_err::File;
use retinanet_evaluation::ClassMetrics;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The most points of a curve.
const MOST_POINTS: usize = 1_500;

/// The most steps that are named as not finite.
const MOST_NAMED: usize = 1_000;

/// The steps and evaluations of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TrainingLog {
    /// How many steps there are.
    pub steps: usize,
    /// How long they took together, in seconds.
    pub seconds: f64,
    /// How many steps a point of `curves` stands for.
    pub steps_per_point: usize,
    /// The steps.
    pub curves: StepCurves,
    /// How the loss falls to the pyramid's levels.
    pub levels: LevelCurves,
    /// The first thousand steps whose loss or gradient norm is not finite.
    pub non_finite: Vec<u64>,
    /// The evaluations; of two after the same step, the later one.
    pub evaluations: Vec<EvaluationPoint>,
}

/// Means over neighbouring steps, at most 1500 of them. A value is `None` if no step of a point
/// has a finite one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StepCurves {
    /// The step in the middle of the point's steps, counted from 1.
    pub iteration: Vec<u64>,
    /// How often all training images were seen.
    pub epoch: Vec<Option<f64>>,
    /// The learning rate.
    pub learning_rate: Vec<Option<f64>>,
    /// What a step minimised.
    pub loss: Vec<Option<f64>>,
    /// The largest loss of the point's steps.
    pub largest_loss: Vec<Option<f64>>,
    /// The class part of the loss.
    pub class_loss: Vec<Option<f64>>,
    /// The box part of the loss.
    pub box_loss: Vec<Option<f64>>,
    /// The gradients' norm before clipping.
    pub gradient_norm: Vec<Option<f64>>,
    /// The largest norm of the point's steps.
    pub largest_gradient_norm: Vec<Option<f64>>,
    /// Positive anchors of an image.
    pub positives_per_image: Vec<Option<f64>>,
    /// Images a second, waiting included.
    pub images_per_second: Vec<Option<f64>>,
    /// The share of the time that was waiting for batches, in `[0, 1]`.
    pub waited_share: Vec<Option<f64>>,
    /// Memory that the process holds, in GiB.
    pub memory: Vec<Option<f64>>,
}

/// The loss by pyramid level, at most 1500 means over neighbouring steps. One curve a level, finest
/// first.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LevelCurves {
    /// The step in the middle of the point's steps.
    pub iteration: Vec<u64>,
    /// The class part, by level and point.
    pub class_loss: Vec<Vec<Option<f64>>>,
    /// The box part, by level and point.
    pub box_loss: Vec<Vec<Option<f64>>>,
}

/// What an evaluation gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EvaluationPoint {
    /// After how many steps.
    pub iteration: u64,
    /// All numbers of the line by name: COCO's short ones, `loss`. −1 or `None` where undefined.
    pub values: BTreeMap<String, Option<f64>>,
    /// AP by class.
    pub per_class: Vec<ClassMetrics>,
}

impl TrainingLog {
    /// Reads a run's `metrics.jsonl`. Lines that are not JSON, as a kill may leave one, and lines of
    /// another kind are passed over.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, std::io::Error> {
        Self::from_lines(BufReader::new(File::open(path)?))
    }

    fn from_lines(lines: impl BufRead) -> Result<Self, std::io::Error> {
        let mut steps = Vec::new();
        let mut evaluations = BTreeMap::new();
        for line in lines.split(b'\n') {
            let Ok(line) = serde_json::from_slice::<Value>(&line?) else {
                continue;
            };
            match line["kind"].as_str() {
                Some("step") => steps.extend(Step::deserialize(line).ok()),
                Some("evaluation") => {
                    let evaluation = EvaluationPoint::of_line(line);
                    evaluations.insert(evaluation.iteration, evaluation);
                }
                _ => {}
            }
        }
        Ok(Self::new(&steps, evaluations.into_values().collect()))
    }

    fn new(steps: &[Step], evaluations: Vec<EvaluationPoint>) -> Self {
        let with_levels: Vec<_> = steps.iter().filter(|it| !it.levels.is_empty()).collect();
        let non_finite = steps.iter().filter(|it| !it.is_finite());
        Self {
            steps: steps.len(),
            seconds: sum(steps, |it| it.seconds),
            steps_per_point: steps_per_point(steps.len()),
            curves: StepCurves::new(steps),
            levels: LevelCurves::new(&with_levels),
            non_finite: non_finite.map(|it| it.iteration).take(MOST_NAMED).collect(),
            evaluations,
        }
    }
}

/// A line of a step. What is not finite is written as `null`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Step {
    iteration: u64,
    epoch: Option<f64>,
    lr: Option<f64>,
    loss: Option<f64>,
    class_loss: Option<f64>,
    box_loss: Option<f64>,
    gradient_norm: Option<f64>,
    positives: Option<f64>,
    images: Option<f64>,
    seconds: Option<f64>,
    waited_seconds: Option<f64>,
    memory: Option<f64>,
    levels: Vec<[Option<f64>; 2]>,
}

impl Step {
    fn is_finite(&self) -> bool {
        self.loss.is_some() && self.gradient_norm.is_some()
    }
}

impl StepCurves {
    fn new(steps: &[Step]) -> Self {
        let mut curves = Self::default();
        for steps in steps.chunks(steps_per_point(steps.len())) {
            curves.push(steps);
        }
        curves
    }

    /// Adds a point for some neighbouring steps.
    fn push(&mut self, steps: &[Step]) {
        let per = |part: fn(&Step) -> Option<f64>, whole: fn(&Step) -> Option<f64>| {
            let whole = sum(steps, whole);
            (whole > 0.0).then(|| sum(steps, part) / whole)
        };
        self.iteration.push(steps[steps.len() / 2].iteration);
        self.epoch.push(mean(steps, |it| it.epoch));
        self.learning_rate.push(mean(steps, |it| it.lr));
        self.loss.push(mean(steps, |it| it.loss));
        self.largest_loss.push(largest(steps, |it| it.loss));
        self.class_loss.push(mean(steps, |it| it.class_loss));
        self.box_loss.push(mean(steps, |it| it.box_loss));
        self.gradient_norm.push(mean(steps, |it| it.gradient_norm));
        (self.largest_gradient_norm).push(largest(steps, |it| it.gradient_norm));
        (self.positives_per_image).push(per(|it| it.positives, |it| it.images));
        (self.images_per_second).push(per(|it| it.images, |it| it.seconds));
        (self.waited_share).push(per(|it| it.waited_seconds, |it| it.seconds));
        let gib = f64::from(1 << 30);
        (self.memory).push(mean(steps, |it| it.memory).map(|bytes| bytes / gib));
    }
}

impl LevelCurves {
    fn new(steps: &[&Step]) -> Self {
        let points: Vec<_> = steps.chunks(steps_per_point(steps.len())).collect();
        let levels = steps.iter().map(|it| it.levels.len()).max().unwrap_or(0);
        let curve = |level: usize, part: usize| -> Vec<Option<f64>> {
            let value = |it: &&Step| it.levels.get(level).and_then(|losses| losses[part]);
            points.iter().map(|steps| mean(steps, value)).collect()
        };
        Self {
            iteration: (points.iter())
                .map(|steps| steps[steps.len() / 2].iteration)
                .collect(),
            class_loss: (0..levels).map(|level| curve(level, 0)).collect(),
            box_loss: (0..levels).map(|level| curve(level, 1)).collect(),
        }
    }
}

impl EvaluationPoint {
    fn of_line(mut line: Value) -> Self {
        let iteration = line["iteration"].as_u64().unwrap_or(0);
        let per_class = serde_json::from_value(line["per_class"].take()).unwrap_or_default();
        let mut values = BTreeMap::new();
        for (name, value) in line.as_object().into_iter().flatten() {
            let is_value = value.is_number() || value.is_null();
            if is_value && name != "iteration" && name != "per_class" {
                values.insert(name.clone(), value.as_f64());
            }
        }
        Self {
            iteration,
            values,
            per_class,
        }
    }
}

fn steps_per_point(steps: usize) -> usize {
    steps.div_ceil(MOST_POINTS).max(1)
}

fn mean<T>(steps: &[T], value: impl Fn(&T) -> Option<f64>) -> Option<f64> {
    let (sum, count) = (steps.iter().filter_map(value))
        .fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

fn largest<T>(steps: &[T], value: impl Fn(&T) -> Option<f64>) -> Option<f64> {
    steps.iter().filter_map(value).reduce(f64::max)
}

fn sum<T>(steps: &[T], value: impl Fn(&T) -> Option<f64>) -> f64 {
    steps.iter().filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    fn read(text: &str) -> TrainingLog {
        TrainingLog::from_lines(text.as_bytes()).unwrap()
    }

    #[test]
    fn lines_of_the_trainer_are_read() {
        let log = read(concat!(
            r#"{"box_loss":0.5,"class_loss":1.5,"epoch":0.25,"gradient_norm":3.0,"images":4,"#,
            r#""iteration":1,"kind":"step","levels":[[1.0,0.25],[0.5,null]],"loss":2.0,"lr":0.01,"#,
            r#""memory":1073741824,"positives":20,"seconds":2.0,"waited_seconds":0.5}"#,
            "\n",
            r#"{"AP":0.25,"APl":-1.0,"iteration":1,"kind":"evaluation","loss":null,"per_class":"#,
            r#"[{"AP":0.25,"AP50":0.5,"category_id":3,"name":"cell"}]}"#,
            "\n",
        ));
        assert_eq!((log.steps, log.seconds, log.steps_per_point), (1, 2.0, 1));
        assert_eq!(log.curves.iteration, [1]);
        let curves = &log.curves;
        for (curve, value) in [
            (&curves.epoch, 0.25),
            (&curves.learning_rate, 0.01),
            (&curves.loss, 2.0),
            (&curves.largest_loss, 2.0),
            (&curves.class_loss, 1.5),
            (&curves.box_loss, 0.5),
            (&curves.gradient_norm, 3.0),
            (&curves.largest_gradient_norm, 3.0),
            (&curves.positives_per_image, 5.0),
            (&curves.images_per_second, 2.0),
            (&curves.waited_share, 0.25),
            (&curves.memory, 1.0),
        ] {
            assert_eq!(curve, &[Some(value)]);
        }
        assert_eq!(log.levels.class_loss, [[Some(1.0)], [Some(0.5)]]);
        assert_eq!(log.levels.box_loss, [[Some(0.25)], [None]]);

        let [evaluation] = &log.evaluations[..] else {
            panic!("{:?}", log.evaluations);
        };
        let values = evaluation.values.iter();
        let values: Vec<_> = values.map(|(name, value)| (&**name, *value)).collect();
        let expected = [("AP", Some(0.25)), ("APl", Some(-1.0)), ("loss", None)];
        assert_eq!(values, expected);
        assert_eq!(evaluation.per_class[0].name, "cell");
    }

    #[test]
    fn a_cut_line_and_an_older_evaluation_do_not_count() {
        let log = read(concat!(
            "{\"kind\":\"evaluation\",\"iteration\":2,\"AP\":0.1}\n",
            "{\"kind\":\"evaluation\",\"iteration\":2,\"AP\":0.2}\n",
            "{\"kind\":\"other\",\"iteration\":2}\n[]\n\n",
            "{\"kind\":\"step\",\"iteration\":3,\"loss\":1.0}\n",
            "{\"kind\":\"step\",\"iteration\":4,\"lo",
        ));
        assert_eq!(log.steps, 1);
        assert_eq!(log.evaluations.len(), 1);
        assert_eq!(log.evaluations[0].values["AP"], Some(0.2));
        assert_eq!(read("").steps, 0);

        // A kill may cut a line within a letter.
        let log = TrainingLog::from_lines(&b"{\"kind\":\"step\"}\n{\"name\":\"\xc3"[..]).unwrap();
        assert_eq!(log.steps, 1);
    }

    #[test]
    fn long_runs_are_thinned_to_means() {
        let mut text = String::new();
        for step in 1..=4_000 {
            let loss = if step == 3_000 { 1e6 } else { f64::from(step) };
            writeln!(
                text,
                "{{\"kind\":\"step\",\"iteration\":{step},\"loss\":{loss},\"gradient_norm\":1.0,\
                 \"images\":{},\"seconds\":{},\"levels\":[[{step},1]]}}",
                if step % 3 == 0 { 8 } else { 2 },
                if step % 3 == 0 { 1 } else { 2 },
            )
            .unwrap();
        }
        let log = read(&text);
        assert_eq!((log.steps, log.steps_per_point), (4_000, 3));
        assert_eq!(log.curves.iteration.len(), 1_334);
        assert_eq!(log.curves.iteration[..2], [2, 5]);
        assert_eq!(log.curves.loss[..2], [Some(2.0), Some(5.0)]);
        // The last point has one step.
        assert_eq!(log.curves.loss[1_333], Some(4_000.0));
        // A rate is that of the whole time, not the mean of rates.
        assert_eq!(log.curves.images_per_second[0], Some(12.0 / 5.0));
        assert_eq!(log.curves.largest_loss[999], Some(1e6));
        assert_eq!(log.levels.iteration.len(), 1_334);
        assert_eq!(log.levels.class_loss[0][0], Some(2.0));
        assert_eq!(log.seconds, 2_667.0 * 2.0 + 1_333.0);
    }

    #[test]
    fn what_is_non_finite_leaves_a_gap_and_is_named() {
        let log = read(concat!(
            "{\"kind\":\"step\",\"iteration\":7,\"loss\":null,\"gradient_norm\":1.0}\n",
            "{\"kind\":\"step\",\"iteration\":8,\"loss\":2.0,\"gradient_norm\":null}\n",
            "{\"kind\":\"step\",\"iteration\":9,\"loss\":2.0,\"gradient_norm\":1.0}\n",
        ));
        assert_eq!(log.curves.loss, [None, Some(2.0), Some(2.0)]);
        assert_eq!(log.non_finite, [7, 8]);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = TrainingLog::read(Path::new("/nowhere/metrics.jsonl")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/metrics.jsonl"));
    }
}
