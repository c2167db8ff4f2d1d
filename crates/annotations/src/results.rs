//! COCO's results files: what a detector found.

use std::path::Path;

use serde_json::Value;

use crate::error::AnnotationsError;
use crate::fields::Fields;
use crate::file::{List, read_list};
use crate::record::{Masks, RawBox, Record, faults, shown, whole_number};

/// A detection of a results file.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultRecord {
    /// The image's id, if the record has one.
    pub image: Option<u64>,
    /// The name of the image's file, if the record has no id.
    pub file_name: Option<String>,
    /// The category's id.
    pub category: u64,
    /// `[x, y, width, height]` in pixels; NaN for `null`.
    pub bbox: [f64; 4],
    /// The score.
    pub score: f64,
    /// What cannot be understood; the numbers above are then 0 where they are concerned.
    faults: Vec<String>,
}

/// Reads a results file: a list of detections, or an object that holds one as `annotations` or
/// `detections`. Numbers may be written as text.
///
/// # Errors
///
/// Returns an error if the file cannot be read or is not JSON, is no such list, or has a record that is no
/// detection, which it shows.
pub fn read_results(path: &Path) -> Result<Vec<ResultRecord>, AnnotationsError> {
    let not_results = |found: String| AnnotationsError::NotResults {
        path: path.into(),
        found,
    };
    let list: List<ResultRecord> =
        read_list(path, &["annotations", "detections"]).map_err(|error| match error {
            AnnotationsError::NotCoco { .. } => not_results("it holds no list".into()),
            other => other,
        })?;
    let List::Records(records) = list else {
        return Err(not_results("it holds no list".into()));
    };
    match records.iter().position(|record| !record.faults.is_empty()) {
        None => Ok(records),
        Some(index) => Err(not_results(format!(
            "of detection {index}, {}",
            records[index].faults.join(", ")
        ))),
    }
}

impl Record for ResultRecord {
    fn keys(_: Masks) -> &'static [&'static str] {
        &["image_id", "file_name", "category_id", "bbox", "score"]
    }

    fn of(fields: &Fields, _: Masks) -> Self {
        let mut faults = faults(fields);
        let mut fault =
            |key: &str, place| faults.push(format!("`{key}` is {}", shown(fields.get(place))));
        let id = |place| fields.get(place).and_then(id);
        let file_name = fields.get(1).and_then(Value::as_str).map(str::to_owned);
        let image = id(0);
        if fields
            .get(0)
            .map_or(file_name.is_none(), |_| image.is_none())
        {
            fault("image_id", 0);
        }
        let category = id(2);
        if category.is_none() {
            fault("category_id", 2);
        }
        let score = fields.get(4).and_then(number);
        if score.is_none() {
            fault("score", 4);
        }
        let bbox = match RawBox::of(fields.field(3)) {
            RawBox::Numbers(numbers) => numbers,
            RawBox::Malformed(found) => {
                faults.push(found);
                [0.0; 4]
            }
            RawBox::Missing => {
                fault("bbox", 3);
                [0.0; 4]
            }
        };
        Self {
            image,
            file_name: file_name.filter(|_| image.is_none()),
            category: category.unwrap_or_default(),
            bbox,
            score: score.unwrap_or_default(),
            faults,
        }
    }
}

fn id(value: &Value) -> Option<u64> {
    match value {
        Value::String(digits) => digits.trim().parse().ok(),
        value => whole_number(value),
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::String(digits) => digits.trim().parse().ok(),
        value => value.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<ResultRecord>, AnnotationsError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("results.json");
        fs_err::write(&path, text).expect("the folder is ours");
        read_results(&path)
    }

    #[test]
    fn every_form_of_a_detection_is_read() {
        let plain =
            read(r#"[{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}]"#);
        let plain = plain.expect("it is as COCO writes it");
        assert_eq!(plain[0].bbox, [1.0, 2.0, 3.0, 4.0]);
        for other in [
            r#"[{"image_id": 1.0, "category_id": 2.0, "bbox": [1.0, 2, 3, 4], "score": 0.5, "id": 9}]"#,
            r#"[{"image_id": "1", "category_id": "2", "bbox": [1, 2, 3, 4], "score": "0.5"}]"#,
            r#"{"info": 3, "annotations": [{"image_id": 1, "file_name": "a.png", "category_id": 2,
                "bbox": [1, 2, 3, 4], "score": 0.5}]}"#,
        ] {
            assert_eq!(read(other).expect(other), plain);
        }
        let named =
            read(r#"[{"file_name": "a.png", "category_id": 2, "bbox": [1, 2, 3, 4], "score": 1}]"#);
        assert_eq!(
            named.expect("it is named")[0].file_name.as_deref(),
            Some("a.png")
        );
        for empty in ["[]", r#"{"annotations": []}"#] {
            assert_eq!(read(empty).expect(empty), []);
        }
    }

    #[test]
    fn what_is_no_detection_is_shown() {
        for (text, expected) in [
            ("3", "it holds no list"),
            (r#"{"images": []}"#, "it holds no list"),
            ("[7]", "of detection 0, it is 7, not an object"),
            (
                r#"[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]"#,
                "`score` is missing",
            ),
            (
                r#"[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": null}]"#,
                "`score` is null",
            ),
            (
                r#"[{"image_id": -1, "category_id": 1, "bbox": [1, 2, 3], "score": 1}]"#,
                "`image_id` is -1, `bbox` has 3 numbers",
            ),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{error}");
            assert!(
                error.contains("results.json` is not a list of detections"),
                "{error}"
            );
        }
    }
}
