use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use image::RgbImage;
use retinanet_boxes::{BoundingBox, CategoryId, ClassList, ClassListError, GroundTruth, ImageId};
use retinanet_images::decode_image;
use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::coco::file::{CocoFile, RawAnnotation, RawImage};

mod file;

/// A detection data set: the images of a COCO instances file with their objects.
#[derive(Clone, Debug, PartialEq)]
pub struct CocoDataset {
    /// The annotations file.
    pub annotations: PathBuf,
    /// The folder that file names are relative to.
    pub images_root: PathBuf,
    /// The categories as classes, sorted by category id.
    pub classes: ClassList,
    /// The images, sorted by image id.
    pub images: Vec<ImageRecord>,
    /// The annotations that were left out, in the order of the file.
    pub dropped: Vec<Dropped>,
}

/// An image and what is on it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageRecord {
    /// The image's id.
    pub id: ImageId,
    /// The file's name as the annotations write it, perhaps with folders.
    pub file_name: String,
    /// Where the file lies.
    pub path: PathBuf,
    /// Width of the upright image, in pixels.
    pub width: u32,
    /// Height of the upright image, in pixels.
    pub height: u32,
    /// The objects in pixels of the upright image, in the order of the file. A box may reach
    /// outside the image.
    pub objects: Vec<GroundTruth>,
}

impl ImageRecord {
    /// Reads the image, upright.
    ///
    /// # Errors
    ///
    /// As [`decode_image`], and where the file's size is not the record's.
    pub fn decode(&self) -> Result<RgbImage, DataError> {
        let image = decode_image(&self.path)?;
        // The boxes would be wrong, and silently so.
        if image.dimensions() != self.size() {
            return Err(DataError::SizeMismatch {
                path: self.path.clone(),
                expected: self.size(),
                found: image.dimensions(),
            });
        }
        Ok(image)
    }

    /// Width and height in pixels.
    pub(crate) const fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Whether it is wider than high.
    pub(crate) const fn is_wide(&self) -> bool {
        self.width > self.height
    }
}

/// How [`CocoDataset::read_with`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// Whether images without objects stay, as pure background. Where they do not stay, an image
    /// with nothing but crowds goes too, as in detectron2. Default: `true`.
    pub keep_empty: bool,
    /// How categories become class indices.
    pub labels: LabelIds,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            keep_empty: true,
            labels: LabelIds::Contiguous,
        }
    }
}

/// How categories become class indices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelIds {
    /// Without gaps from 0, in the order of the category ids: 80 classes for COCO.
    #[default]
    Contiguous,
    /// The category id itself, gaps and 0 included, as torchvision: 91 classes for COCO.
    CategoryId,
}

/// An annotation that was left out because nothing can be learnt from its box.
#[derive(Clone, Debug, PartialEq)]
pub struct Dropped {
    /// The annotation's id.
    pub annotation: u64,
    /// The image that it belongs to.
    pub image: ImageId,
    /// What is wrong with it.
    pub reason: DropReason,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            annotation,
            image,
            reason,
        } = self;
        write!(f, "annotation {annotation} of image {}: {reason}", image.0)
    }
}

/// Why an annotation was left out.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum DropReason {
    /// It has no box.
    NoBox,
    /// An edge of the box is infinite or not a number.
    NotFinite,
    /// The box covers nothing.
    Empty {
        /// The box's width as written.
        width: f64,
        /// The box's height as written.
        height: f64,
    },
    /// The box lies wholly outside the image.
    Outside,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBox => f.write_str("it has no box"),
            Self::NotFinite => f.write_str("its box is not finite"),
            Self::Empty { width, height } => write!(f, "its box is {width} wide and {height} high"),
            Self::Outside => f.write_str("its box lies wholly outside the image"),
        }
    }
}

impl CocoDataset {
    /// How many objects each class has; crowds are none.
    pub fn objects_by_class(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        let objects = self.images.iter().flat_map(|image| &image.objects);
        for object in objects.filter(|object| !object.crowd) {
            counts[object.class.index()] += 1;
        }
        counts
    }

    /// Reads a COCO instances file, with the default [`ReadOptions`].
    ///
    /// Boxes that nothing can be learnt from (empty, not finite, wholly outside the image) are left
    /// out and listed in [`dropped`](Self::dropped). Boxes that reach outside the image stay as
    /// written. The image files are not opened; see [`check_files`](Self::check_files).
    ///
    /// # Errors
    ///
    /// Returns an error where the file cannot be read, is not JSON or not COCO, lists an image or
    /// category twice, or has an annotation of an image or a category that it does not list.
    pub fn read(annotations: &Path, images_root: &Path) -> Result<Self, DataError> {
        Self::read_with(annotations, images_root, ReadOptions::default())
    }

