//! Which anchors answer for which boxes.

use retinanet_boxes::BoundingBox;
use retinanet_settings::{SettingError, Share};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::atss::{AtssAssigner, AtssConfig};
use crate::matcher::{Assignment, MaxIouConfig, MaxIouMatcher};
use crate::pyramid::PyramidAnchors;
use crate::task_aligned::{TaskAlignedAssigner, TaskAlignedConfig};

/// Settings of the [`TargetAssigner`](crate::TargetAssigner).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AssignerConfig {
    /// How anchors and boxes find each other.
    #[serde(flatten)]
    pub kind: AssignerKind,
    /// Whether anchors inside crowd regions are left out of the background. The peers take them for background.
    pub ignore_crowds: bool,
    /// The share of an anchor's area inside a crowd region from which it is left out.
    pub crowd_overlap: Share,
}

/// The ways in which anchors and boxes find each other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AssignerKind {
    /// By the overlap of each anchor with the box that it overlaps most: the paper (section 4).
    MaxIou(MaxIouConfig),
    /// By the overlap that suits each box, of the anchors around its centre: ATSS (Zhang et al. 2020).
    Atss(AtssConfig),
    /// By how well the predictions of an anchor align with a box: TOOD (Feng et al. 2021). What does not know them, as the
    /// normaliser and reports, goes by ATSS.
    TaskAligned(TaskAlignedConfig),
}

impl Default for AssignerKind {
    fn default() -> Self {
        Self::MaxIou(MaxIouConfig::default())
    }
}

impl Default for AssignerConfig {
    fn default() -> Self {
        Self {
            kind: AssignerKind::default(),
            ignore_crowds: true,
            crowd_overlap: Share::literal(0.5),
        }
    }
}

impl AssignerKind {
    /// Checks the settings and builds the assigner.
    ///
    /// # Errors
    ///
    /// Returns an error if settings do not fit each other.
    pub fn init(&self) -> Result<Assigner, SettingError> {
        Ok(match self {
            Self::MaxIou(config) => Assigner::MaxIou(config.init()?),
            Self::Atss(config) => Assigner::Atss(config.init()),
            Self::TaskAligned(config) => Assigner::TaskAligned(config.init()),
        })
    }
}

/// Assigns the boxes of an image to anchors. Should be created with [`AssignerKind::init`].
#[derive(Clone, Copy, Debug)]
pub enum Assigner {
    /// By overlap.
    MaxIou(MaxIouMatcher),
    /// By the overlap that suits each box.
    Atss(AtssAssigner),
    /// By what is predicted, where that is known.
    TaskAligned(TaskAlignedAssigner),
}

impl Assigner {
    /// What each anchor answers for, as far as that does not depend on predictions.
    pub fn assign(&self, anchors: &PyramidAnchors, boxes: &[BoundingBox]) -> Vec<Assignment> {
        match self {
            Self::MaxIou(matcher) => matcher.assign(anchors, boxes),
            Self::Atss(assigner) => assigner.assign(anchors, boxes),
            Self::TaskAligned(_) => AtssConfig::default().init().assign(anchors, boxes),
        }
    }

    /// Whether only those anchors learn a box that overlap it by one threshold for all, so that anchors have to fit the data.
    pub const fn needs_fitting_anchors(&self) -> bool {
        matches!(self, Self::MaxIou(_))
    }

    /// The overlap from which a report counts a box as reached; where every box has one of its own, the usual 0.5.
    pub const fn foreground(&self) -> f32 {
        match self {
            Self::MaxIou(matcher) => matcher.foreground(),
            Self::Atss(_) | Self::TaskAligned(_) => 0.5,
        }
    }

    /// The overlap from which a report counts a box as nearly reached; where every box has one of its own, the usual 0.4.
    pub const fn background(&self) -> f32 {
        match self {
            Self::MaxIou(matcher) => matcher.background(),
            Self::Atss(_) | Self::TaskAligned(_) => 0.4,
        }
    }
}
