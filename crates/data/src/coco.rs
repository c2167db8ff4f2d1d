use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use rayon::prelude::*;
use retinanet_annotations::{Annotation, Category, CocoFile, Image, Masks, RawBox};
use retinanet_boxes::{
    BoundingBox, CategoryId, Class, ClassList, ClassListError, GroundTruth, ImageId,
};
use retinanet_images::{Decoding, Header, Outline, check_image, decode_image, read_header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::DataError;

mod locate;

pub use locate::locate;

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
    /// What image files are taken, and how they become images.
    pub decoding: Decoding,
    /// Whether the file has the list `annotations`.
    pub is_annotated: bool,
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
    /// With [`ReadOptions::outlines`] the outline of each object, where the file has polygons; else empty.
    pub outlines: Vec<Option<Arc<Outline>>>,
}

impl ImageRecord {
    /// Reads the image, upright.
    ///
    /// # Errors
    ///
    /// As [`decode_image`], and if the file's size is not the record's.
    pub fn decode(&self, decoding: Decoding) -> Result<RgbImage, DataError> {
        let image = decode_image(&self.path, decoding)?;
        self.require_size(image.dimensions())?;
        Ok(image)
    }

    /// Reads the file without decoding it, to see whether it is an image of the record's size.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or does not begin as an image, or has another size; with
    /// [`LookOver::Whole`] also if it is cut short.
    pub fn check_file(&self, depth: LookOver) -> Result<Header, DataError> {
        let header = match depth {
            LookOver::Headers => read_header(&self.path)?,
            LookOver::Whole => check_image(&self.path)?,
        };
        self.require_size(header.upright)?;
        Ok(header)
    }

    /// Refuses another size: the boxes would be wrong, and silently so.
    fn require_size(&self, found: (u32, u32)) -> Result<(), DataError> {
        let expected = self.size();
        if found == expected {
            return Ok(());
        }
        let stored = read_header(&self.path).map(|header| header.stored);
        Err(DataError::SizeMismatch {
            path: self.path.clone(),
            expected,
            found,
            stored: stored.unwrap_or(found),
        })
    }

    /// Width and height in pixels.
    pub const fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Whether it is wider than high.
    pub(crate) const fn is_wide(&self) -> bool {
        self.width > self.height
    }
}

/// How much of the image files [`CocoDataset::look_over`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookOver {
    /// Their beginnings, which tell the format and the size.
    Headers,
    /// All of them, to see whether they are cut short.
    Whole,
}

/// What [`CocoDataset::look_over`] found.
#[derive(Debug, Default)]
pub struct FileFaults {
    /// The images whose files cannot be used, each with the reason: missing, no image, cut short, or of
    /// another size.
    pub unusable: Vec<(ImageId, DataError)>,
    /// How many the EXIF orientation turns while their size stays: nothing tells on which of the two ways
    /// their boxes were drawn.
    pub turned: usize,
}

/// How [`CocoDataset::read_with`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// Whether images without objects stay, as pure background. Where they do not stay, an image
    /// with nothing but crowds goes too, as in detectron2. Default: `true`.
    pub keep_empty: bool,
    /// How categories become class indices.
    pub labels: LabelIds,
    /// What image files are taken, and how they become images.
    pub decoding: Decoding,
    /// Whether a file without the list `annotations` is refused. Default: `true`.
    pub annotated: bool,
    /// Whether the objects' outlines are read, too. Default: `false`.
    pub outlines: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            keep_empty: true,
            labels: LabelIds::Contiguous,
            decoding: Decoding::default(),
            annotated: true,
            outlines: false,
        }
    }
}