    /// Reads a COCO instances file.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn read_with(
        annotations: &Path,
        images_root: &Path,
        options: ReadOptions,
    ) -> Result<Self, DataError> {
        let file = CocoFile::read(annotations)?;
        let classes = match options.labels {
            LabelIds::Contiguous => ClassList::new(file.categories),
            LabelIds::CategoryId => ClassList::by_category_id(file.categories),
        };
        let classes = classes.map_err(|error| match error {
            ClassListError::Duplicate(category) => DataError::DuplicateCategory {
                path: annotations.into(),
                category,
            },
            // The enum may grow; whatever it says is about `categories`.
            other => DataError::NotCoco {
                path: annotations.into(),
                found: format!("`categories` is unusable ({other})"),
            },
        })?;
        let mut images = image_records(annotations, images_root, file.images)?;
        let positions: HashMap<_, _> = (images.iter().map(|image| image.id)).zip(0..).collect();

        let mut dropped = Vec::new();
        for annotation in file.annotations {
            let position: usize =
                *positions
                    .get(&ImageId(annotation.image_id.0))
                    .ok_or_else(|| DataError::UnknownImage {
                        path: annotations.into(),
                        annotation: annotation.id.0,
                        image: annotation.image_id.0,
                    })?;
            let class = classes
                .class(CategoryId(annotation.category_id.0))
                .filter(|&class| !classes.is_unused(class))
                .ok_or_else(|| DataError::UnknownCategory {
                    path: annotations.into(),
                    annotation: annotation.id.0,
                    category: annotation.category_id.0,
                })?;
            let image = &mut images[position];
            match usable_box(annotations, &annotation, image)? {
                Ok(bbox) => image.objects.push(GroundTruth {
                    bbox,
                    class,
                    crowd: annotation.iscrowd.0,
                }),
                Err(reason) => dropped.push(Dropped {
                    annotation: annotation.id.0,
                    image: image.id,
                    reason,
                }),
            }
        }
        if !options.keep_empty {
            images.retain(|image| image.objects.iter().any(|object| !object.crowd));
        }

        Ok(Self {
            annotations: annotations.into(),
            images_root: images_root.into(),
            classes,
            images,
            dropped,
        })
    }

    /// Checks that every image file exists, without opening any. Call it before a long run.
    ///
    /// # Errors
    ///
    /// Returns [`DataError::MissingImage`] where files are missing.
    pub fn check_files(&self) -> Result<(), DataError> {
        let mut missing = (self.images.iter())
            .filter(|image| !fs_err::metadata(&image.path).is_ok_and(|file| file.is_file()));
        let Some(first) = missing.next() else {
            return Ok(());
        };
        Err(DataError::MissingImage {
            first: first.path.clone(),
            missing: 1 + missing.count(),
            total: self.images.len(),
            root: self.images_root.clone(),
        })
    }
}

/// The images without their objects, sorted by id.
fn image_records(
    annotations: &Path,
    images_root: &Path,
    raw: Vec<RawImage>,
) -> Result<Vec<ImageRecord>, DataError> {
    let mut seen = HashSet::with_capacity(raw.len());
    let mut images = Vec::with_capacity(raw.len());
    for image in raw {
        let RawImage {
            id,
            file_name,
            width,
            height,
        } = image;
        if !seen.insert(id.0) {
            return Err(DataError::DuplicateImage {
                path: annotations.into(),
                image: id.0,
            });
        }
        if width == 0 || height == 0 {
            return Err(DataError::ImageSize {
                path: annotations.into(),
                image: id.0,
                width,
                height,
            });
        }
        images.push(ImageRecord {
            id: ImageId(id.0),
            path: images_root.join(&file_name),
            file_name,
            width,
            height,
            objects: Vec::new(),
        });
    }
    images.sort_by_key(|image| image.id);
    Ok(images)
}

/// The annotation's box, or why there is none to learn from.
fn usable_box(
    path: &Path,
    annotation: &RawAnnotation,
    image: &ImageRecord,
) -> Result<Result<BoundingBox, DropReason>, DataError> {
    let numbers = annotation.bbox.as_deref().unwrap_or_default();
    if numbers.is_empty() {
        return Ok(Err(DropReason::NoBox));
    }
    let &[x, y, width, height] = numbers else {
        return Err(DataError::BoxLength {
            path: path.into(),
            annotation: annotation.id.0,
            found: numbers.len(),
        });
    };
    // JSON has no NaN; JavaScript writes `null` for it.
    let [x, y, width, height] = [x, y, width, height].map(|number| number.unwrap_or(f64::NAN));
    let bbox = BoundingBox::from_xywh([x, y, width, height]);
    let reason = if !bbox.to_array().iter().all(|edge| edge.is_finite()) {
        DropReason::NotFinite
    } else if !bbox.is_proper() {
        DropReason::Empty { width, height }
    } else if !bbox
        .clip(image.width as f32, image.height as f32)
        .is_proper()
    {
        DropReason::Outside
    } else {
        return Ok(Ok(bbox));
    };
    Ok(Err(reason))
}

#[cfg(test)]
mod tests;
