use std::collections::{HashMap, HashSet};
use std::mem;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::DataError;
use crate::doctor::boxes::{Repetitions, Verdict, corner_boxes, judge, size};
use crate::doctor::lenient::{Annotation, Coco, Image, RawBox, Record, not_an_object, read_json};

/// A mended file.
#[derive(Clone, Debug, PartialEq)]
pub struct Fixed {
    /// The whole file, unknown keys included.
    pub json: Value,
    /// What was changed: a sentence with the id for each annotation.
    pub changes: Vec<String>,
}

/// Mends what can be mended without guessing, in memory.
///
/// Annotations are dropped whose box is missing, not finite, without area, wholly outside the
/// image or an exact repetition, and those of images or categories that are not listed. Boxes are
/// clipped to the image; `area` stays. Annotations with the id 0 or that of an earlier one get the
/// lowest ids that the file has not used. All else stays as it is.
///
/// # Errors
///
/// Returns an error where the file cannot be read or is no JSON object, and
/// [`DataError::NotCoco`] where its boxes seem to be `[x1, y1, x2, y2]`: clipping would spoil
/// them.
pub fn fix(annotations: &Path) -> Result<Fixed, DataError> {
    let mut json: Value = read_json(annotations)?;
    let coco = Coco::deserialize(&json).map_err(|_| not_an_object(annotations, json.is_array()))?;
    if !corner_boxes(&coco).is_empty() {
        return Err(DataError::NotCoco {
            path: annotations.into(),
            found: "its boxes seem to be `[x1, y1, x2, y2]`, not `[x, y, width, height]`".into(),
        });
    }
    let mut changes = Vec::new();
    if let Some(list) = json.get_mut("annotations").and_then(Value::as_array_mut) {
        let mut mender = Mender::new(&coco);
        for (index, mut value) in mem::take(list).into_iter().enumerate() {
            let name = mender.name(index);
            match mender.mend(&mut value, &name, &mut changes) {
                Ok(()) => list.push(value),
                Err(reason) => changes.push(format!("{name} was dropped: {reason}")),
            }
        }
    }
    Ok(Fixed { json, changes })
}

/// What mending one annotation needs to know of the file.
struct Mender<'a> {
    coco: &'a Coco,
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

impl<'a> Mender<'a> {
    fn new(coco: &'a Coco) -> Self {
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

    /// Mends an annotation, or says why it must go.
    fn mend(
        &mut self,
        value: &mut Value,
        name: &str,
        changes: &mut Vec<String>,
    ) -> Result<(), String> {
        let annotation = Annotation::read(value);
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
        if self.repetitions.repeats(&Annotation::read(value)) {
            return Err("it repeats an earlier one".into());
        }
        if let Some(id) = annotation.id
            && (id == 0 || !self.kept.insert(id))
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
