//! Splits a COCO file into parts, for training and validation, that have the classes in equal
//! shares.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use retinanet_annotations::read_json;
use serde_json::Value;

use retinanet_data::{CocoDataset, DataError, ImageRecord};
use retinanet_settings::SettingError;

/// A part may hold a fiftieth of all images more than its share, where that helps the classes.
/// Without it the last class, often the largest, only finds room where the others have left some.
const SLACK: usize = 50;

/// How far from 1 the sum of the shares may be.
const ROUNDING: f64 = 1e-6;

/// Splits a COCO instances file into one file for each of the `shares`, in memory.
///
/// Every image goes to one part, and its annotations with it, in the order of the file. All else,
/// the categories first of all, is repeated in each part; keys that COCO does not know stay. The
/// same seed gives the same split.
///
/// The boxes of each class are shared out as the images are, by iterative stratification
/// ([Sechidis et al. 2011](https://doi.org/10.1007/978-3-642-23808-6_10)): the class on the fewest
/// images comes first, and each of its images goes to the part that lacks most boxes of the class.
/// Crowds and boxes that training leaves out do not count. Up to 49 images each part has its share
/// to the image; of more a part may have 2 % of all images more than its share. A part whose share
/// is less than an image may get none.
///
/// Images are taken to have nothing to do with each other: the frames of one video may land in
/// different parts; see [`split_groups`].
///
/// # Errors
///
/// Returns [`DataError::Setting`] where a share is not positive or they do not sum to 1, and an
/// error where the file is none that [`CocoDataset::read`] reads.
pub fn split(annotations: &Path, shares: &[f64], seed: u64) -> Result<Vec<Value>, DataError> {
    split_groups(annotations, shares, seed, &BTreeMap::new())
}

/// As [`split`], with images of one group in one part: `groups` names them by the images' ids, as
/// [`near_copies`](crate::near_copies) does. An image that it does not name is a group of its own. A group that is larger
/// than what any part has room for goes where there is most.
///
/// # Errors
///
/// As [`split`].
pub fn split_groups(
    annotations: &Path,
    shares: &[f64],
    seed: u64,
    groups: &BTreeMap<u64, usize>,
) -> Result<Vec<Value>, DataError> {
    let sum: f64 = shares.iter().sum();
    // So written that NaN fails too.
    let sound = shares.iter().all(|share| *share > 0.0) && (sum - 1.0).abs() <= ROUNDING;
    if !sound {
        let (allowed, got) = ("positive numbers that sum to 1", format!("{shares:?}"));
        return Err(SettingError::new("shares", allowed, got).into());
    }
    // Refuses all that could not be told to belong to a part.
    let dataset = CocoDataset::read(annotations, Path::new(""))?;
    let units = units(&dataset, groups);
    let parts = stratify(&units, dataset.classes.len(), shares, seed);
    let of_unit = |(unit, part): (&Unit, usize)| {
        let ids = unit.ids.iter();
        ids.map(|id| (*id, part)).collect::<Vec<_>>()
    };
    let part_of = units.iter().zip(parts).flat_map(of_unit).collect();
    let file = read_json(annotations)?;
    divide(file, &part_of, shares.len()).ok_or_else(|| DataError::Changed {
        path: annotations.into(),
    })
}

/// How many boxes of which class an image has.
type Boxes = BTreeMap<usize, usize>;

/// Images that stay together.
#[derive(Debug, Default)]
struct Unit {
    /// Of the images.
    ids: Vec<u64>,
    boxes: Boxes,
}

/// The groups, and each image that is in none; in the order of their first images.
fn units(dataset: &CocoDataset, groups: &BTreeMap<u64, usize>) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::with_capacity(dataset.images.len());
    let mut unit_of = HashMap::new();
    for image in &dataset.images {
        let next = units.len();
        let index = match groups.get(&image.id.0) {
            Some(group) => *unit_of.entry(*group).or_insert(next),
            None => next,
        };
        if index == next {
            units.push(Unit::default());
        }
        let unit = &mut units[index];
        unit.ids.push(image.id.0);
        count_boxes(image, &mut unit.boxes);
    }
    units
}

fn count_boxes(image: &ImageRecord, boxes: &mut Boxes) {
    for object in image.objects.iter().filter(|object| !object.crowd) {
        *boxes.entry(object.class.index()).or_default() += 1;
    }
}

