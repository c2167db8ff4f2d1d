use std::ops::{Deref, Range};

use retinanet_boxes::BoundingBox;

use crate::centers::Centers;

/// The anchors of an input, in pixels of it: level by level, finest first, in the
/// [`AnchorGenerator`](crate::AnchorGenerator)'s order. As a slice, all of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PyramidAnchors {
    boxes: Vec<BoundingBox>,
    /// How many each level has.
    counts: Vec<usize>,
    /// Where each level's cells are; empty for anchors that lie anywhere.
    grids: Vec<Grid>,
}

/// The cells of a level, each with as many anchors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Grid {
    pub(crate) rows: Centers,
    pub(crate) columns: Centers,
    pub(crate) anchors_per_cell: usize,
}

impl PyramidAnchors {
    /// Anchors that lie anywhere: each is a cell by itself.
    pub fn new(levels: impl IntoIterator<Item = Vec<BoundingBox>>) -> Self {
        let mut anchors = Self::default();
        for mut level in levels {
            anchors.counts.push(level.len());
            anchors.boxes.append(&mut level);
        }
        anchors
    }

    /// Anchors on grids, one for each level.
    pub(crate) fn on_grids(levels: impl IntoIterator<Item = (Vec<BoundingBox>, Grid)>) -> Self {
        let (levels, grids): (Vec<_>, _) = levels.into_iter().unzip();
        Self {
            grids,
            ..Self::new(levels)
        }
    }

    /// The anchors of the cells whose centres are nearest to a point, so many cells of each level or all that it has; of
    /// cells that are equally near, the first.
    pub fn nearest(&self, point: (f32, f32), cells: usize) -> impl Iterator<Item = usize> {
        self.levels().enumerate().flat_map(move |(level, anchors)| {
            let (cells, anchors_per_cell) = match self.grids.get(level) {
                Some(grid) => (grid.nearest(point, cells), grid.anchors_per_cell),
                None => (self.nearest_of(anchors.clone(), point, cells), 1),
            };
            let of_cell = move |cell: usize| {
                let first = anchors.start + cell * anchors_per_cell;
                first..first + anchors_per_cell
            };
            cells.into_iter().flat_map(of_cell)
        })
    }

    /// The places in their level of the anchors that are nearest to a point.
    fn nearest_of(&self, level: Range<usize>, point: (f32, f32), count: usize) -> Vec<usize> {
        let anchors = self.boxes[level].iter().map(BoundingBox::center);
        nearest(anchors.enumerate(), point, count)
    }

    /// How many anchors each level has.
    pub fn counts(&self) -> &[usize] {
        &self.counts
    }

    /// Where the anchors of each level are.
    pub fn levels(&self) -> impl Iterator<Item = Range<usize>> {
        self.counts.iter().scan(0, |end, count| {
            let start = *end;
            *end += count;
            Some(start..*end)
        })
    }

    /// The anchors as a list.
    pub fn into_boxes(self) -> Vec<BoundingBox> {
        self.boxes
    }
}

impl Grid {
    /// The cells that are nearest to a point. They are at most as many steps away from where it is as there are of them:
    /// along a row alone there are as many nearer ones.
    fn nearest(&self, (x, y): (f32, f32), count: usize) -> Vec<usize> {
        let [rows, columns] = [self.rows.within(y, count), self.columns.within(x, count)];
        let cells = rows.flat_map(|row| {
            let y = self.rows.position(row);
            columns.clone().map(move |column| {
                let cell = row * self.columns.count + column;
                (cell, (self.columns.position(column), y))
            })
        });
        nearest(cells, (x, y), count)
    }
}

/// Those of these points that are nearest to another, in their order.
fn nearest(
    points: impl Iterator<Item = (usize, (f32, f32))>,
    (to_x, to_y): (f32, f32),
    count: usize,
) -> Vec<usize> {
    let mut near: Vec<(f32, usize)> = points
        .map(|(place, (x, y))| ((x - to_x).powi(2) + (y - to_y).powi(2), place))
        .collect();
    let order = |a: &(f32, usize), b: &(f32, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
    if near.len() > count && count > 0 {
        near.select_nth_unstable_by(count - 1, order);
    }
    near.truncate(count);
    let mut places: Vec<usize> = near.into_iter().map(|(_, place)| place).collect();
    places.sort_unstable();
    places
}

impl Deref for PyramidAnchors {
    type Target = [BoundingBox];

    fn deref(&self) -> &[BoundingBox] {
        &self.boxes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_each_other() {
        let anchor = BoundingBox::new(0.0, 0.0, 1.0, 1.0);
        let anchors = PyramidAnchors::new([vec![anchor; 3], Vec::new(), vec![anchor; 2]]);
        assert_eq!(anchors.len(), 5);
        assert_eq!(anchors.counts(), [3, 0, 2]);
        assert_eq!(anchors.levels().collect::<Vec<_>>(), [0..3, 3..3, 3..5]);
    }
}
