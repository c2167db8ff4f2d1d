//! Puts the page together: `page/` has its parts, and what a report holds goes in as one block of
//! JSON that the page's script reads.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use retinanet_evaluation::{Analysis, JudgedDetection};
use serde_json::{Value, json};

use crate::advice::advice;
use crate::{GalleryImage, Report, ReportError};

const HEAD: &str = include_str!("../page/head.html");
const BODY: &str = include_str!("../page/body.html");
const STYLE: &str = include_str!("../page/style.css");

/// One script in parts, in the order that they build on each other.
const SCRIPTS: [&str; 10] = [
    include_str!("../page/elements.js"),
    include_str!("../page/chart.js"),
    include_str!("../page/table.js"),
    include_str!("../page/training.js"),
    include_str!("../page/data.js"),
    include_str!("../page/classes.js"),
    include_str!("../page/confusion.js"),
    include_str!("../page/loss.js"),
    include_str!("../page/gallery.js"),
    include_str!("../page/main.js"),
];

/// More boxes on an image cannot be told apart, and make the file large.
const MOST_DETECTIONS: usize = 300;

/// Digits that numbers keep; more than a picture can show.
const DIGITS: usize = 6;

pub(crate) fn html(report: &Report) -> Result<String, ReportError> {
    let data = serde_json::to_string(&rounded(data(report)?))?;
    let parts = [
        HEAD,
        "<title>",
        &text(&report.title),
        "</title>\n<style>\n",
        STYLE,
        "</style>\n</head>\n",
        BODY,
        "<script type=\"application/json\" id=\"data\">",
        &within_script(&data),
        "</script>\n<script>\n\"use strict\";\n(() => {\n",
        &SCRIPTS.join("\n"),
        "})();\n</script>\n</body>\n</html>\n",
    ];
    Ok(parts.concat())
}

fn data(report: &Report) -> Result<Value, serde_json::Error> {
    let gallery = report.gallery.iter().map(picture);
    Ok(json!({
        "title": report.title,
        "facts": report.facts,
        "config": report.config,
        "log": serde_json::to_value(&report.log)?,
        "levels": report.levels,
        "advice": advice(report),
        "training_data": report.training_data,
        "validation_data": report.validation_data,
        "analysis": report.analysis.as_ref().map(analysis),
        "coverage": report.coverage,
        "loss_shares": report.loss_shares,
        "gallery": gallery.collect::<Vec<_>>(),
    }))
}

/// The images stay behind: the gallery has those that are shown.
fn analysis(analysis: &Analysis) -> Value {
    json!({
        "metrics": analysis.metrics,
        "classes": analysis.classes,
        "confusion": analysis.confusion,
        "errors": analysis.errors,
        "calibration": analysis.calibration,
        "images": analysis.images.len(),
        "score": analysis.score,
        "best": analysis.best,
        "by_score": analysis.by_score,
    })
}

fn picture(image: &GalleryImage) -> Value {
    let detections = image.analysis.detections.iter().take(MOST_DETECTIONS);
    let detection = |it: &JudgedDetection| {
        json!({
            "category_id": it.detection.category_id,
            "bbox": it.detection.bbox,
            "score": it.detection.score,
            "right": it.right,
        })
    };
    json!({
        "file_name": image.analysis.file_name,
        "width": image.width,
        "height": image.height,
        "f1": image.analysis.f1,
        "jpeg": BASE64_STANDARD.encode(&image.thumbnail),
        "objects": image.analysis.objects,
        "detections": detections.map(detection).collect::<Vec<_>>(),
    })
}

/// Shortens all numbers with a fraction.
fn rounded(value: Value) -> Value {
    match value {
        Value::Array(values) => values.into_iter().map(rounded).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            fields.map(|(key, value)| (key, rounded(value))).collect()
        }
        Value::Number(number) if number.is_f64() => {
            let short = number
                .as_f64()
                .and_then(|it| format!("{it:.0$e}", DIGITS - 1).parse::<f64>().ok());
            short.map_or(Value::Number(number), Value::from)
        }
        other => other,
    }
}

/// JSON that no HTML parser mistakes for the script's end or for a comment. In JSON, `<` stands in
/// strings only.
fn within_script(json: &str) -> String {
    json.replace('<', "\\u003c")
}

fn text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the page's script reads.
    fn block(html: &str) -> Value {
        let (_, rest) = html.split_once("id=\"data\">").unwrap();
        let (block, _) = rest.split_once("</script>").unwrap();
        serde_json::from_str(block).unwrap()
    }

    #[test]
    fn no_name_ends_the_script_or_begins_a_comment() {
        let nasty = "</script><!--<script>alert(1)</script> & \u{2028} \"'";
        let report = Report {
            title: nasty.into(),
            config: nasty.into(),
            ..Report::default()
        };
        let html = report.to_html().unwrap();
        assert_eq!(block(&html)["title"], nasty);
        assert_eq!(block(&html)["config"], nasty);
        assert!(html.contains("<title>&lt;/script>&lt;!--&lt;script>alert(1)&lt;/script> &amp;"));
        assert!(!html.contains("<!--"));
        assert_eq!(html.matches("</script>").count(), 2);
    }

    #[test]
    fn numbers_are_short_and_what_is_no_number_is_null() {
        let value = json!({
            "a": [1.0 / 3.0, -1.0, 2e-9 / 3.0, 12_345_678_901_u64],
            "b": f64::NAN,
            "c": "0.3333333333",
        });
        assert_eq!(
            rounded(value).to_string(),
            r#"{"a":[0.333333,-1.0,6.66667e-10,12345678901],"b":null,"c":"0.3333333333"}"#
        );
    }

    #[test]
    fn the_page_asks_for_nothing() {
        let html = Report::default().to_html().unwrap();
        // The namespace of SVG is a name, not an address.
        let html = html.replace("http://www.w3.org/2000/svg", "");
        for address in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!html.contains(address), "{address}");
        }
    }
}
