use std::ops::{Deref, Range};

use retinanet_boxes::BoundingBox;

/// The anchors of an input, in pixels of it: level by level, finest first, in the
/// [`AnchorGenerator`](crate::AnchorGenerator)'s order. As a slice, all of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PyramidAnchors {
    boxes: Vec<BoundingBox>,
    /// How many each level has.
    counts: Vec<usize>,
}

impl PyramidAnchors {
    /// The anchors of these levels.
    pub fn new(levels: impl IntoIterator<Item = Vec<BoundingBox>>) -> Self {
        let mut anchors = Self::default();
        for mut level in levels {
            anchors.counts.push(level.len());
            anchors.boxes.append(&mut level);
        }
        anchors
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
