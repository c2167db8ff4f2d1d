//! Ids, names and what points at what.

use std::collections::{HashMap, HashSet};

use retinanet_annotations::{Category, CocoFile, List};

use crate::doctor::report::Findings;
use crate::doctor::{Kind, SplitFile};

/// Up to here every whole number is a float of 64 bits.
const LARGEST_ID: u64 = 1 << 53;

pub(super) fn check(coco: &CocoFile, findings: &mut Findings) {
    lists(coco, findings);
    malformed(coco, findings);
    images(coco, findings);
    annotations(coco, findings);
    categories(coco, findings);
}

fn lists(coco: &CocoFile, findings: &mut Findings) {
    let mut judge = |name, state: Option<&str>| {
        if let Some(state) = state {
            findings.add(Kind::MissingList, None, None, || {
                format!("`{name}` is {state}")
            });
        }
    };
    judge("images", list_fault(&coco.images));
    // Without any there is nothing to learn, or to measure, which is a finding of its own.
    let annotations = list_fault(&coco.annotations).filter(|_| !coco.annotations.is_list());
    judge("annotations", annotations);
    judge("categories", list_fault(&coco.categories));
    for list in &coco.repeated {
        judge(list, Some("there twice"));
    }
}

fn list_fault<T>(list: &List<T>) -> Option<&'static str> {
    match list {
        List::Missing => Some("missing"),
        List::Other => Some("not a list"),
        List::Records(records) if records.is_empty() => Some("empty"),
        List::Records(_) => None,
    }
}

fn malformed(coco: &CocoFile, findings: &mut Findings) {
    for fault in coco.faults() {
        findings.add(Kind::MalformedRecord, fault.id, None, || {
            format!(
                "`{}[{}]`: {}",
                fault.list,
                fault.index,
                fault.faults.join(", ")
            )
        });
    }
}

/// Finds the categories of validation that training does not have: those of boxes, and those whose id
/// has another name there.
pub(super) fn other_categories(train: &CocoFile, val: SplitFile<'_>, findings: &mut Findings) {
    // What has no categories at all is reported as that.
    if !train.categories.is_list() {
        return;
    }
    let by_id = |file: &CocoFile| -> HashMap<u64, Category> {
        let categories = file.categories.records().iter();
        (categories.filter_map(|it| Some((it.id?, it.clone())))).collect()
    };
    let SplitFile { split, coco: val } = val;
    let (known, listed) = (by_id(train), by_id(val));
    let used: HashSet<u64> = (val.annotations.records().iter())
        .filter_map(|it| it.category)
        .collect();
    let mut ids: Vec<_> = listed.keys().copied().collect();
    ids.sort_unstable();
    for id in ids {
        let name = &listed[&id].name;
        let detail = match known.get(&id) {
            Some(category) if category.name == *name => continue,
            Some(category) => format!(
                "`{}` here, `{name}` in `{}`",
                category.name,
                split.annotations.display()
            ),
            None if used.contains(&id) => {
                format!("`{name}` of `{}` is not here", split.annotations.display())
            }
            None => continue,
        };
        findings.add(Kind::OtherCategory, Some(id), None, || detail);
    }
}

fn images(coco: &CocoFile, findings: &mut Findings) {
    let annotated: HashSet<u64> = (coco.annotations.records().iter())
        .filter_map(|annotation| annotation.image)
        .collect();
    let mut ids = Ids::new("image", Kind::DuplicateImageId);
    let mut names = HashMap::new();
    for (index, image) in coco.images.records().iter().enumerate() {
        let name = image.file_name.as_str();
        let file = Some(name).filter(|name| !name.is_empty());
        ids.check(index, image.id, file, findings);
        if let Err(size) = &image.size {
            findings.add(Kind::MissingSize, image.id, file, || size.clone());
        }
        if name.trim().is_empty() {
            findings.add(Kind::EmptyFileName, image.id, None, || {
                format!("`images[{index}]` has no `file_name`")
            });
        } else if let Some(first) = names.insert(name, index) {
            findings.add(Kind::RepeatedFileName, image.id, file, || {
                format!("`images[{index}]` has the file of `images[{first}]`")
            });
        }
        if image.id.is_some_and(|id| !annotated.contains(&id)) {
            findings.add(Kind::EmptyImage, image.id, file, || "no annotations".into());
        }
    }
}

fn annotations(coco: &CocoFile, findings: &mut Findings) {
    let images = coco.images_by_id();
    let categories: HashSet<u64> = (coco.categories.records().iter())
        .filter_map(|category| category.id)
        .collect();
    let mut ids = Ids::new("annotation", Kind::DuplicateAnnotationId);
    for (index, annotation) in coco.annotations.records().iter().enumerate() {
        let id = annotation.id;
        let image = annotation.image.and_then(|image| images.get(&image));
        let file = image.map(|image| image.file_name.as_str());
        ids.check(index, id, file, findings);
        if id.is_none() && annotation.faults.is_empty() {
            findings.add(Kind::MissingId, None, file, || {
                format!("`annotations[{index}]`")
            });
        }
        if id == Some(0) {
            findings.add(Kind::ZeroId, id, file, || "numbered from 0".into());
        }
        // Without a list they would all be orphans, and its lack is a finding already.
        if let (Some(wanted), None, true) = (annotation.image, image, coco.images.is_list()) {
            findings.add(Kind::UnknownImage, id, None, || {
                format!("points at image {wanted}")
            });
        }
        if let Some(wanted) = annotation.category
            && coco.categories.is_list()
            && !categories.contains(&wanted)
        {
            findings.add(Kind::UnknownCategory, id, file, || {
                format!("points at category {wanted}")
            });
        }
        if annotation.crowd {
            findings.add(Kind::Crowd, id, file, || "a crowd".into());
        }
    }
}

fn categories(coco: &CocoFile, findings: &mut Findings) {
    let used: HashSet<u64> = (coco.annotations.records().iter())
        .filter_map(|annotation| annotation.category)
        .collect();
    let mut ids = Ids::new("category", Kind::DuplicateCategoryId);
    let mut names = HashMap::new();
    for (index, category) in coco.categories.records().iter().enumerate() {
        let (id, name) = (category.id, category.name.as_str());
        ids.check(index, id, None, findings);
        if name.trim().is_empty() {
            findings.add(Kind::UnnamedCategory, id, None, || "no name".into());
        } else if let Some(first) = names.insert(name, index) {
            findings.add(Kind::RepeatedCategoryName, id, None, || {
                format!("`categories[{first}]` is named `{name}` too")
            });
        }
        if id.is_some_and(|id| !used.contains(&id)) {
            findings.add(Kind::UnusedCategory, id, None, || format!("`{name}`"));
        }
    }
}

/// The ids of a list: each should occur once and be no larger than tools can keep.
struct Ids {
    subject: &'static str,
    duplicate: Kind,
    /// Where each id stands first.
    seen: HashMap<u64, usize>,
}

impl Ids {
    fn new(subject: &'static str, duplicate: Kind) -> Self {
        Self {
            subject,
            duplicate,
            seen: HashMap::new(),
        }
    }

    fn check(
        &mut self,
        index: usize,
        id: Option<u64>,
        file: Option<&str>,
        findings: &mut Findings,
    ) {
        let Some(number) = id else { return };
        let first = *self.seen.entry(number).or_insert(index);
        if first != index {
            findings.add(self.duplicate, id, file, || {
                format!("occurs at {first} and {index} of the list, from 0")
            });
        }
        if number > LARGEST_ID {
            findings.add(Kind::LargeId, id, file, || {
                format!("the id of the {} at {index} of the list", self.subject)
            });
        }
    }
}
