//! Puts the report together: `page/` has its parts, and what a report holds goes in as one block of
//! JSON that the page's script reads.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use retinanet_evaluation::{Analysis, JudgedDetection};
use serde_json::{Value, json};

use crate::advice::advice;
use crate::html::Page;
use crate::{GalleryImage, Report, ReportError};

const PAGE: Page = Page {
    image_sources: "data:",
    body: include_str!("../page/body.html"),
    scripts: &[
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
    ],
};

/// More boxes on an image cannot be told apart, and make the file large.
const MOST_DETECTIONS: usize = 300;

impl Report {
    /// What the run should do next, in sentences, the most pressing first; none if nothing stands out.
    pub fn advice(&self) -> Vec<String> {
        advice(self)
    }

    /// The page, which holds all it needs.
    ///
    /// # Errors
    ///
    /// Returns an error if the numbers have no form in JSON.
    pub fn to_html(&self) -> Result<String, ReportError> {
        Ok(PAGE.html(&self.title, data(self)?)?)
    }

    /// Writes the page whole, or leaves what is there.
    ///
    /// # Errors
    ///
    /// Returns an error if the page cannot be made or written.
    pub fn write(&self, path: &Path) -> Result<(), ReportError> {
        Ok(retinanet_files::write(path, self.to_html()?)?)
    }
}

fn data(report: &Report) -> Result<Value, serde_json::Error> {
    let gallery = report.gallery.iter().map(picture);
    Ok(json!({
        "title": report.title,
        "facts": report.facts,
        "config": report.config,
        "log": serde_json::to_value(&report.log)?,
        "levels": report.levels,
        "advice": report.advice(),
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
    fn the_page_asks_for_nothing() {
        let html = Report::default().to_html().unwrap();
        // The namespace of SVG is a name, not an address.
        let html = html.replace("http://www.w3.org/2000/svg", "");
        for address in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!html.contains(address), "{address}");
        }
    }
}
