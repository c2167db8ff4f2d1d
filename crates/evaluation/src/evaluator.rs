use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use hotcoco::params::IouType;
use hotcoco::{Annotation, COCO, COCOeval, Category, Dataset};
use retinanet_annotations::{CocoFile, Masks, read_results};
use retinanet_boxes::{BoundingBox, CategoryId, Class, ClassId, ClassList, ImageId};

use crate::file_names::Files;
use crate::{CocoDetection, EvaluationError, Metrics};

/// Compares detections with the annotations of a data set.
///
/// The annotations are read once; each evaluation costs what its detections cost.
#[derive(Clone)]
pub struct Evaluator {
    truth: Arc<COCO>,
    /// What to call the annotations in messages.
    annotations: String,
    /// How many detections of an image and class count.
    max_detections: usize,
}

/// More categories than the largest data sets have; each takes 0.2 MB of curves.
const MOST_CATEGORIES: usize = 20_000;

/// The most pairs of an object and a detection of an image, which each take 8 bytes.
const MOST_PAIRS: usize = 50_000_000;

/// COCO's number of detections that count.
const MAX_DETECTIONS: usize = 100;

impl Evaluator {
    /// Reads a COCO annotation file.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or is not a COCO instances file, an annotation has no box,
    /// or a category id occurs twice.
    pub fn from_file(annotations: &Path) -> Result<Self, EvaluationError> {
        let mut file = CocoFile::read(annotations, Masks::Ignored)?;
        // Most files give all areas, and masks are most of a file.
        let records = file.annotations.records();
        if records.iter().any(|annotation| annotation.area.is_none()) {
            file = CocoFile::read(annotations, Masks::Areas)?;
        }
        file.require_sound(annotations)?;
        Self::from_dataset(file.into_dataset(), annotations.display().to_string())
    }

    /// Adds the classes of a model that the annotations lack: nothing of them is to be found, so they count
    /// in no mean, and detections of them are none of another data set's.
    #[must_use]
    pub fn with_classes(mut self, classes: &ClassList) -> Self {
        let listed = |(class, it): &(ClassId, &Class)| {
            classes.is_unused(*class) || self.truth.get_cat(it.category.0).is_some()
        };
        let missing: Vec<_> = (classes.iter().filter(|it| !listed(it)))
            .map(|(_, class)| Category {
                id: class.category.0,
                name: class.name.clone(),
                ..Category::default()
            })
            .collect();
        if !missing.is_empty() {
            let mut dataset = self.truth.dataset.clone();
            dataset.categories.extend(missing);
            silence(&mut dataset);
            self.truth = Arc::new(COCO::from_dataset(dataset));
        }
        self
    }

    /// Takes annotations that are already in memory; `annotations` is what to call them in
    /// messages.
    ///
    /// # Errors
    ///
    /// Returns an error if an annotation has no box or a category id occurs twice.
    pub fn from_dataset(
        mut dataset: Dataset,
        annotations: impl Into<String>,
    ) -> Result<Self, EvaluationError> {
        let annotations = annotations.into();
        if let Some(annotation) = dataset.annotations.iter().find(|it| !has_finite_box(it)) {
            return Err(EvaluationError::NoBox {
                annotation: annotation.id,
                annotations,
            });
        }
        if let Some(category) = repeated(dataset.categories.iter().map(|it| it.id)) {
            return Err(EvaluationError::DuplicateCategory {
                category: CategoryId(category),
                annotations,
            });
        }
        if dataset.categories.len() > MOST_CATEGORIES {
            return Err(EvaluationError::TooManyCategories {
                annotations,
                count: dataset.categories.len(),
            });
        }
        silence(&mut dataset);
        let mut truth = COCO::from_dataset(dataset);
        truth.fill_missing_areas();
        // Masks served to find areas; they are most of a file and boxes do not need them.
        for annotation in &mut truth.dataset.annotations {
            annotation.segmentation = None;
        }
        Ok(Self {
            truth: Arc::new(truth),
            annotations,
            max_detections: MAX_DETECTIONS,
        })
    }

