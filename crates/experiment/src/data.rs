//! A config's data, ready to be read.

use retinanet_data::{Batching, CocoDataset, DataError, ReadOptions};
use retinanet_images::Decoding;

use crate::config::{DataConfig, ExperimentConfig, SplitConfig};
use crate::error::ExperimentError;
use crate::observer::Observer;

impl ExperimentConfig {
    /// How training's images become batches. A batch whose size is yet to be measured has as many images as micro-batches.
    pub fn batching(&self) -> Batching {
        let micro_batches = self.train.accumulate;
        let images = retinanet_settings::Count::new(self.train.batch_size.images());
        Batching {
            batch_size: images.unwrap_or(micro_batches).max(micro_batches),
            micro_batches,
            seed: self.seed.get(),
        }
    }
}

impl DataConfig {
    /// Reads what is trained on; all files are there.
    ///
    /// # Errors
    ///
    /// Returns an error where annotations cannot be read or image files are missing.
    pub fn read_train(&self) -> Result<CocoDataset, DataError> {
        self.read(&self.train, self.keep_empty)
    }

    /// Reads a split to evaluate on; all files are there.
    ///
    /// # Errors
    ///
    /// As [`read_train`](Self::read_train).
    pub fn read_to_evaluate(&self, split: &SplitConfig) -> Result<CocoDataset, DataError> {
        self.read(split, true)
    }

    fn read(&self, split: &SplitConfig, keep_empty: bool) -> Result<CocoDataset, DataError> {
        let dataset = self.read_with(split, self.read_options(keep_empty))?;
        dataset.check_files()?;
        Ok(dataset)
    }

    /// Reads a split, whether or not its image files are there.
    ///
    /// # Errors
    ///
    /// Returns an error if the annotations cannot be read.
    pub fn read_with(
        &self,
        split: &SplitConfig,
        options: ReadOptions,
    ) -> Result<CocoDataset, DataError> {
        let annotations = self.root.join(&split.annotations);
        let images = self.root.join(&split.images);
        CocoDataset::read_with(&annotations, &images, options)
    }

    /// What image files are taken, and how their values become 8 bits.
    pub const fn decoding(&self) -> Decoding {
        self.decoding.init()
    }

    /// How a split is read; images without objects stay if they are to be kept.
    pub fn read_options(&self, keep_empty: bool) -> ReadOptions {
        ReadOptions {
            keep_empty,
            labels: self.labels,
            decoding: self.decoding(),
            outlines: self.transform.augment.copy_paste.probability.get() > 0.0,
            ..ReadOptions::default()
        }
    }
}

/// Renders the built-in data set if the config asks for it and it is not there.
///
/// # Errors
///
/// Returns an error if it cannot be written.
pub fn render_shapes_if_absent(
    data: &DataConfig,
    observer: &mut dyn Observer,
) -> Result<(), ExperimentError> {
    let Some(shapes) = &data.synth else {
        return Ok(());
    };
    if shapes.is_written_at(&data.root) {
        return Ok(());
    }
    observer.message(&format!(
        "rendering the shapes data set into {}",
        data.root.display()
    ));
    shapes.write(&data.root)?;
    Ok(())
}

/// Tells which annotations were left out.
pub fn tell_dropped(dataset: &CocoDataset, observer: &mut dyn Observer) {
    const SHOWN: usize = 5;
    let dropped = &dataset.dropped;
    if dropped.is_empty() {
        return;
    }
    observer.message(&format!(
        "{}: left out {} annotations that nothing can be learnt from:",
        dataset.annotations.display(),
        dropped.len()
    ));
    for dropped in dropped.iter().take(SHOWN) {
        observer.message(&format!("  {dropped}"));
    }
    if dropped.len() > SHOWN {
        observer.message(&format!("  and {} more", dropped.len() - SHOWN));
    }
}
