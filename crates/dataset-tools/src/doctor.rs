//! Looks a data set over before a long run: what is wrong with the annotations and the image
//! files, what training will do about it, and what to do.
//!
//! [`CocoDataset::read`](retinanet_data::CocoDataset::read) stops at the first fault; [`check`] reads past
//! all of them and lists each kind with its count and the first few examples. [`fix()`] repairs what
//! can be repaired without guessing.
//!
//! ```no_run
//! use retinanet_dataset_tools::doctor::{CheckRequest, Split, check};
//!
//! # fn main() -> Result<(), retinanet_data::DataError> {
//! let request = CheckRequest::new(Split::new("train.json", "images"));
//! let report = check(&request, &|_done, _total| {})?;
//! assert!(!report.fails(), "{report}");
//! # Ok(())
//! # }
//! ```

use std::path::PathBuf;

mod anchors;
mod boxes;
mod files;
mod fix;
mod kind;
mod records;
mod report;

pub use self::anchors::Anchors;
pub use self::fix::{Fixed, fix};
pub use self::kind::{Kind, Severity};
pub use self::report::{Example, Finding, Report};

use retinanet_annotations::{CocoFile, Masks};
use retinanet_data::DataError;
use retinanet_images::Decoding;

use self::report::Findings;

/// So many examples show what is wrong, and fit on a screen.
const EXAMPLES: usize = 5;

/// What [`check`] checks.
#[derive(Clone, Debug)]
pub struct CheckRequest {
    /// The split to check.
    pub split: Split,
    /// What it is for. Default: training.
    pub role: Role,
    /// The validation that it is held against: an image that is in both is a fault, and a category that
    /// training does not have. Of this split nothing else is checked.
    pub other: Option<Split>,
    /// Whether to read and decode the image files. Default: `true`.
    pub open_images: bool,
    /// What image files are taken, and how they become images.
    pub decoding: Decoding,
    /// How many examples of a kind are kept. Default: 5.
    pub examples: usize,
    /// What training will match the boxes with; without it no box is called unreachable.
    pub anchors: Option<Anchors>,
}

impl CheckRequest {
    /// Looks over one split, its image files included.
    pub fn new(split: Split) -> Self {
        Self {
            split,
            role: Role::Training,
            other: None,
            open_images: true,
            decoding: Decoding::default(),
            examples: EXAMPLES,
            anchors: None,
        }
    }
}

/// What a split is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To learn from.
    Training,
    /// To measure with.
    Validation,
}

/// A COCO instances file and its images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The annotations file.
    pub annotations: PathBuf,
    /// The folder that file names are relative to.
    pub images_root: PathBuf,
}

impl Split {
    /// The split of this annotations file and this folder of images.
    pub fn new(annotations: impl Into<PathBuf>, images_root: impl Into<PathBuf>) -> Self {
        Self {
            annotations: annotations.into(),
            images_root: images_root.into(),
        }
    }
}

/// A split and its annotations file.
#[derive(Clone, Copy)]
struct SplitFile<'a> {
    split: &'a Split,
    coco: &'a CocoFile,
}

/// Checks a data set, the image files on all threads of rayon's pool.
///
/// `progress` is told how many image files of how many are done, from any thread and not always in
/// order; where no files are opened it is not called.
///
/// # Errors
///
/// Returns an error if an annotations file cannot be read, is not JSON, or is JSON but not an
/// object; all else is a finding.
pub fn check(
    request: &CheckRequest,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Report, DataError> {
    let CheckRequest {
        split,
        role,
        other,
        open_images,
        decoding,
        examples,
        anchors,
    } = request;
    let read = |split: &Split| CocoFile::read(&split.annotations, Masks::Bounds);
    let coco = read(split)?;
    let other_coco = other.as_ref().map(read).transpose()?;
    let other =
        (other.as_ref().zip(other_coco.as_ref())).map(|(split, coco)| SplitFile { split, coco });

    let mut findings = check_annotations(&coco, *role, *examples);
    if let Some(other) = other {
        records::other_categories(&coco, other, &mut findings);
    }
    if let Some(anchors) = anchors {
        anchors.check(&coco, &mut findings)?;
    }
    if *open_images {
        let file = SplitFile { split, coco: &coco };
        files::check(file, other, *decoding, progress, &mut findings);
    }
    let mut report = findings.into_report(&split.annotations, &coco);
    report.files_opened = *open_images;
    Ok(report)
}

/// Looks over what one annotations file says.
fn check_annotations(coco: &CocoFile, role: Role, examples: usize) -> Findings {
    let mut findings = Findings::new(examples);
    records::check(coco, &mut findings);
    boxes::check(coco, role, &mut findings);
    findings
}

#[cfg(test)]
mod tests;
