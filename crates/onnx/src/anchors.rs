//! Anchors, made in the graph from the size of each level's map.

use retinanet_anchors::{AnchorConfig, AnchorGenerator, CellCenter, CellSpacing};

use crate::graph::{GraphBuilder, Setting, Value};
use crate::pixels::sides;
use crate::proto::DataType;

/// The anchors of a level.
pub(crate) struct LevelAnchors {
    /// Rows and columns of the level's map, `[2]`.
    size: Value,
    /// Pixels between rows and between columns, `[2]`.
    spacing: Value,
    /// Where the first centre is, in cells.
    offset: f32,
    /// The anchors of a cell around the origin, `[anchors_per_cell, 4]`.
    cell: Value,
    anchors_per_cell: usize,
}

impl LevelAnchors {
    /// The anchors over a level's map, for images of this padded size.
    pub(crate) fn new(
        graph: &mut GraphBuilder,
        config: &AnchorConfig,
        generator: &AnchorGenerator,
        level: usize,
        [map, image_size]: [&Value; 2],
    ) -> Self {
        let size = sides(graph, map);
        let spacing = match config.spacing {
            CellSpacing::Stride => {
                let stride = generator.strides()[level] as i64;
                graph.ints(&[stride, stride])
            }
            CellSpacing::Measured => graph.op("Div", &[image_size, &size], &[]),
        };
        let cell = generator.cell(level);
        let edges: Vec<f32> = cell.iter().flat_map(|anchor| anchor.to_array()).collect();
        Self {
            spacing: graph.cast(&spacing, DataType::Float),
            size,
            offset: match config.center {
                CellCenter::Corner => 0.0,
                CellCenter::Middle => 0.5,
            },
            cell: graph.floats(&edges, &[cell.len(), 4]),
            anchors_per_cell: cell.len(),
        }
    }

    /// Those at these places in the level, `[batch, count]`: their boxes, `[batch, count, 4]`.
    pub(crate) fn at(&self, graph: &mut GraphBuilder, places: &Value) -> Value {
        let anchors_per_cell = graph.int(self.anchors_per_cell as i64);
        let in_cell = graph.op("Mod", &[places, &anchors_per_cell], &[]);
        let cells = graph.op("Div", &[places, &anchors_per_cell], &[]);
        let columns = self.side(graph, 1);
        let column = graph.op("Mod", &[&cells, &columns], &[]);
        let row = graph.op("Div", &[&cells, &columns], &[]);

        let last = graph.ints(&[-1]);
        let [x, y] = [(&column, 1), (&row, 0)].map(|(index, axis)| {
            let position = self.position(graph, index, axis);
            graph.op("Unsqueeze", &[&position, &last], &[])
        });
        let anchors = graph.op("Gather", &[&self.cell, &in_cell], &[]);
        shifted(graph, &anchors, [&x, &y])
    }

    /// All of them, `[anchors, 4]`.
    pub(crate) fn all(&self, graph: &mut GraphBuilder) -> Value {
        let axes = [(1, [1, -1, 1, 1]), (0, [-1, 1, 1, 1])];
        let [x, y] = axes.map(|(axis, shape)| {
            let side = self.side(graph, axis);
            let [zero, one] = [0, 1].map(|it| graph.int(it));
            let index = graph.op("Range", &[&zero, &side, &one], &[]);
            let position = self.position(graph, &index, axis);
            let shape = graph.ints(&shape);
            graph.op("Reshape", &[&position, &shape], &[])
        });
        let anchors = shifted(graph, &self.cell, [&x, &y]);
        let shape = graph.ints(&[-1, 4]);
        graph.op("Reshape", &[&anchors, &shape], &[])
    }

    /// How many rows (0) or columns (1) there are, without an axis.
    fn side(&self, graph: &mut GraphBuilder, axis: i64) -> Value {
        let axis = graph.int(axis);
        graph.op("Gather", &[&self.size, &axis], &[])
    }

    /// The centres of these rows (0) or columns (1).
    fn position(&self, graph: &mut GraphBuilder, index: &Value, axis: i64) -> Value {
        let index = graph.cast(index, DataType::Float);
        let offset = graph.float(self.offset);
        let in_cells = graph.op("Add", &[&index, &offset], &[]);
        let axis = graph.int(axis);
        let spacing = graph.op("Gather", &[&self.spacing, &axis], &[]);
        graph.op("Mul", &[&in_cells, &spacing], &[])
    }
}

/// Boxes moved by `x` and `y`, whose last axis is 1.
fn shifted(graph: &mut GraphBuilder, boxes: &Value, [x, y]: [&Value; 2]) -> Value {
    let [of_x, of_y] = [(x, [1.0, 0.0, 1.0, 0.0]), (y, [0.0, 1.0, 0.0, 1.0])].map(|(by, edges)| {
        let edges = graph.floats(&edges, &[4]);
        graph.op("Mul", &[by, &edges], &[])
    });
    let by = graph.op("Add", &[&of_x, &of_y], &[]);
    graph.op("Add", &[boxes, &by], &[])
}

/// Joins what levels have along this axis.
pub(crate) fn join(graph: &mut GraphBuilder, parts: &[Value], axis: i64) -> Value {
    let parts: Vec<&Value> = parts.iter().collect();
    graph.op("Concat", &parts, &[("axis", Setting::Int(axis))])
}
