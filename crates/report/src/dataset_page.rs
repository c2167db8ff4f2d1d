//! A page of a data set's images with their boxes, and of what a check has found in them.

use std::path::Path;

use serde::Serialize;

use crate::ReportError;
use crate::html::Page;

const PAGE: Page = Page {
    image_sources: "data: file: 'self'",
    body: include_str!("../page/view.html"),
    scripts: &[
        include_str!("../page/elements.js"),
        include_str!("../page/view.js"),
    ],
};

/// Images of a data set, to be looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DatasetPage {
    /// What the page is called.
    pub title: String,
    /// Which images are shown, and how, in a sentence or two.
    pub about: String,
    /// Settings that the images have been varied by, as TOML; empty if there are none.
    pub settings: String,
    /// The classes' names and colours; [`BoxOverlay::class`] is a place among them.
    pub classes: Vec<ClassColor>,
    /// The images, in the order in which they are shown.
    pub images: Vec<ImageView>,
}

/// A class and the colour of its boxes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassColor {
    /// The class's name.
    pub name: String,
    /// A colour of CSS, such as `#ff1414`.
    pub color: String,
}

/// An image, as it is and as the network sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImageView {
    /// The file's name, as the annotations have it.
    pub file_name: String,
    /// Its id, size and number of boxes, in words.
    pub about: String,
    /// What a check has found in it, the worst first.
    pub findings: Vec<ImageFinding>,
    /// Pictures of it; the first one shows it as it is.
    pub views: Vec<Picture>,
}

/// What a check has found in an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ImageFinding {
    /// How bad it is: `error`, `warning` or `note`.
    pub severity: String,
    /// What kind of fault it is.
    pub title: String,
    /// What is wrong, in words.
    pub detail: String,
}

/// A picture with boxes over it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Picture {
    /// What it shows.
    pub caption: String,
    /// Its file below the page's folder, parted by `/`.
    pub file: String,
    /// Width of the image that the boxes belong to, in pixels; the picture is stretched over it.
    pub width: u32,
    /// Its height, in pixels.
    pub height: u32,
    /// The boxes.
    pub objects: Vec<BoxOverlay>,
}

/// A box of a picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BoxOverlay {
    /// A place among the page's classes.
    pub class: usize,
    /// `[x, y, width, height]` in pixels.
    pub bbox: [f64; 4],
    /// Whether it is a region to ignore.
    pub crowd: bool,
}

impl DatasetPage {
    /// The page. Its images are files beside it.
    ///
    /// # Errors
    ///
    /// Returns an error if the numbers have no form in JSON.
    pub fn to_html(&self) -> Result<String, ReportError> {
        Ok(PAGE.html(&self.title, serde_json::to_value(self)?)?)
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
