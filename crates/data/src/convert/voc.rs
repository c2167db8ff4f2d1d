//! What Pascal VOC's files leave open, filled in from the pictures.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use hotcoco::{Category, Dataset};
use retinanet_images::read_header;

use super::pictures;
use crate::{DataError, in_full};

/// Folders below a data set's own that pictures may lie in.
const FOLDERS: [&str; 3] = ["", "JPEGImages", "images"];

/// Refuses XML files that are none, such as a pipe, which would be waited for.
///
/// # Errors
///
/// Returns an error that names the first.
pub(super) fn require_files(source: &Path) -> Result<(), DataError> {
    for folder in [source.to_owned(), source.join("Annotations")] {
        let entries = fs_err::read_dir(folder).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        for path in paths.filter(|path| path.extension().is_some_and(|it| it == "xml")) {
            retinanet_files::require_file(&path)
                .map_err(|source| DataError::Read { path, source })?;
        }
    }
    Ok(())
}

/// Completes what was read of VOC's files: the sizes that are 0 and the names without their extension,
/// from the pictures in this folder; and the names of classes, of which XML keeps line breaks.
///
/// # Errors
///
/// Returns an error if a size is needed whose picture is not there or cannot be read.
pub(super) fn complete(dataset: &mut Dataset, images: &Path) -> Result<(), DataError> {
    merge_names(dataset);
    let folders: Vec<PathBuf> = FOLDERS.iter().map(|name| images.join(name)).collect();
    for image in &mut dataset.images {
        let picture = find(&folders, &image.file_name);
        if let Some(name) = picture.as_ref().and_then(|it| it.file_name()?.to_str()) {
            image.file_name = name.into();
        }
        if image.width == 0 || image.height == 0 {
            let path = picture.unwrap_or_else(|| images.join(&image.file_name));
            let header = read_header(&path).map_err(|error| DataError::Convert {
                reason: format!(
                    "its size, which the XML file does not tell, could not be read: {}",
                    in_full(&error)
                ),
                path,
            })?;
            (image.width, image.height) = header.upright;
        }
    }
    Ok(())
}

/// The picture of this name, or else of this name with an extension.
fn find(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    let plain = folders.iter().map(|folder| folder.join(name));
    plain.clone().find(|path| path.is_file()).or_else(|| {
        let stems = folders
            .iter()
            .filter_map(|folder| fs_err::read_dir(folder).ok());
        (stems.flatten().flatten().map(|entry| entry.path()))
            .filter(|path| pictures::is_picture(path))
            .find(|path| path.file_stem().is_some_and(|stem| stem == name))
    })
}

/// Writes the names of classes on one line, and makes those that are then the same one class.
fn merge_names(dataset: &mut Dataset) {
    let mut merged: BTreeMap<String, u64> = BTreeMap::new();
    let mut ids = HashMap::new();
    for category in &dataset.categories {
        let name = category
            .name
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let id = *merged.entry(name).or_insert(category.id);
        ids.insert(category.id, id);
    }
    for annotation in &mut dataset.annotations {
        if let Some(id) = ids.get(&annotation.category_id) {
            annotation.category_id = *id;
        }
    }
    let mut categories: Vec<_> = (merged.into_iter())
        .map(|(name, id)| Category {
            id,
            name,
            ..Category::default()
        })
        .collect();
    categories.sort_by_key(|category| category.id);
    dataset.categories = categories;
}
