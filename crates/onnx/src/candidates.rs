//! The best scores of each level, as boxes (Lin et al. 2017, section 4.1, "Inference").

use retinanet_detector::ClassScores;

use crate::anchors::LevelAnchors;
use crate::boxes::BoxReader;
use crate::graph::{GraphBuilder, Setting, Value};

/// What a graph needs to decode a level.
pub(crate) struct LevelDecoder {
    pub(crate) boxes: BoxReader,
    pub(crate) scores: ClassScores,
    pub(crate) classes: usize,
    /// Candidates at or below have a score of [`NONE`].
    pub(crate) threshold: f32,
    /// The most candidates.
    pub(crate) top_k: usize,
}

/// The score of what is no candidate.
pub(crate) const NONE: f32 = -1.0;

/// Candidates, best first.
#[derive(Clone)]
pub(crate) struct Candidates {
    /// `[batch, count]`
    pub(crate) scores: Value,
    /// `[batch, count]`
    pub(crate) labels: Value,
    /// `[batch, count, 4]`
    pub(crate) boxes: Value,
}

impl LevelDecoder {
    /// The level's candidates.
    ///
    /// # Shapes
    ///
    /// - `logits`: `[batch, anchors, classes]`
    /// - `boxes`: `[batch, anchors, values]`
    pub(crate) fn candidates(
        &self,
        graph: &mut GraphBuilder,
        [logits, boxes]: [&Value; 2],
        anchors: &LevelAnchors,
    ) -> Candidates {
        let ranked = match self.scores {
            ClassScores::Sigmoid => logits.clone(),
            ClassScores::Softmax => softmax(graph, logits, self.classes),
        };
        let flat = graph.ints(&[0, -1]);
        let ranked = graph.op("Reshape", &[&ranked, &flat], &[]);
        let [best, places] = top_k(graph, &ranked, self.top_k);
        let scores = match self.scores {
            // The order of logits is that of their scores: only the best need one.
            ClassScores::Sigmoid => graph.op("Sigmoid", &[&best], &[]),
            ClassScores::Softmax => best,
        };
        let classes = graph.int(self.classes as i64);
        let labels = graph.op("Mod", &[&places, &classes], &[]);
        let anchor_places = graph.op("Div", &[&places, &classes], &[]);
        let anchor_boxes = anchors.at(graph, &anchor_places);
        let values = take(graph, boxes, &anchor_places);
        let (deltas, centerness) = self.boxes.read(graph, &values);
        let [threshold, none] = [self.threshold, NONE].map(|it| graph.float(it));
        let above = graph.op("Greater", &[&scores, &threshold], &[]);
        let scores = match centerness {
            Some(logits) => {
                let centerness = graph.op("Sigmoid", &[&logits], &[]);
                let centerness = graph.op("Reshape", &[&centerness, &flat], &[]);
                graph.op("Mul", &[&scores, &centerness], &[])
            }
            None => scores,
        };
        Candidates {
            scores: graph.op("Where", &[&above, &scores, &none], &[]),
            labels,
            boxes: self.boxes.decode(graph, &anchor_boxes, &deltas),
        }
    }
}

/// The probabilities of the classes beside a background whose logit is 0.
fn softmax(graph: &mut GraphBuilder, logits: &Value, classes: usize) -> Value {
    let pads = graph.ints(&[0, 0, 0, 0, 0, 1]);
    let zero = graph.float(0.0);
    let with_background = graph.op("Pad", &[logits, &pads, &zero], &[]);
    let probabilities = graph.op(
        "Softmax",
        &[&with_background],
        &[("axis", Setting::Int(-1))],
    );
    let [start, end, axis] = [0, classes as i64, 2].map(|it| graph.ints(&[it]));
    graph.op("Slice", &[&probabilities, &start, &end, &axis], &[])
}

/// The largest of each row and their places, `[batch, count]` each, largest first and among equals the earlier; at most
/// `count` of them.
pub(crate) fn top_k(graph: &mut GraphBuilder, rows: &Value, count: usize) -> [Value; 2] {
    let shape = graph.op("Shape", &[rows], &[]);
    let second = graph.ints(&[1]);
    let length = graph.op("Gather", &[&shape, &second], &[]);
    let most = graph.ints(&[count as i64]);
    let count = graph.op("Min", &[&length, &most], &[]);
    graph.op_with_outputs("TopK", &[rows, &count], &[("axis", Setting::Int(1))])
}

/// Rows of each image of a batch, by their places.
///
/// # Shapes
///
/// - `rows`: `[batch, any, values]`
/// - `places`: `[batch, count]`
/// - output: `[batch, count, values]`
pub(crate) fn take(graph: &mut GraphBuilder, rows: &Value, places: &Value) -> Value {
    let last = graph.ints(&[-1]);
    let places = graph.op("Unsqueeze", &[places, &last], &[]);
    graph.op(
        "GatherND",
        &[rows, &places],
        &[("batch_dims", Setting::Int(1))],
    )
}

/// The first and the last two of four values.
pub(crate) fn halves(graph: &mut GraphBuilder, values: &Value) -> [Value; 2] {
    let lengths = graph.ints(&[2, 2]);
    graph.op_with_outputs("Split", &[values, &lengths], &[("axis", Setting::Int(-1))])
}
