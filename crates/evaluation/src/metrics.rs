use hotcoco::COCOeval;
use retinanet_boxes::CategoryId;
use serde::{Deserialize, Serialize};

use crate::columns::{shown, table};
use crate::curves::{Area, Curves};

/// The metrics of the COCO challenge, each in `[0, 1]`, or −1 where there is no object to find.
///
/// AP is the average precision over `IoU` thresholds 0.50 to 0.95, recalls and classes, AR the
/// recall averaged likewise, and each takes at most [`max_detections`](Self::max_detections) of an image and
/// class where no other number is named. Serialised, the fields have COCO's short names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Average precision.
    #[serde(rename = "AP")]
    pub ap: f64,
    /// AP at an `IoU` of 0.50.
    #[serde(rename = "AP50")]
    pub ap50: f64,
    /// AP at an `IoU` of 0.75.
    #[serde(rename = "AP75")]
    pub ap75: f64,
    /// AP of objects up to 32² square pixels.
    #[serde(rename = "APs")]
    pub ap_small: f64,
    /// AP of objects from 32² to 96² square pixels.
    #[serde(rename = "APm")]
    pub ap_medium: f64,
    /// AP of objects from 96² square pixels.
    #[serde(rename = "APl")]
    pub ap_large: f64,
    /// Average recall with one detection an image and class.
    #[serde(rename = "AR1")]
    pub ar1: f64,
    /// AR with 10 detections.
    #[serde(rename = "AR10")]
    pub ar10: f64,
    /// AR with [`max_detections`](Self::max_detections).
    #[serde(rename = "AR100")]
    pub ar100: f64,
    /// AR of objects up to 32² square pixels.
    #[serde(rename = "ARs")]
    pub ar_small: f64,
    /// AR of objects from 32² to 96² square pixels.
    #[serde(rename = "ARm")]
    pub ar_medium: f64,
    /// AR of objects from 96² square pixels.
    #[serde(rename = "ARl")]
    pub ar_large: f64,
    /// How many detections of an image and class count: 100, as COCO has it, unless someone asked for
    /// another number.
    #[serde(default = "coco_max_detections")]
    pub max_detections: usize,
    /// Every category of the annotations, by category id.
    pub per_class: Vec<ClassMetrics>,
}

/// The metrics of one category, or −1 where there is no object of it to find.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// The COCO category id.
    pub category_id: CategoryId,
    /// The category's name.
    pub name: String,
    /// Average precision over `IoU` thresholds 0.50 to 0.95 and recalls.
    #[serde(rename = "AP")]
    pub ap: f64,
    /// AP at an `IoU` of 0.50.
    #[serde(rename = "AP50")]
    pub ap50: f64,
}

impl Metrics {
    /// A table of the classes by falling AP, those without objects last.
    pub fn class_table(&self) -> String {
        let mut classes: Vec<&ClassMetrics> = self.per_class.iter().collect();
        classes.sort_by(|a, b| b.ap.total_cmp(&a.ap));
        let rows = classes
            .into_iter()
            .map(|class| vec![class.name.clone(), shown(class.ap), shown(class.ap50)]);
        table(&["class", "AP", "AP50"], rows)
    }

    /// Reads a finished evaluation.
    pub(crate) fn of(evaluation: &COCOeval) -> Self {
        let names = evaluation.metric_keys();
        let values = evaluation.stats().unwrap_or_default();
        let value = |name: &str| {
            let place = names.iter().position(|&found| found == name);
            place
                .and_then(|place| values.get(place).copied())
                .unwrap_or(-1.0)
        };
        let most = evaluation.params.max_dets.iter().copied().max();
        Self {
            max_detections: most.unwrap_or_else(coco_max_detections),
            ..Self::new(value, ClassMetrics::of(evaluation))
        }
    }

    fn new(value: impl Fn(&str) -> f64, per_class: Vec<ClassMetrics>) -> Self {
        Self {
            ap: value("AP"),
            ap50: value("AP50"),
            ap75: value("AP75"),
            ap_small: value("APs"),
            ap_medium: value("APm"),
            ap_large: value("APl"),
            ar1: value("AR1"),
            ar10: value("AR10"),
            ar100: value("AR100"),
            ar_small: value("ARs"),
            ar_medium: value("ARm"),
            ar_large: value("ARl"),
            max_detections: coco_max_detections(),
            per_class,
        }
    }
}

pub(crate) const fn coco_max_detections() -> usize {
    100
}

impl ClassMetrics {
    fn of(evaluation: &COCOeval) -> Vec<Self> {
        let Some(curves) = Curves::of(evaluation) else {
            return Vec::new();
        };
        curves
            .classes()
            .map(|(class, category_id, name)| Self {
                category_id,
                name,
                ap: curves.average_precision(class, None, Area::All),
                ap50: curves.average_precision(class, Some(0.5), Area::All),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        let class = |category, name: &str, ap| ClassMetrics {
            category_id: CategoryId(category),
            name: name.into(),
            ap,
            ap50: ap,
        };
        let per_class = vec![
            class(1, "Platelets", 0.25),
            class(2, "dish", -1.0),
            class(3, "WBC", 1.0),
        ];
        Metrics::new(|name| if name == "APl" { -1.0 } else { 0.50458 }, per_class)
    }

    #[test]
    fn the_summary_is_a_table() {
        let text = metrics().to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 12);
        assert_eq!(
            lines[0],
            "AP     0.505  average precision, IoU 0.50 to 0.95"
        );
        assert_eq!(lines[5], "APl        -  objects from 96² pixels");
        assert_eq!(lines[8], "AR100  0.505  100 detections");
    }

    #[test]
    fn the_class_table_starts_with_the_best() {
        assert_eq!(
            metrics().class_table(),
            "class         AP   AP50\n\
             WBC        1.000  1.000\n\
             Platelets  0.250  0.250\n\
             dish           -      -\n"
        );
    }

    #[test]
    fn metrics_are_written_under_cocos_names() {
        let value = serde_json::to_value(metrics()).unwrap();
        let object = value.as_object().unwrap();
        let mut names: Vec<&str> = object.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "AP",
                "AP50",
                "AP75",
                "APl",
                "APm",
                "APs",
                "AR1",
                "AR10",
                "AR100",
                "ARl",
                "ARm",
                "ARs",
                "max_detections",
                "per_class",
            ]
        );
        assert_eq!(
            object["per_class"][0],
            serde_json::json!({"category_id": 1, "name": "Platelets", "AP": 0.25, "AP50": 0.25})
        );
        assert_eq!(serde_json::from_value::<Metrics>(value).unwrap(), metrics());
    }
}