/// How categories become class indices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    NonFinite,
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
            Self::NonFinite => f.write_str("its box is not finite"),
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
    /// Returns an error if the file cannot be read, is not JSON or not COCO, lists an image or
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
        let masks = if options.outlines {
            Masks::Outlines
        } else {
            Masks::Ignored
        };
        let mut file = CocoFile::read(annotations, masks)?;
        let is_annotated = file.annotations.is_list();
        if !options.annotated {
            file.allow_no_annotations();
        }
        file.require_sound(annotations)?;
        let classes = class_list(annotations, file.categories.into_records(), options.labels)?;
        let mut images = image_records(annotations, images_root, file.images.into_records())?;
        let records = file.annotations.into_records();
        let dropped = take_objects(annotations, &records, &classes, &mut images)?;
        if !options.keep_empty {
            images.retain(|image| image.objects.iter().any(|object| !object.crowd));
        }

        Ok(Self {
            annotations: annotations.into(),
            images_root: images_root.into(),
            classes,
            images,
            dropped,
            decoding: options.decoding,
            is_annotated,
        })
    }

    /// Numbers the objects' classes as another list does, as that of a model. The data set may lack some
    /// of them.
    ///
    /// # Errors
    ///
    /// Returns an error if an object's category is not in that list, or one that is in both has another
    /// name there.
    pub fn with_classes(mut self, classes: &ClassList) -> Result<Self, DataError> {
        let counts = self.objects_by_class();
        let mut differences = Vec::new();
        let mut places = Vec::with_capacity(self.classes.len());
        for (class, own) in self
            .classes
            .iter()
            .filter(|(class, _)| !self.classes.is_unused(*class))
        {
            let known = classes
                .class(own.category)
                .filter(|&it| !classes.is_unused(it));
            let id = own.category.0;
            match known.map(|known| (known, classes.name(known))) {
                Some((known, name)) if name == own.name => places.push((class, known)),
                Some((_, name)) => {
                    differences.push(format!("category {id} is `{}` and not `{name}`", own.name));
                }
                None if counts[class.index()] > 0 => {
                    differences.push(format!("category {id} `{}` is unknown", own.name));
                }
                None => {}
            }
        }
        if !differences.is_empty() {
            return Err(DataError::OtherCategories {
                path: self.annotations,
                differences,
            });
        }
        let places: HashMap<_, _> = places.into_iter().collect();
        for object in self.images.iter_mut().flat_map(|image| &mut image.objects) {
            // Only crowds can be of a category that is not counted above.
            object.class = places.get(&object.class).copied().unwrap_or(object.class);
        }
        self.classes = classes.clone();
        Ok(self)
    }

    /// Looks at every image file, on all threads and without decoding; `tick` is called after each.
    pub fn look_over(&self, depth: LookOver, mut tick: impl FnMut()) -> FileFaults {
        const AT_ONCE: usize = 64;
        let mut found = FileFaults::default();
        for images in self.images.chunks(AT_ONCE) {
            let looks: Vec<_> = (images.par_iter())
                .map(|image| image.check_file(depth))
                .collect();
            for (image, look) in images.iter().zip(looks) {
                match look {
                    Ok(header) => found.turned += usize::from(header.is_turned_unseen()),
                    Err(error) => found.unusable.push((image.id, error)),
                }
                tick();
            }
        }
        found
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

/// Gives each image its objects; tells which annotations are left out.
fn take_objects(
    path: &Path,
    records: &[Annotation],
    classes: &ClassList,
    images: &mut [ImageRecord],
) -> Result<Vec<Dropped>, DataError> {
    let positions: HashMap<_, _> = (images.iter().map(|image| image.id)).zip(0..).collect();
    let mut dropped = Vec::new();
    let unnumbered =
        (records.iter().filter_map(|it| it.id).max()).map_or(1, |id| id.saturating_add(1));
    for (index, annotation) in records.iter().enumerate() {
        // An id that is missing is told by the place in the list, after all ids that are there.
        let id = (annotation.id).unwrap_or_else(|| unnumbered.saturating_add(index as u64));
        let image = annotation.image.unwrap_or_default();
        let position: usize =
            *(positions.get(&ImageId(image))).ok_or_else(|| DataError::UnknownImage {
                path: path.into(),
                annotation: id,
                image,
            })?;
        let category = annotation.category.unwrap_or_default();
        let class = classes
            .class(CategoryId(category))
            .filter(|&class| !classes.is_unused(class))
            .ok_or_else(|| DataError::UnknownCategory {
                path: path.into(),
                annotation: id,
                category,
            })?;
        let image = &mut images[position];
        match usable_box(annotation, image) {
            Ok(Ok(bbox)) => {
                image.objects.push(GroundTruth {
                    bbox,
                    class,
                    crowd: annotation.crowd,
                });
                let polygons = annotation.outline.clone();
                let outline = Some(Outline { polygons }).filter(|it| fits(it, &bbox));
                image.outlines.push(outline.map(Arc::new));
            }
            Ok(Err(reason)) => dropped.push(Dropped {
                annotation: id,
                image: image.id,
                reason,
            }),
            Err(found) => {
                return Err(DataError::MalformedBox {
                    path: path.into(),
                    annotation: id,
                    found: found.clone(),
                });
            }
        }
    }
    Ok(dropped)
}

fn class_list(
    path: &Path,
    categories: Vec<Category>,
    labels: LabelIds,
) -> Result<ClassList, DataError> {
    let classes = (categories.into_iter())
        .map(|category| Class::new(CategoryId(category.id.unwrap_or_default()), category.name))
        .collect();
    let classes = match labels {
        LabelIds::Contiguous => ClassList::new(classes),
        LabelIds::CategoryId => ClassList::by_category_id(classes),
    };
    classes.map_err(|error| match error {
        ClassListError::Duplicate(category) => DataError::DuplicateCategory {
            path: path.into(),
            category,
        },
        source => DataError::Classes {
            path: path.into(),
            source,
        },
    })
}

/// The images without their objects, sorted by id.
fn image_records(
    annotations: &Path,
    images_root: &Path,
    raw: Vec<Image>,
) -> Result<Vec<ImageRecord>, DataError> {
    let mut seen = HashSet::with_capacity(raw.len());
    let mut images = Vec::with_capacity(raw.len());
    for image in raw {
        let path = || annotations.to_owned();
        let id = image.id.unwrap_or_default();
        if !seen.insert(id) {
            return Err(DataError::DuplicateImage {
                path: path(),
                image: id,
            });
        }
        let (width, height) = image.size.map_err(|found| DataError::ImageSize {
            path: path(),
            image: id,
            found,
        })?;
        if image.file_name.trim().is_empty() {
            return Err(DataError::NoFileName {
                path: path(),
                image: id,
            });
        }
        images.push(ImageRecord {
            id: ImageId(id),
            path: locate(images_root, &image.file_name),
            file_name: image.file_name,
            width,
            height,
            objects: Vec::new(),
            outlines: Vec::new(),
        });
    }
    images.sort_by_key(|image| image.id);
    Ok(images)
}

/// Whether an outline is one of what is in a box: others, as in shares of the image or of lines, would cut out nothing.
fn fits(outline: &Outline, bbox: &BoundingBox) -> bool {
    let bounds = outline.bounds();
    bounds.is_some_and(|bounds| bounds.iou(bbox) >= 0.5) && outline.area() >= 0.05 * bbox.area()
}

/// The annotation's box, or why there is none to learn from; an error says what is in its place.
fn usable_box<'a>(
    annotation: &'a Annotation,
    image: &ImageRecord,
) -> Result<Result<BoundingBox, DropReason>, &'a String> {
    let [x, y, width, height] = match &annotation.bbox {
        RawBox::Missing => return Ok(Err(DropReason::NoBox)),
        RawBox::Malformed(found) => return Err(found),
        RawBox::Numbers(numbers) => *numbers,
    };
    let bbox = BoundingBox::from_xywh([x, y, width, height]);
    let reason = if !bbox.to_array().iter().all(|edge| edge.is_finite()) {
        DropReason::NonFinite
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
