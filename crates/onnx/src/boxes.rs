//! What the box subnet's values say: boxes relative to anchors, perhaps as distributions, and centerness.

use retinanet_anchors::{BoxCoder, DeltaCoder, DistanceCoder};

use crate::candidates::halves;
use crate::graph::{GraphBuilder, Setting, Value};

/// How the values of an anchor are read.
#[derive(Clone, Copy)]
pub(crate) struct BoxReader {
    pub(crate) coder: BoxCoder,
    /// Whether a logit of centerness stands behind them.
    pub(crate) centerness: bool,
}

impl BoxReader {
    /// The numbers of the box coder, and the logit of centerness `[batch, any, 1]` if there is one.
    ///
    /// # Shapes
    ///
    /// - `values`: `[batch, any, values]`
    /// - deltas: `[batch, any, 4]`
    pub(crate) fn read(&self, graph: &mut GraphBuilder, values: &Value) -> (Value, Option<Value>) {
        let of_box = self.coder.predicted_values() as i64;
        let (values, centerness) = if self.centerness {
            let lengths = graph.ints(&[of_box, 1]);
            let axis = [("axis", Setting::Int(-1))];
            let [values, centerness] = graph.op_with_outputs("Split", &[values, &lengths], &axis);
            (values, Some(centerness))
        } else {
            (values.clone(), None)
        };
        let deltas = match self.coder.bins() {
            Some(bins) => integral(graph, &values, bins),
            None => values,
        };
        (deltas, centerness)
    }

    /// The boxes that deltas describe; see [`BoxCoder::decode`].
    ///
    /// # Shapes
    ///
    /// - `anchors`, `deltas` and output: `[batch, count, 4]`
    pub(crate) fn decode(
        &self,
        graph: &mut GraphBuilder,
        anchors: &Value,
        deltas: &Value,
    ) -> Value {
        let [upper_left, lower_right] = halves(graph, anchors);
        let sides = graph.op("Sub", &[&lower_right, &upper_left], &[]);
        let half = graph.float(0.5);
        let half_sides = graph.op("Mul", &[&half, &sides], &[]);
        let centers = graph.op("Add", &[&upper_left, &half_sides], &[]);
        let corners = match self.coder {
            BoxCoder::Deltas(coder) => of_deltas(graph, coder, deltas, [&centers, &sides]),
            BoxCoder::Distances(coder) => of_distances(graph, coder, deltas, [&centers, &sides]),
        };
        let axis = [("axis", Setting::Int(-1))];
        graph.op("Concat", &[&corners[0], &corners[1]], &axis)
    }
}

fn of_deltas(
    graph: &mut GraphBuilder,
    coder: DeltaCoder,
    deltas: &Value,
    [centers, sides]: [&Value; 2],
) -> [Value; 2] {
    let [wx, wy, ww, wh] = coder.weights();
    let half = graph.float(0.5);
    let [moves, log_scales] = halves(graph, deltas);
    let [move_weights, scale_weights] =
        [[wx, wy], [ww, wh]].map(|weights| graph.floats(&weights, &[2]));
    let moves = graph.op("Div", &[&moves, &move_weights], &[]);
    let moves = graph.op("Mul", &[&moves, sides], &[]);
    let centers = graph.op("Add", &[centers, &moves], &[]);

    let mut log_scales = graph.op("Div", &[&log_scales, &scale_weights], &[]);
    let [smallest, largest] = coder.log_scale_limits();
    for (kind, limit) in [("Min", largest), ("Max", smallest)] {
        if limit.is_finite() {
            let limit = graph.float(limit);
            log_scales = graph.op(kind, &[&log_scales, &limit], &[]);
        }
    }
    let scales = graph.op("Exp", &[&log_scales], &[]);
    let sides = graph.op("Mul", &[&scales, sides], &[]);
    let half_sides = graph.op("Mul", &[&half, &sides], &[]);
    ["Sub", "Add"].map(|kind| graph.op(kind, &[&centers, &half_sides], &[]))
}

fn of_distances(
    graph: &mut GraphBuilder,
    coder: DistanceCoder,
    distances: &Value,
    [centers, sides]: [&Value; 2],
) -> [Value; 2] {
    let units = graph.float(coder.units_per_side());
    let unit = graph.op("Div", &[sides, &units], &[]);
    let zero = graph.float(0.0);
    let distances = graph.op("Max", &[distances, &zero], &[]);
    let [before, behind] = halves(graph, &distances);
    [("Sub", before), ("Add", behind)].map(|(kind, distance)| {
        let distance = graph.op("Mul", &[&distance, &unit], &[]);
        graph.op(kind, &[centers, &distance], &[])
    })
}

/// The mean of 0, 1, … under four distributions (Li et al. 2020, equation 4), `[batch, any, 4 * bins]` to `[batch, any, 4]`.
fn integral(graph: &mut GraphBuilder, values: &Value, bins: usize) -> Value {
    let by_side = graph.ints(&[0, -1, 4, bins as i64]);
    let logits = graph.op("Reshape", &[values, &by_side], &[]);
    let probabilities = graph.op("Softmax", &[&logits], &[("axis", Setting::Int(-1))]);
    let numbers: Vec<f32> = (0..bins).map(|bin| bin as f32).collect();
    let numbers = graph.floats(&numbers, &[bins, 1]);
    let means = graph.op("MatMul", &[&probabilities, &numbers], &[]);
    let four = graph.ints(&[0, -1, 4]);
    graph.op("Reshape", &[&means, &four], &[])
}