/// The part of each unit.
fn stratify(units: &[Unit], classes: usize, shares: &[f64], seed: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.shuffle(&mut rng);
    // The largest groups first: later they would find no room.
    order.sort_by_key(|unit| Reverse(units[*unit].ids.len()));

    let mut parts = Parts::new(units, classes, shares);
    let mut part_of = vec![None; units.len()];
    let mut units_of = vec![Vec::new(); classes];
    for &unit in &order {
        for &class in units[unit].boxes.keys() {
            units_of[class].push(unit);
        }
    }
    let mut left: Vec<usize> = units_of.iter().map(Vec::len).collect();
    let rarest = |left: &[usize]| {
        let classes = (0..classes).filter(|class| left[*class] > 0);
        classes.min_by_key(|class| left[*class])
    };
    while let Some(class) = rarest(&left) {
        for &unit in &units_of[class] {
            if part_of[unit].is_none() {
                part_of[unit] = Some(parts.place(&units[unit], Some(class), &mut rng));
                for &class in units[unit].boxes.keys() {
                    left[class] -= 1;
                }
            }
        }
    }
    for &unit in order.iter().filter(|unit| units[**unit].boxes.is_empty()) {
        part_of[unit] = Some(parts.place(&units[unit], None, &mut rng));
    }
    // Each has been placed: by one of its classes, or because it has none.
    part_of.into_iter().flatten().collect()
}

/// What the parts still lack.
struct Parts(Vec<Part>);

struct Part {
    /// Images until it has its share.
    images: f64,
    /// Boxes of each class until it has its share.
    boxes: Vec<f64>,
    /// Images until it is full.
    room: usize,
}

impl Parts {
    fn new(units: &[Unit], classes: usize, shares: &[f64]) -> Self {
        let mut boxes = vec![0; classes];
        for (class, count) in units.iter().flat_map(|unit| &unit.boxes) {
            boxes[*class] += count;
        }
        let images: usize = units.iter().map(|unit| unit.ids.len()).sum();
        let sizes = sizes(images, shares);
        let part = |(share, size): (&f64, usize)| Part {
            images: share * images as f64,
            boxes: boxes.iter().map(|count| share * *count as f64).collect(),
            room: size + images / SLACK,
        };
        Self(shares.iter().zip(sizes).map(part).collect())
    }

    /// Gives a unit to the part that lacks most boxes of the class; of equals to the one that
    /// lacks most images, and then to any.
    fn place(&mut self, unit: &Unit, class: Option<usize>, rng: &mut ChaCha8Rng) -> usize {
        let size = unit.ids.len();
        let lacks = |part: &Part| class.map_or(0.0, |class| part.boxes[class]);
        let rooms = self.0.iter().map(|part| part.room);
        // Single images always find room; for a group there may be too little in each part.
        let needed = rooms.max().map_or(size, |most| size.min(most));
        let open = self
            .0
            .iter()
            .enumerate()
            .filter(|(_, part)| part.room >= needed);
        let drawn = open.map(|(index, part)| (index, part, rng.random::<u64>()));
        let neediest = drawn.max_by(|(_, a, first), (_, b, second)| {
            lacks(a)
                .total_cmp(&lacks(b))
                .then(a.images.total_cmp(&b.images))
                .then(first.cmp(second))
        });
        let index = neediest.map_or(0, |(index, ..)| index);
        let part = &mut self.0[index];
        part.images -= size as f64;
        part.room = part.room.saturating_sub(size);
        for (class, count) in &unit.boxes {
            part.boxes[*class] -= *count as f64;
        }
        index
    }
}

/// The shares in whole images: rounded down, and what is left over goes to the largest remainders.
fn sizes(images: usize, shares: &[f64]) -> Vec<usize> {
    let sum: f64 = shares.iter().sum();
    let exact: Vec<_> = (shares.iter())
        .map(|share| share / sum * images as f64)
        .collect();
    let mut sizes: Vec<_> = exact.iter().map(|size| size.floor() as usize).collect();
    let mut order: Vec<_> = (0..shares.len()).collect();
    order.sort_by(|a, b| exact[*b].fract().total_cmp(&exact[*a].fract()));
    let over = images.saturating_sub(sizes.iter().sum());
    for part in order.into_iter().cycle().take(over) {
        sizes[part] += 1;
    }
    sizes
}

/// The file's parts; nothing if it has images or annotations that `part_of` does not know.
fn divide(mut file: Value, part_of: &HashMap<u64, usize>, parts: usize) -> Option<Vec<Value>> {
    let images = take_list(&mut file, "images", "id", part_of, parts)?;
    let annotations = take_list(&mut file, "annotations", "image_id", part_of, parts)?;
    let lists = images.into_iter().zip(annotations);
    let files = lists.map(|(images, annotations)| {
        let mut part = file.clone();
        part["images"] = images.into();
        part["annotations"] = annotations.into();
        part
    });
    Some(files.collect())
}

/// Moves a list out of the file and shares it out by the image id at `key`.
fn take_list(
    file: &mut Value,
    list: &str,
    key: &str,
    part_of: &HashMap<u64, usize>,
    parts: usize,
) -> Option<Vec<Vec<Value>>> {
    let mut lists = vec![Vec::new(); parts];
    let Value::Array(records) = file.get_mut(list)?.take() else {
        return None;
    };
    for record in records {
        let id = record.get(key)?;
        // pandas turns whole columns of integers into floats.
        let id = id.as_u64().or_else(|| id.as_f64().map(|id| id as u64))?;
        lists.get_mut(*part_of.get(&id)?)?.push(record);
    }
    Some(lists)
}

#[cfg(test)]
mod tests;
