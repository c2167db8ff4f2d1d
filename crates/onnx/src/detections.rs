//! From candidates to detections: non-maximum suppression by class, the best of an image, clipping.

use retinanet_detector::DecodeConfig;

use crate::candidates::{Candidates, NONE, halves, take, top_k};
use crate::graph::{GraphBuilder, Setting, Value};
use crate::proto::DataType;

/// What suppression needs to know.
pub(crate) struct Suppressor<'a> {
    pub(crate) decode: &'a DecodeConfig,
    /// The overlap above which a better box suppresses another.
    pub(crate) iou: f32,
    pub(crate) classes: usize,
    /// Height and width of the images before padding, `[2]`.
    pub(crate) size: &'a Value,
}

/// Detections, best first; what is behind the last has a score of 0, a label of -1 and an empty box.
pub(crate) struct Detections {
    /// `[batch, detections, 4]`
    pub(crate) boxes: Value,
    /// `[batch, detections]`
    pub(crate) scores: Value,
    /// `[batch, detections]`
    pub(crate) labels: Value,
    /// `[batch]`
    pub(crate) count: Value,
}

impl Suppressor<'_> {
    pub(crate) fn detections(
        &self,
        graph: &mut GraphBuilder,
        candidates: Candidates,
    ) -> Detections {
        let candidates = if self.decode.clip_before_nms {
            Candidates {
                boxes: self.clip(graph, &candidates.boxes),
                ..candidates
            }
        } else {
            candidates
        };
        let kept = self.suppress(graph, &candidates);
        let mut best = self.best(graph, &kept);
        best.boxes = self.clip(graph, &best.boxes);
        if self.decode.drop_empty {
            best.scores = without_empty(graph, &best);
            best = self.best(graph, &best);
        }
        finish(graph, &best)
    }

    /// The candidates, where those that a better one suppresses have a score of [`NONE`].
    fn suppress(&self, graph: &mut GraphBuilder, candidates: &Candidates) -> Candidates {
        let by_class = self.scores_by_class(graph, candidates);
        let most = graph.ints(&[self.decode.max_detections.get() as i64]);
        let iou = graph.floats(&[self.iou], &[1]);
        let least = graph.floats(&[0.0], &[1]);
        let selected = graph.op(
            "NonMaxSuppression",
            &[&candidates.boxes, &by_class, &most, &iou, &least],
            &[],
        );
        // Of `[image, class, candidate]`: a candidate has one class.
        let image_and_candidate = graph.ints(&[0, 2]);
        let places = graph.op(
            "Gather",
            &[&selected, &image_and_candidate],
            &[("axis", Setting::Int(1))],
        );
        let kept = graph.op("GatherND", &[&candidates.scores, &places], &[]);
        let shape = graph.op("Shape", &[&candidates.scores], &[]);
        let none = graph.float(NONE);
        let nothing = graph.op("Expand", &[&none, &shape], &[]);
        Candidates {
            scores: graph.op("ScatterND", &[&nothing, &places, &kept], &[]),
            ..candidates.clone()
        }
    }

    /// The score of each candidate for its own class, and [`NONE`] for the others, `[batch, classes, candidates]`; where
    /// classes suppress each other, as one class.
    fn scores_by_class(&self, graph: &mut GraphBuilder, candidates: &Candidates) -> Value {
        let axis = graph.ints(&[1]);
        let scores = graph.op("Unsqueeze", &[&candidates.scores, &axis], &[]);
        if self.decode.class_agnostic {
            return scores;
        }
        let labels = graph.op("Unsqueeze", &[&candidates.labels, &axis], &[]);
        let classes: Vec<i64> = (0..self.classes as i64).collect();
        let classes = graph.int_tensor(&classes, &[1, self.classes, 1]);
        let own = graph.op("Equal", &[&labels, &classes], &[]);
        let none = graph.float(NONE);
        graph.op("Where", &[&own, &scores, &none], &[])
    }

    /// The best of each image, best first.
    fn best(&self, graph: &mut GraphBuilder, candidates: &Candidates) -> Candidates {
        let count = self.decode.max_detections.as_usize();
        let [scores, places] = top_k(graph, &candidates.scores, count);
        Candidates {
            scores,
            labels: graph.op(
                "GatherElements",
                &[&candidates.labels, &places],
                &[("axis", Setting::Int(1))],
            ),
            boxes: take(graph, &candidates.boxes, &places),
        }
    }

    /// Boxes within the image.
    fn clip(&self, graph: &mut GraphBuilder, boxes: &Value) -> Value {
        let places = graph.ints(&[1, 0, 1, 0]);
        let limits = graph.op("Gather", &[self.size, &places], &[]);
        let limits = graph.cast(&limits, DataType::Float);
        let zero = graph.float(0.0);
        let above = graph.op("Max", &[boxes, &zero], &[]);
        graph.op("Min", &[&above, &limits], &[])
    }
}

/// The scores, [`NONE`] for boxes of which nothing is left.
fn without_empty(graph: &mut GraphBuilder, candidates: &Candidates) -> Value {
    let [upper_left, lower_right] = halves(graph, &candidates.boxes);
    let sides = graph.op("Sub", &[&lower_right, &upper_left], &[]);
    let shorter = graph.op(
        "ReduceMin",
        &[&sides],
        &[
            ("axes", Setting::Ints(&[-1])),
            ("keepdims", Setting::Int(0)),
        ],
    );
    let [zero, none] = [0.0, NONE].map(|it| graph.float(it));
    let covers_something = graph.op("Greater", &[&shorter, &zero], &[]);
    graph.op(
        "Where",
        &[&covers_something, &candidates.scores, &none],
        &[],
    )
}

fn finish(graph: &mut GraphBuilder, best: &Candidates) -> Detections {
    let zero = graph.float(0.0);
    let found = graph.op("Greater", &[&best.scores, &zero], &[]);
    let last = graph.ints(&[-1]);
    let boxes_found = graph.op("Unsqueeze", &[&found, &last], &[]);
    let no_label = graph.int(-1);
    let found_as_int = graph.cast(&found, DataType::Int64);
    let second = graph.ints(&[1]);
    Detections {
        boxes: graph.op("Where", &[&boxes_found, &best.boxes, &zero], &[]),
        scores: graph.op("Where", &[&found, &best.scores, &zero], &[]),
        labels: graph.op("Where", &[&found, &best.labels, &no_label], &[]),
        count: graph.op(
            "ReduceSum",
            &[&found_as_int, &second],
            &[("keepdims", Setting::Int(0))],
        ),
    }
}
