use crate::{BoundingBox, ClassId, GroundTruth};

/// What an anchor shall learn, as matching decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnchorLabel {
    /// No object: a negative for every class.
    Background,
    /// Too near an object to be background and not near enough to be positive: counts nowhere.
    Ignored,
    /// An object of this class.
    Object(ClassId),
}

/// An anchor that stands for an object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PositiveAnchor {
    /// Which anchor, in the order of generation.
    pub anchor: usize,
    /// The object's class.
    pub class: ClassId,
    /// Which object of the image, crowds counted.
    pub object: usize,
    /// What the box subnet shall give, `[dx, dy, dw, dh]`: the object's box as seen from the
    /// anchor.
    pub deltas: [f32; 4],
    /// The anchor, in pixels of the network's input.
    pub anchor_box: BoundingBox,
    /// The object's box, in pixels of the network's input.
    pub object_box: BoundingBox,
    /// What the anchor shall have for a score, if the assigner says so: how well its predictions align with the object.
    pub quality: Option<f32>,
}

/// What the anchors of one image shall learn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnchorTargets {
    /// One label for each anchor.
    pub labels: Vec<AnchorLabel>,
    /// The anchors with [`AnchorLabel::Object`], ascending.
    pub positives: Vec<PositiveAnchor>,
    /// The image's objects, crowds too.
    pub objects: Vec<GroundTruth>,
}

impl AnchorTargets {
    /// Those of an image without objects, for so many anchors.
    pub fn background(anchors: usize) -> Self {
        Self {
            labels: vec![AnchorLabel::Background; anchors],
            ..Self::default()
        }
    }
}