    /// Reads a file in COCO's results format. Of detections that name their image's file in place of its id,
    /// as `predict --json` writes them, the ids are looked up: by the whole name, else by its last part.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or is no such list, or if a file's name is not that of
    /// one image.
    pub fn read_detections(&self, path: &Path) -> Result<Vec<CocoDetection>, EvaluationError> {
        let records = read_results(path)?;
        let names = records.iter().any(|record| record.image.is_none());
        let files = if names {
            Files::of(&self.truth.dataset)
        } else {
            Files::default()
        };
        let detections = records.into_iter().map(|record| {
            let image_id = match (record.image, record.file_name) {
                (Some(image), _) => image,
                (None, file_name) => {
                    let file_name = file_name.unwrap_or_default();
                    files
                        .image(&file_name)
                        .map_err(|count| EvaluationError::FileName {
                            annotations: self.annotations.clone(),
                            file_name,
                            count,
                        })?
                }
            };
            Ok(CocoDetection {
                image_id: ImageId(image_id),
                category_id: CategoryId(record.category),
                bbox: record.bbox,
                score: record.score,
            })
        });
        detections.collect()
    }

    /// Leaves images out, with what is on them.
    #[must_use]
    pub fn without_images(mut self, images: &HashSet<ImageId>) -> Self {
        if !images.is_empty() {
            let mut dataset = self.truth.dataset.clone();
            dataset
                .images
                .retain(|it| !images.contains(&ImageId(it.id)));
            (dataset.annotations).retain(|it| !images.contains(&ImageId(it.image_id)));
            self.truth = Arc::new(COCO::from_dataset(dataset));
        }
        self
    }

    /// Lets so many detections of an image and class count, where COCO counts 100.
    #[must_use]
    pub fn with_max_detections(self, max_detections: usize) -> Self {
        Self {
            max_detections,
            ..self
        }
    }

    /// How many detections of an image and class count.
    pub const fn max_detections(&self) -> usize {
        self.max_detections
    }

    /// The images with more objects of a class than detections count, each with how many: no detector can
    /// reach an AP of 1 there.
    pub fn crowded_images(&self) -> Vec<(ImageId, usize)> {
        let mut counts = BTreeMap::new();
        for annotation in self
            .truth
            .dataset
            .annotations
            .iter()
            .filter(|it| !it.iscrowd)
        {
            *counts
                .entry((annotation.image_id, annotation.category_id))
                .or_insert(0) += 1;
        }
        let mut crowded = BTreeMap::new();
        for ((image, _), count) in counts
            .into_iter()
            .filter(|(_, count)| *count > self.max_detections)
        {
            let most = crowded.entry(ImageId(image)).or_insert(0);
            *most = count.max(*most);
        }
        crowded.into_iter().collect()
    }

    /// The metrics of these detections over all images.
    ///
    /// # Errors
    ///
    /// Returns an error if a detection is on an image or of a category that the annotations do
    /// not have, or is non-finite.
    pub fn evaluate(&self, detections: &[CocoDetection]) -> Result<Metrics, EvaluationError> {
        Ok(Metrics::of(&self.run(detections, self.images())?))
    }

    /// The metrics over these images only. Detections on other images are passed over.
    ///
    /// # Errors
    ///
    /// Returns an error as [`Evaluator::evaluate`] does, and where the annotations do not have one
    /// of the images.
    pub fn evaluate_images(
        &self,
        detections: &[CocoDetection],
        images: &[ImageId],
    ) -> Result<Metrics, EvaluationError> {
        Ok(Metrics::of(&self.run(detections, self.known(images)?)?))
    }

    /// The ids of all images.
    pub(crate) fn images(&self) -> Vec<u64> {
        self.truth.get_img_ids(&[], &[])
    }

    /// The ids of these images, all of which the annotations must have.
    pub(crate) fn known(&self, images: &[ImageId]) -> Result<Vec<u64>, EvaluationError> {
        self.require_images(images.iter().copied())?;
        Ok(images.iter().map(|image| image.0).collect())
    }

