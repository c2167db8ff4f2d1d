//! Images by the names of their files, for detections that give these in place of ids.

use std::collections::HashMap;

use hotcoco::Dataset;

/// The images by their files' names.
#[derive(Default)]
pub(crate) struct Files<'a> {
    by_name: HashMap<&'a str, Vec<u64>>,
    by_last_part: HashMap<&'a str, Vec<u64>>,
}

impl<'a> Files<'a> {
    pub(crate) fn of(truth: &'a Dataset) -> Self {
        let mut files = Self::default();
        for image in &truth.images {
            let name = image.file_name.as_str();
            files.by_name.entry(name).or_default().push(image.id);
            files
                .by_last_part
                .entry(last_part(name))
                .or_default()
                .push(image.id);
        }
        files
    }

    /// The image with this file; how many there are if there is not one.
    pub(crate) fn image(&self, name: &str) -> Result<u64, usize> {
        let found = (self.by_name.get(name)).or_else(|| self.by_last_part.get(last_part(name)));
        match found.map(Vec::as_slice) {
            Some(&[image]) => Ok(image),
            found => Err(found.map_or(0, <[u64]>::len)),
        }
    }
}

fn last_part(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}
