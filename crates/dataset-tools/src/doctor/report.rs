use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use retinanet_annotations::CocoFile;
use serde::Serialize;

use crate::doctor::{Kind, Severity};

/// What [`check`](crate::doctor::check) found. Printed, it is for people; serialised, for
/// programs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The annotations file.
    pub file: String,
    /// How many images it lists.
    pub images: usize,
    /// How many annotations it lists.
    pub annotations: usize,
    /// How many categories it lists.
    pub categories: usize,
    /// Whether the image files were read and decoded.
    pub files_opened: bool,
    /// What is wrong or worth knowing, one entry a kind: errors first, then in the order of
    /// [`Kind`].
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether there is an error: something that training fails on or would lie about.
    pub fn fails(&self) -> bool {
        self.of(Severity::Error).next().is_some()
    }

    /// What was found of a kind.
    pub fn find(&self, kind: Kind) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.kind == kind)
    }

    /// The errors alone, as they are shown before training.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.of(Severity::Error)
    }

    fn of(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        let findings = self.findings.iter();
        findings.filter(move |finding| finding.severity == severity)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            images,
            annotations,
            categories,
            files_opened,
            findings,
        } = self;
        writeln!(
            f,
            "{file}: {images} images, {annotations} annotations, {categories} categories{}",
            if *files_opened {
                ""
            } else {
                "; the image files were not opened"
            }
        )?;
        if findings.is_empty() {
            return writeln!(f, "Nothing to remark.");
        }
        let kinds = |severity| self.of(severity).count();
        writeln!(
            f,
            "Kinds of errors: {}, of warnings: {}, of notes: {}",
            kinds(Severity::Error),
            kinds(Severity::Warning),
            kinds(Severity::Note)
        )?;
        for finding in findings {
            write!(f, "\n{finding}")?;
        }
        Ok(())
    }
}

/// All that was found of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// How bad it is.
    pub severity: Severity,
    /// How many records or files it was found in.
    pub count: usize,
    /// The first of them in the order of the file, at most
    /// [`CheckRequest::examples`](crate::doctor::CheckRequest::examples).
    pub examples: Vec<Example>,
    /// What training will do about it.
    pub consequence: &'static str,
    /// What to do.
    pub advice: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            severity,
            count,
            examples,
            consequence,
            advice,
        } = self;
        writeln!(f, "{severity}: {} ({count})", kind.title())?;
        for Example { id, file, detail } in examples {
            let subject = kind.subject();
            match (id, file) {
                (Some(id), Some(file)) => writeln!(f, "  {subject} {id} (`{file}`): {detail}")?,
                (Some(id), None) => writeln!(f, "  {subject} {id}: {detail}")?,
                (None, Some(file)) => writeln!(f, "  `{file}`: {detail}")?,
                (None, None) => writeln!(f, "  {detail}")?,
            }
        }
        if *count > examples.len() {
            writeln!(f, "  and {} more", count - examples.len())?;
        }
        writeln!(f, "  What happens: {consequence}")?;
        writeln!(f, "  What to do: {advice}")
    }
}

/// One place where a fault was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    /// The id of the annotation, image or category, where it has one that can be read.
    pub id: Option<u64>,
    /// The image's file name as the annotations write it, where there is one.
    pub file: Option<String>,
    /// What is wrong, in words.
    pub detail: String,
}

/// What was found so far.
pub(super) struct Findings {
    found: BTreeMap<Kind, Finding>,
    /// How many examples of a kind are kept.
    examples: usize,
}

impl Findings {
    pub(super) const fn new(examples: usize) -> Self {
        Self {
            found: BTreeMap::new(),
            examples,
        }
    }

    /// Adds one more; what is wrong is only put into words where it becomes an example.
    pub(super) fn add(
        &mut self,
        kind: Kind,
        id: Option<u64>,
        file: Option<&str>,
        detail: impl FnOnce() -> String,
    ) {
        let finding = self.found.entry(kind).or_insert_with(|| Finding {
            kind,
            severity: kind.severity(),
            count: 0,
            examples: Vec::new(),
            consequence: kind.consequence(),
            advice: kind.advice(),
        });
        finding.count += 1;
        if finding.examples.len() < self.examples {
            finding.examples.push(Example {
                id,
                file: file.map(Into::into),
                detail: detail(),
            });
        }
    }

    /// The report on a file whose images were not opened.
    pub(super) fn into_report(self, path: &Path, coco: &CocoFile) -> Report {
        Report {
            file: path.display().to_string(),
            images: coco.images.records().len(),
            annotations: coco.annotations.records().len(),
            categories: coco.categories.records().len(),
            files_opened: false,
            findings: self.into_sorted(),
        }
    }

    /// Errors first, then in the order of [`Kind`].
    fn into_sorted(self) -> Vec<Finding> {
        let mut findings: Vec<_> = self.found.into_values().collect();
        findings.sort_by_key(|finding| finding.severity);
        findings
    }
}
