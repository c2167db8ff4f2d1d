//! What has changed in the data since a run began.

use std::collections::BTreeMap;
use std::fmt;

use retinanet_boxes::{ClassList, GroundTruth};
use retinanet_data::CocoDataset;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// Differences that are told one by one.
const SHOWN: usize = 5;

/// What tells one state of a data set from another: its images by name and size, and their boxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataMark {
    /// How many images there are.
    pub images: usize,
    /// How many boxes.
    pub boxes: usize,
    checksum: u64,
}

impl DataMark {
    /// The mark of a data set as it is.
    pub fn of(dataset: &CocoDataset) -> Self {
        let mut hasher = Xxh3::new();
        let mut boxes = 0;
        for image in &dataset.images {
            hasher.update(image.file_name.as_bytes());
            let numbers = [image.width, image.height, image.objects.len() as u32];
            for number in numbers {
                hasher.update(&number.to_le_bytes());
            }
            for object in &image.objects {
                update(&mut hasher, object);
            }
            boxes += image.objects.len();
        }
        Self {
            images: dataset.images.len(),
            boxes,
            checksum: hasher.digest(),
        }
    }
}

fn update(hasher: &mut Xxh3, object: &GroundTruth) {
    let bbox = object.bbox;
    for edge in [bbox.x1, bbox.y1, bbox.x2, bbox.y2] {
        hasher.update(&edge.to_le_bytes());
    }
    hasher.update(&object.class.0.to_le_bytes());
    hasher.update(&[u8::from(object.crowd)]);
}

impl fmt::Display for DataMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} images with {} boxes", self.images, self.boxes)
    }
}

/// In what two lists of classes differ, in words; empty if they do not.
pub(crate) fn class_differences(was: &ClassList, is: &ClassList) -> String {
    let named = |classes: &ClassList| -> BTreeMap<_, String> {
        let classes = classes.iter();
        classes
            .map(|(_, it)| (it.category, it.name.clone()))
            .collect()
    };
    let (was, is) = (named(was), named(is));
    let gone = was.iter().filter_map(|(id, was)| match is.get(id) {
        None => Some(format!("category {} `{was}` is gone", id.0)),
        Some(is) if is != was => Some(format!("category {} was `{was}` and is `{is}`", id.0)),
        Some(_) => None,
    });
    let new = is.iter().filter(|(id, _)| !was.contains_key(id));
    let new = new.map(|(id, is)| format!("category {} `{is}` is new", id.0));
    let all: Vec<_> = gone.chain(new).collect();
    let more = match all.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    format!("{}{more}", all[..all.len().min(SHOWN)].join(", "))
}
