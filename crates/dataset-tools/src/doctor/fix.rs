use std::collections::{HashMap, HashSet};
use std::mem;
use std::path::Path;

use retinanet_annotations::{Annotation, CocoFile, Image, RawBox, read_json, shown, whole_number};
use retinanet_data::{DataError, locate};
use serde_json::{Map, Value};

use crate::doctor::boxes::{
    Repetitions, Verdict, area_contradiction, corner_boxes, judge, normalised_boxes, size,
};
use crate::doctor::{EXAMPLES, Report, Role, Split, check_annotations};

/// A repaired file.
#[derive(Clone, Debug, PartialEq)]
pub struct Fixed {
    /// The whole file, unknown keys included.
    pub json: Value,
    /// What was changed: a sentence with the id for each annotation.
    pub changes: Vec<String>,
}

impl Fixed {
    /// What is still wrong with the annotations: what only a person can repair.
    ///
    /// # Errors
    ///
    /// Never for what [`fix()`] returned.
    pub fn check(&self, name: &Path) -> Result<Report, DataError> {
        let coco = CocoFile::of_value(&self.json, name)?;
        Ok(check_annotations(&coco, Role::Training, EXAMPLES).into_report(name, &coco))
    }
}

/// Repairs what can be repaired without guessing, in memory.
///
/// Numbers that are written as text, and whole ones written as floats, become whole numbers. File names
/// as other systems write them (`\\`, `%20`) become those of the files that are there. Annotations are
/// dropped whose box is missing, non-finite, without area, wholly outside the image or an exact repetition,
/// and those of images or categories that are not listed. Boxes are clipped to the image, and an `area`
/// that contradicts the box becomes the box's. Annotations without an id, or with 0 or that of an earlier
/// one, get the lowest ids that the file has not used. All else stays as it is.
///
/// # Errors
///
/// Returns an error if the file cannot be read or is not a JSON object, and [`DataError::OtherBoxes`] if its
/// boxes seem to be `[x1, y1, x2, y2]` or normalised: clipping would spoil them.
pub fn fix(split: &Split) -> Result<Fixed, DataError> {
    let annotations = &split.annotations;
    let mut json: Value = read_json(annotations)?;
    let mut changes = Vec::new();
    mend_numbers(&mut json, &mut changes);
    mend_names(&mut json, &split.images_root, &mut changes);
    let coco = CocoFile::of_value(&json, annotations)?;
    let refuse = |found| DataError::OtherBoxes {
        path: annotations.into(),
        found,
    };
    if !corner_boxes(&coco).is_empty() {
        return Err(refuse("`[x1, y1, x2, y2]`, not `[x, y, width, height]`"));
    }
    if !normalised_boxes(&coco).is_empty() {
        return Err(refuse("fractions of the image's sides, not pixels"));
    }
    if let Some(list) = json.get_mut("annotations").and_then(Value::as_array_mut) {
        let mut repairer = Repairer::new(&coco);
        for (index, mut value) in mem::take(list).into_iter().enumerate() {
            let name = repairer.name(index);
            match repairer.repair(&mut value, &name, &mut changes) {
                Ok(()) => list.push(value),
                Err(reason) => changes.push(format!("{name} was dropped: {reason}")),
            }
        }
    }
    Ok(Fixed { json, changes })
}

/// Each object of a list, with its name for messages.
fn records<'a>(
    json: &'a mut Value,
    list: &'static str,
) -> impl Iterator<Item = (String, &'a mut Map<String, Value>)> {
    let records = json.get_mut(list).and_then(Value::as_array_mut);
    (records.into_iter().flatten().enumerate()).filter_map(move |(index, record)| {
        Some((format!("`{list}[{index}]`"), record.as_object_mut()?))
    })
}

/// Writes ids and sizes as whole numbers.
fn mend_numbers(json: &mut Value, changes: &mut Vec<String>) {
    for (list, keys) in [
        ("images", &["id", "width", "height"][..]),
        ("annotations", &["id", "image_id", "category_id"]),
        ("categories", &["id"]),
    ] {
        for (name, record) in records(json, list) {
            for key in keys {
                let Some(value) = record.get_mut(*key) else {
                    continue;
                };
                let whole = match value {
                    Value::String(digits) => digits.trim().parse().ok(),
                    Value::Number(number) if number.is_f64() => whole_number(value),
                    _ => None,
                };
                if let Some(whole) = whole {
                    changes.push(format!(
                        "{name}: `{key}` {} is now {whole}",
                        shown(Some(value))
                    ));
                    *value = whole.into();
                }
            }
        }
    }
}

/// Writes the names of files as they are found below the folder.
fn mend_names(json: &mut Value, root: &Path, changes: &mut Vec<String>) {
    for (name, record) in records(json, "images") {
        let Some(Value::String(file)) = record.get_mut("file_name") else {
            continue;
        };
        let found = locate(root, file);
        let found = found.strip_prefix(root).ok().and_then(Path::to_str);
        if let Some(found) = found.filter(|found| found != file) {
            changes.push(format!("{name}: the file `{file}` is now `{found}`"));
            *file = found.into();
        }
    }
}

/// What repairing one annotation needs to know of the file.
struct Repairer<'a> {
    coco: &'a CocoFile,
    images: HashMap<u64, &'a Image>,
    categories: HashSet<u64>,
    repetitions: Repetitions,
    /// All ids of the file and those given since.
    used: HashSet<u64>,
    /// The ids of the annotations that stay.
    kept: HashSet<u64>,
    /// Below this all ids are used.
    next: u64,
}

