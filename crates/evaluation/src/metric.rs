//! The numbers of an evaluation, each with its name: one table for all who show, write or choose one.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::columns::shown;
use crate::metrics::{Metrics, coco_max_detections};

/// A number of an evaluation, by COCO's short name.
#[derive(Clone, Copy)]
pub struct Metric {
    /// COCO's short name, such as `AP50`.
    pub name: &'static str,
    /// What it is.
    pub meaning: &'static str,
    value: fn(&Metrics) -> f64,
}

impl Metric {
    /// All of them, in COCO's order.
    pub const ALL: [Self; 12] = [
        Self::AP,
        metric("AP50", "at IoU 0.50", |it| it.ap50),
        metric("AP75", "at IoU 0.75", |it| it.ap75),
        metric("APs", "objects up to 32² pixels", |it| it.ap_small),
        metric("APm", "objects from 32² to 96² pixels", |it| it.ap_medium),
        metric("APl", "objects from 96² pixels", |it| it.ap_large),
        metric("AR1", "average recall, 1 detection an image", |it| it.ar1),
        metric("AR10", "10 detections", |it| it.ar10),
        metric("AR100", "100 detections", |it| it.ar100),
        metric("ARs", "objects up to 32² pixels", |it| it.ar_small),
        metric("ARm", "objects from 32² to 96² pixels", |it| it.ar_medium),
        metric("ARl", "objects from 96² pixels", |it| it.ar_large),
    ];

    /// Average precision.
    pub const AP: Self = metric("AP", "average precision, IoU 0.50 to 0.95", |it| it.ap);

    /// The metric of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name == name)
    }

    /// This number of an evaluation, as COCO has it: −1 where it is undefined.
    pub fn raw(self, metrics: &Metrics) -> f64 {
        (self.value)(metrics)
    }

    /// This number of an evaluation; nothing if it is undefined, since there are no boxes to find.
    pub fn of(self, metrics: &Metrics) -> Option<f64> {
        Some(self.raw(metrics)).filter(|number| *number >= 0.0)
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // With another number of detections, the recall is of that.
        let most = self.max_detections;
        for metric in Metric::ALL {
            let [name, meaning] = [metric.name, metric.meaning].map(|text| {
                let is_of_most = metric.name == "AR100" && most != coco_max_detections();
                if is_of_most {
                    text.replace("100", &most.to_string())
                } else {
                    text.to_owned()
                }
            });
            let value = shown(metric.raw(self));
            writeln!(formatter, "{name:<5}  {value:>5}  {meaning}")?;
        }
        Ok(())
    }
}

const fn metric(name: &'static str, meaning: &'static str, value: fn(&Metrics) -> f64) -> Metric {
    Metric {
        name,
        meaning,
        value,
    }
}

impl Default for Metric {
    fn default() -> Self {
        Self::AP
    }
}

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Metric {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Metric {}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        let names = &Self::ALL.map(|metric| metric.name);
        Self::named(&name).ok_or_else(|| {
            let known: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            D::Error::custom(format!(
                "unknown variant `{name}`, expected one of {}",
                known.join(", ")
            ))
        })
    }
}

impl JsonSchema for Metric {
    fn schema_name() -> Cow<'static, str> {
        "Metric".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let choices =
            Self::ALL.map(|it| json_schema!({ "const": it.name, "description": it.meaning }));
        json_schema!({ "oneOf": choices })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_reads_back_by_its_name() {
        for metric in Metric::ALL {
            let json = serde_json::to_string(&metric).unwrap();
            assert_eq!(serde_json::from_str::<Metric>(&json).unwrap(), metric);
        }
        let error = serde_json::from_str::<Metric>("\"AP5\"").unwrap_err();
        assert!(error.to_string().contains("`AP50`"), "{error}");
    }
}
