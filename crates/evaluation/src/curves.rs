use std::ops::Range;

use hotcoco::metrics::{is_computed, mean_or_missing};
use hotcoco::{AccumulatedEval, COCOeval};
use retinanet_boxes::CategoryId;

/// The curves of precision over recall that an evaluation has drawn for every class, at each `IoU`
/// threshold and range of areas.
pub(crate) struct Curves<'a> {
    evaluation: &'a COCOeval,
    accumulated: &'a AccumulatedEval,
}

/// Which objects count. The labels are COCO's.
#[derive(Clone, Copy)]
pub(crate) enum Area {
    All,
    Small,
    Medium,
    Large,
}

impl Area {
    fn label(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        }
    }
}

impl<'a> Curves<'a> {
    /// `None` if the evaluation has not been accumulated.
    pub(crate) fn of(evaluation: &'a COCOeval) -> Option<Self> {
        Some(Self {
            evaluation,
            accumulated: evaluation.accumulated()?,
        })
    }

    /// Each class's place among the curves, with its id and name.
    pub(crate) fn classes(&self) -> impl Iterator<Item = (usize, CategoryId, String)> {
        let truth = self.evaluation.coco_gt();
        let ids = self.accumulated.cat_ids.iter().enumerate();
        ids.map(|(class, &id)| (class, CategoryId(id), truth.cat_name(id)))
    }

    /// A class's AP at an `IoU` threshold, or averaged over all of them; −1 where there is no
    /// object.
    pub(crate) fn average_precision(&self, class: usize, iou: Option<f64>, area: Area) -> f64 {
        let params = &self.evaluation.params;
        let thresholds = match iou {
            None => 0..self.accumulated.shape.t,
            Some(iou) => params.iou_thr_idx(iou).map_or(0..0, |at| at..at + 1),
        };
        mean(
            self.places(thresholds, class, area)
                .map(|place| self.accumulated.precision[place]),
        )
    }

    /// A class's recall with 100 detections an image, averaged over `IoU` thresholds; −1 where
    /// there is no object.
    pub(crate) fn average_recall(&self, class: usize) -> f64 {
        let params = &self.evaluation.params;
        let (area, cap) = (params.all_area_idx(), params.max_det_idx());
        mean((0..self.accumulated.shape.t).map(|threshold| {
            let place = self.accumulated.recall_idx(threshold, class, area, cap);
            self.accumulated.recall[place]
        }))
    }

    /// A class's precision at each recall, and the score that reaches it; nothing if there is no
    /// object.
    pub(crate) fn precision_and_scores(&self, class: usize, iou: f64) -> (Vec<f64>, Vec<f64>) {
        let threshold = self.evaluation.params.iou_thr_idx(iou);
        let thresholds = threshold.map_or(0..0, |at| at..at + 1);
        self.places(thresholds, class, Area::All)
            .map(|place| {
                let accumulated = self.accumulated;
                (accumulated.precision[place], accumulated.scores[place])
            })
            .filter(|&(precision, _)| is_computed(precision))
            .unzip()
    }

    /// Where the points of these curves stand, by threshold and recall.
    fn places(
        &self,
        thresholds: Range<usize>,
        class: usize,
        area: Area,
    ) -> impl Iterator<Item = usize> {
        let params = &self.evaluation.params;
        let shape = self.accumulated.shape;
        let cap = params.max_det_idx();
        let area = params.area_range_idx(area.label());
        area.into_iter().flat_map(move |area| {
            thresholds.clone().flat_map(move |threshold| {
                (0..shape.r)
                    .map(move |recall| shape.precision_idx(threshold, recall, class, area, cap))
            })
        })
    }
}

/// The mean of what is defined, −1 where nothing is.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values
        .filter(|&value| is_computed(value))
        .fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    mean_or_missing(sum, count)
}
