//! What an analysis and a comparison say, as text for a terminal.

use std::cmp::Reverse;

use crate::columns::{shown, table};
use crate::{
    Analysis, Calibration, ClassAnalysis, Comparison, Confusion, Difference, ErrorParts,
    ImageAnalysis, OperatingPoint,
};

/// How many of the worst are listed.
const LISTED: usize = 10;

impl Analysis {
    /// The classes by falling AP, those without objects last: AP and AR, and the score at which F1
    /// is largest with precision and recall there.
    pub fn class_table(&self) -> String {
        let mut classes: Vec<&ClassAnalysis> = self.classes.iter().collect();
        classes.sort_by(|a, b| b.ap.total_cmp(&a.ap));
        table(
            &[
                "class",
                "objects",
                "AP",
                "AP50",
                "AP75",
                "APs",
                "APm",
                "APl",
                "AR",
                "F1",
                "score",
                "precision",
                "recall",
            ],
            classes.into_iter().map(ClassAnalysis::row),
        )
    }

    /// The images that are detected worst.
    pub fn image_table(&self) -> String {
        let images = self.images.iter().take(LISTED);
        table(
            &["image", "right", "wrong", "missed", "F1"],
            images.map(ImageAnalysis::row),
        )
    }
}

impl ClassAnalysis {
    fn row(&self) -> Vec<String> {
        let mut row = vec![self.name.clone(), self.objects.to_string()];
        row.extend(
            [
                self.ap,
                self.ap50,
                self.ap75,
                self.ap_small,
                self.ap_medium,
                self.ap_large,
                self.ar100,
            ]
            .map(shown),
        );
        let at_best = |value: fn(&OperatingPoint) -> f64| {
            let best = self.best.as_ref();
            best.map_or("-".into(), |best| format!("{:.3}", value(best)))
        };
        row.extend([
            at_best(|best| best.f1),
            at_best(|best| best.score),
            at_best(|best| best.precision),
            at_best(|best| best.recall),
        ]);
        row
    }
}

impl ImageAnalysis {
    fn row(&self) -> Vec<String> {
        let name = if self.file_name.is_empty() {
            format!("image {}", self.image_id.0)
        } else {
            self.file_name.clone()
        };
        let counts = [self.right, self.wrong, self.missed].map(|count| count.to_string());
        let mut row = vec![name];
        row.extend(counts);
        row.push(shown(self.f1));
        row
    }
}

impl Confusion {
    /// The classes that are most often taken for one another, with the share of the first one's
    /// objects.
    pub fn table(&self) -> String {
        let mut confused = Vec::new();
        for ((object, counts), name) in self.counts.iter().enumerate().zip(&self.names) {
            let objects: u64 = counts.iter().sum();
            for ((detection, &count), taken_for) in counts.iter().enumerate().zip(&self.names) {
                if detection != object && count > 0 {
                    confused.push((count, objects, format!("{name} for {taken_for}")));
                }
            }
        }
        confused.sort_by_key(|&(count, ..)| Reverse(count));
        confused.truncate(LISTED);
        let rows = confused.into_iter().map(|(count, objects, pair)| {
            let share = count as f64 / objects as f64;
            vec![pair, count.to_string(), shown(share)]
        });
        table(&["class taken", "count", "share"], rows)
    }
}

impl ErrorParts {
    /// The kinds of errors, with how often they happen and what AP at an `IoU` of 0.5 would gain
    /// without them.
    pub fn table(&self) -> String {
        let kinds = [
            ("wrong class", self.classification),
            ("bad location", self.localization),
            ("both", self.both),
            ("duplicate", self.duplicate),
            ("background", self.background),
            ("missed", self.missed),
        ];
        let mut rows: Vec<Vec<String>> = kinds
            .map(|(kind, part)| vec![kind.into(), part.count.to_string(), signed(part.ap)])
            .into();
        rows.push(vec![
            "all false positives".into(),
            String::new(),
            signed(self.false_positives),
        ]);
        rows.push(vec![
            "all false negatives".into(),
            String::new(),
            signed(self.false_negatives),
        ]);
        table(&["error", "count", "AP50"], rows.into_iter())
    }
}

impl Calibration {
    /// The calibration error, and each bin that has detections.
    pub fn table(&self) -> String {
        let rows = self
            .bins
            .iter()
            .filter(|bin| bin.detections > 0)
            .map(|bin| {
                vec![
                    format!("{:.1} to {:.1}", bin.from, bin.to),
                    bin.detections.to_string(),
                    shown(bin.score),
                    shown(bin.precision),
                ]
            });
        let bins = table(&["score", "detections", "mean", "right"], rows);
        format!(
            "calibration error {:.3}, at worst {:.3}\n{bins}",
            self.error, self.worst
        )
    }
}

impl Comparison {
    /// COCO's numbers of both; a star stands where the interval excludes no difference.
    pub fn table(&self) -> String {
        table(
            &["metric", "a", "b", "b - a", "95 %", ""],
            self.metrics.iter().map(Difference::metric_row),
        )
    }

    /// AP of both by class, the largest loss first.
    pub fn class_table(&self) -> String {
        table(
            &["class", "a", "b", "b - a"],
            self.classes.iter().map(Difference::row),
        )
    }
}

impl Difference {
    fn row(&self) -> Vec<String> {
        let difference = if self.is_defined() {
            signed(self.difference)
        } else {
            "-".into()
        };
        vec![self.name.clone(), shown(self.a), shown(self.b), difference]
    }

    fn metric_row(&self) -> Vec<String> {
        let mut row = self.row();
        let (interval, mark) = match self.interval {
            None => ("-".into(), ""),
            Some([from, to]) => {
                let excludes_zero = from > 0.0 || to < 0.0;
                let text = format!("{} to {}", signed(from), signed(to));
                (text, if excludes_zero { "*" } else { "" })
            }
        };
        row.extend([interval, mark.into()]);
        row
    }
}

/// A difference with three decimals and its sign; none is `+0.000`, however it was rounded.
fn signed(value: f64) -> String {
    let rounded = (value * 1000.0).round() / 1000.0;
    format!("{:+.3}", rounded + 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["Blüte", "1", ""], ["a", "1000", "*"]];
        let rows = rows.map(|row| row.map(String::from).to_vec());
        assert_eq!(
            table(&["class", "n", ""], rows.into_iter()),
            "class     n\n\
             Blüte     1\n\
             a      1000  *\n"
        );
    }

    #[test]
    fn no_difference_has_one_sign() {
        assert_eq!(signed(-0.0), "+0.000");
        assert_eq!(signed(-1e-9), "+0.000");
        assert_eq!(signed(-0.0006), "-0.001");
        assert_eq!(signed(0.25), "+0.250");
    }

    #[test]
    fn what_is_undefined_is_a_dash() {
        assert_eq!(shown(-1.0), "-");
        assert_eq!(shown(0.0), "0.000");
    }

    #[test]
    fn a_star_stands_where_the_interval_excludes_no_difference() {
        let mark = |from, to| {
            let difference = Difference {
                name: "AP".into(),
                a: 0.5,
                b: 0.6,
                difference: 0.1,
                interval: Some([from, to]),
            };
            difference.metric_row()[5].clone()
        };
        assert_eq!(mark(0.01, 0.2), "*");
        assert_eq!(mark(-0.2, -0.01), "*");
        assert_eq!(mark(-0.01, 0.2), "");
        assert_eq!(mark(0.0, 0.0), "");
    }
}