    /// hotcoco's evaluation of these detections on these images, accumulated and summarised.
    pub(crate) fn run(
        &self,
        detections: &[CocoDetection],
        mut images: Vec<u64>,
    ) -> Result<COCOeval, EvaluationError> {
        self.require_known(detections)?;
        // hotcoco would count an image that occurs twice in the confusion matrix twice.
        images.sort_unstable();
        images.dedup();
        // It takes no image ids at all for every image.
        let (truth, detections) = if images.is_empty() {
            (Arc::new(self.categories_alone()), [].as_slice())
        } else {
            (Arc::clone(&self.truth), detections)
        };
        let found = truth.load_res_anns(detections.iter().map(Annotation::from).collect())?;
        let mut evaluation = COCOeval::new(truth, found, IouType::Bbox);
        evaluation.params.img_ids = images;
        if self.max_detections != MAX_DETECTIONS {
            evaluation.params.max_dets = vec![1, 10, self.max_detections];
        }
        evaluation.evaluate()?;
        evaluation.accumulate();
        // Sets the statistics; `summarize` would print them.
        evaluation.summarize_lines();
        Ok(evaluation)
    }

    /// The categories alone.
    fn categories_alone(&self) -> COCO {
        COCO::from_dataset(Dataset {
            categories: self.truth.dataset.categories.clone(),
            ..Dataset::default()
        })
    }

    /// Checks what hotcoco would print a warning about, or rank without meaning.
    fn require_known(&self, detections: &[CocoDetection]) -> Result<(), EvaluationError> {
        if let Some(index) = detections.iter().position(|it| !it.is_finite()) {
            return Err(EvaluationError::NonFinite {
                index,
                image: detections[index].image_id,
            });
        }
        self.require_images(detections.iter().map(|it| it.image_id))?;
        self.require_few_pairs(detections)?;
        let categories: BTreeSet<CategoryId> = detections
            .iter()
            .map(|it| it.category_id)
            .filter(|category| self.truth.get_cat(category.0).is_none())
            .collect();
        if categories.is_empty() {
            return Ok(());
        }
        Err(EvaluationError::UnknownCategories {
            annotations: self.annotations.clone(),
            categories: categories.into_iter().collect(),
        })
    }

    /// Refuses images whose objects and detections would take gigabytes to hold against each other.
    fn require_few_pairs(&self, detections: &[CocoDetection]) -> Result<(), EvaluationError> {
        let mut found: HashMap<u64, usize> = HashMap::new();
        for detection in detections {
            *found.entry(detection.image_id.0).or_default() += 1;
        }
        let mut objects: HashMap<u64, usize> = HashMap::new();
        for annotation in &self.truth.dataset.annotations {
            *objects.entry(annotation.image_id).or_default() += 1;
        }
        for (image, detections) in found {
            let objects = objects.get(&image).copied().unwrap_or_default();
            if objects.saturating_mul(detections) > MOST_PAIRS {
                return Err(EvaluationError::TooManyPairs {
                    image: ImageId(image),
                    objects,
                    detections,
                });
            }
        }
        Ok(())
    }

    fn require_images(&self, images: impl Iterator<Item = ImageId>) -> Result<(), EvaluationError> {
        let unknown: BTreeSet<ImageId> = images
            .filter(|image| self.truth.get_img(image.0).is_none())
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(EvaluationError::UnknownImages {
            annotations: self.annotations.clone(),
            images: unknown.into_iter().collect(),
        })
    }
}

/// Whether all edges are numbers in single precision, as everywhere else.
fn has_finite_box(annotation: &Annotation) -> bool {
    let edges = annotation
        .bbox
        .map(|bbox| BoundingBox::from_xywh(bbox).to_array());
    edges.is_some_and(|edges| edges.iter().all(|edge| edge.is_finite()))
}

/// Repairs what hotcoco would print a warning about: categories without a name, and annotations
/// that share an id, which are numbered anew.
fn silence(dataset: &mut Dataset) {
    for category in &mut dataset.categories {
        if category.name.is_empty() {
            category.name = COCO::placeholder_cat_name(category.id);
        }
    }
    if repeated(dataset.annotations.iter().map(|it| it.id)).is_some() {
        for (id, annotation) in (1..).zip(&mut dataset.annotations) {
            annotation.id = id;
        }
    }
}

/// The first id that occurs a second time.
fn repeated(ids: impl Iterator<Item = u64>) -> Option<u64> {
    let mut seen = HashSet::new();
    ids.into_iter().find(|&id| !seen.insert(id))
}

#[cfg(test)]
mod tests;