impl<'a> Repairer<'a> {
    fn new(coco: &'a CocoFile) -> Self {
        let annotations = coco.annotations.records().iter();
        let categories = coco.categories.records().iter();
        Self {
            coco,
            images: coco.images_by_id(),
            categories: categories.filter_map(|category| category.id).collect(),
            repetitions: Repetitions::default(),
            used: annotations.filter_map(|annotation| annotation.id).collect(),
            kept: HashSet::new(),
            next: 1,
        }
    }

    /// What to call an annotation.
    fn name(&self, index: usize) -> String {
        let annotation = self.coco.annotations.records().get(index);
        match annotation.and_then(|annotation| annotation.id) {
            Some(id) => format!("annotation {id} (`annotations[{index}]`)"),
            None => format!("`annotations[{index}]`"),
        }
    }

    /// Repairs an annotation, or says why it must go.
    fn repair(
        &mut self,
        value: &mut Value,
        name: &str,
        changes: &mut Vec<String>,
    ) -> Result<(), String> {
        let annotation = Annotation::of_value(value);
        self.require_listed(&annotation)?;
        let image = annotation.image.and_then(|image| self.images.get(&image));
        let size = size(image);
        let clipped = clipped(&annotation.bbox, size)?;
        if let (Some(numbers), RawBox::Numbers(before)) = (clipped, &annotation.bbox) {
            value["bbox"] = numbers.map(number).into();
            changes.push(format!(
                "{name} was clipped: its box {before:?} is now {numbers:?}"
            ));
        }
        // Clipping may make two boxes one.
        if self.repetitions.repeats(&Annotation::of_value(value)) {
            return Err("it repeats an earlier one".into());
        }
        mend_area(value, &annotation.bbox, size, name, changes);
        let is_missing = annotation.id.is_none() && annotation.faults.is_empty();
        if is_missing
            || annotation
                .id
                .is_some_and(|id| id == 0 || !self.kept.insert(id))
        {
            let id = self.free_id();
            value["id"] = id.into();
            changes.push(format!("{name} has the id {id} now"));
        }
        Ok(())
    }

    /// Refuses an annotation of what the file does not list. A file without the list is another
    /// matter.
    fn require_listed(&self, annotation: &Annotation) -> Result<(), String> {
        let Self {
            coco,
            images,
            categories,
            ..
        } = self;
        match annotation.image {
            Some(image) if coco.images.is_list() && !images.contains_key(&image) => {
                return Err(format!("image {image} is not listed"));
            }
            _ => {}
        }
        match annotation.category {
            Some(category) if coco.categories.is_list() && !categories.contains(&category) => {
                Err(format!("category {category} is not listed"))
            }
            _ => Ok(()),
        }
    }

    /// The lowest id from 1 that the file has not used.
    fn free_id(&mut self) -> u64 {
        while !self.used.insert(self.next) {
            self.next += 1;
        }
        self.next
    }
}

/// Gives an annotation the box's area, if its own contradicts the box or was that of the box before it was
/// clipped.
fn mend_area(
    value: &mut Value,
    before: &RawBox,
    size: Option<(u32, u32)>,
    name: &str,
    changes: &mut Vec<String>,
) {
    let annotation = Annotation::of_value(value);
    let (Some(area), RawBox::Numbers(now)) = (annotation.area, &annotation.bbox) else {
        return;
    };
    let of = |numbers: &[f64; 4]| numbers[2] * numbers[3];
    let was_the_box = match before {
        RawBox::Numbers(before) => before != now && (area - of(before)).abs() <= of(before) / 100.0,
        RawBox::Missing | RawBox::Malformed(_) => false,
    };
    let contradicts = area_contradiction(&annotation, &judge(&annotation.bbox, size)).is_some();
    if was_the_box || contradicts {
        let area = of(now);
        value["area"] = number(area);
        changes.push(format!("{name} has the area {area} of its box now"));
    }
}

/// The box inside the image, where that is another; an error where there is nothing to learn from.
fn clipped(bbox: &RawBox, size: Option<(u32, u32)>) -> Result<Option<[f64; 4]>, String> {
    let useless = |verdict: Verdict| verdict.fault().map_or_else(String::new, |(_, why)| why);
    match (judge(bbox, size), bbox, size) {
        (Verdict::Sound | Verdict::Malformed(_), ..) => Ok(None),
        (Verdict::PartlyOutside(_), RawBox::Numbers([x, y, width, height]), Some(size)) => {
            let (right, bottom) = (f64::from(size.0), f64::from(size.1));
            let (x1, y1) = (x.max(0.0), y.max(0.0));
            let (x2, y2) = ((x + width).min(right), (y + height).min(bottom));
            let numbers = [x1, y1, x2 - x1, y2 - y1];
            // Rounding may leave nothing of a hair's breadth.
            match judge(&RawBox::Numbers(numbers), Some(size)) {
                Verdict::Sound => Ok(Some(numbers)),
                verdict => Err(useless(verdict)),
            }
        }
        (verdict, ..) => Err(useless(verdict)),
    }
}

/// A number as a person would write it: 50, not 50.0.
fn number(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < f64::from(u32::MAX) {
        Value::from(number as i64)
    } else {
        Value::from(number)
    }
}
