//! The images of both splits, checked before anything is trained: a fault that shows only at the first
//! evaluation costs a night.

use std::collections::HashSet;

use retinanet_boxes::{ClassList, ImageId};
use retinanet_data::{
    CocoDataset, DataError, FileFaults, LookOver, OnBadImage, ReadOptions, in_full,
};
use retinanet_evaluation::Evaluator;

use crate::config::{DataConfig, SplitConfig};
use crate::error::ExperimentError;
use crate::observer::{Observer, Progress};

/// A split to evaluate on.
pub struct EvaluationData {
    /// The images that can be read, their objects numbered as the model's classes.
    pub dataset: CocoDataset,
    /// The annotations of these images; nothing if the file has none.
    pub evaluator: Option<Evaluator>,
}

impl DataConfig {
    /// Reads a split for a model with these classes. Images that cannot be used are left out and told where
    /// `on_bad_image` says so, and refused otherwise.
    ///
    /// # Errors
    ///
    /// Returns an error if the annotations cannot be read or have other classes, if an image cannot be used,
    /// or if none is left.
    pub fn to_evaluate(
        &self,
        split: &SplitConfig,
        classes: &ClassList,
        observer: &mut dyn Observer,
    ) -> Result<EvaluationData, ExperimentError> {
        let options = ReadOptions {
            annotated: false,
            ..self.read_options(true)
        };
        let read = self.read_with(split, options)?;
        let mut dataset = read.with_classes(classes)?;
        let left_out = leave_out_faulty(&mut dataset, self.loader.on_bad_image, observer)?;
        if dataset.images.is_empty() {
            let path = dataset.annotations;
            return Err(DataError::NoImages { path }.into());
        }
        let evaluator = if dataset.is_annotated {
            let evaluator = Evaluator::from_file(&dataset.annotations)?;
            Some(evaluator.with_classes(classes).without_images(&left_out))
        } else {
            None
        };
        Ok(EvaluationData { dataset, evaluator })
    }
}

fn leave_out_faulty(
    dataset: &mut CocoDataset,
    on_bad_image: OnBadImage,
    observer: &mut dyn Observer,
) -> Result<HashSet<ImageId>, DataError> {
    let what = "looking over the images to evaluate on";
    let FileFaults { unusable, .. } = look_over(dataset, LookOver::Whole, what, observer);
    let ids = unusable.iter().map(|(id, _)| *id).collect();
    let Some(refusal) = refusal(dataset, unusable) else {
        return Ok(ids);
    };
    match on_bad_image {
        OnBadImage::Stop => Err(refusal),
        OnBadImage::Skip => {
            observer.message(&format!("left out: {}", in_full(&refusal)));
            (dataset.images).retain(|image| !HashSet::contains(&ids, &image.id));
            Ok(ids)
        }
    }
}

/// Looks at the beginnings of the files that are trained on, since the first look at the last of them may
/// be hours away.
///
/// # Errors
///
/// Returns an error if one cannot be used and shall not be skipped.
pub fn check_training_files(
    dataset: &CocoDataset,
    on_bad_image: OnBadImage,
    observer: &mut dyn Observer,
) -> Result<(), DataError> {
    let what = "looking over the images to train on";
    let FileFaults { unusable, turned } = look_over(dataset, LookOver::Headers, what, observer);
    if turned > 0 {
        observer.message(&format!(
            "{turned} images are turned by EXIF while their size stays: training takes their boxes as drawn \
             on the upright image; `retinanet dataset view` shows whether they are"
        ));
    }
    match refusal(dataset, unusable) {
        Some(refusal) if on_bad_image == OnBadImage::Stop => Err(refusal),
        _ => Ok(()),
    }
}

fn look_over(
    dataset: &CocoDataset,
    depth: LookOver,
    what: &'static str,
    observer: &mut dyn Observer,
) -> FileFaults {
    observer.progress(Progress::Start {
        what,
        total: dataset.images.len() as u64,
    });
    let faults = dataset.look_over(depth, || observer.progress(Progress::Tick));
    observer.progress(Progress::Finish);
    faults
}

/// The error that these images are; nothing if there are none.
fn refusal(dataset: &CocoDataset, unusable: Vec<(ImageId, DataError)>) -> Option<DataError> {
    let count = unusable.len();
    let (_, first) = unusable.into_iter().next()?;
    Some(DataError::FaultyImages {
        path: dataset.annotations.clone(),
        count,
        total: dataset.images.len(),
        first: Box::new(first),
    })
}
