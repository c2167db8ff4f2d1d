//! Pascal VOC: what its files leave open, filled in from the images, and the files written whole.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use hotcoco::convert::coco_to_voc;
use hotcoco::{Category, Dataset};
use retinanet_data::in_full;
use retinanet_images::read_header;

use super::ConvertError;
use super::pictures;

/// Folders below a data set's own that may hold pictures.
const FOLDERS: [&str; 3] = ["", "JPEGImages", "images"];

/// Refuses XML files that are none, such as a pipe, which would be waited for.
///
/// # Errors
///
/// Returns an error that names the first.
pub(super) fn require_files(source: &Path) -> Result<(), ConvertError> {
    for folder in [source.to_owned(), source.join("Annotations")] {
        let entries = fs_err::read_dir(folder).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        for path in paths.filter(|path| path.extension().is_some_and(|it| it == "xml")) {
            retinanet_files::require_file(&path)
                .map_err(|source| ConvertError::Read { path, source })?;
        }
    }
    Ok(())
}

/// Keeps the images that a split's list names, `ImageSets/Main/NAME.txt`, by their names without extension.
///
/// # Errors
///
/// Returns an error if there is no such list, or if it names an image that has no XML file.
pub(super) fn keep_split(
    dataset: &mut Dataset,
    source: &Path,
    split: &str,
) -> Result<(), ConvertError> {
    let path = list_of(source, split);
    let text = retinanet_files::read_text(&path).map_err(|source| ConvertError::Read {
        path: path.clone(),
        source,
    })?;
    let listed: HashSet<&str> = text.lines().filter_map(listed_name).collect();
    let stem = |name: &str| {
        let stem = Path::new(name).file_stem().and_then(|it| it.to_str());
        stem.unwrap_or(name).to_owned()
    };
    let there: HashMap<String, u64> = (dataset.images.iter())
        .map(|image| (stem(&image.file_name), image.id))
        .collect();
    if let Some(lost) = listed.iter().find(|name| !there.contains_key(**name)) {
        return Err(ConvertError::Failed {
            reason: format!("it lists `{lost}`, and no XML file tells of that image"),
            path,
        });
    }
    let kept: HashSet<u64> = (there.iter())
        .filter(|(name, _)| listed.contains(name.as_str()))
        .map(|(_, id)| *id)
        .collect();
    dataset.images.retain(|image| kept.contains(&image.id));
    (dataset.annotations).retain(|annotation| kept.contains(&annotation.image_id));
    Ok(())
}

/// The splits that `ImageSets/Main` lists and whose first image has its XML file.
pub(super) fn splits(source: &Path) -> Vec<String> {
    const SPLITS: [&str; 4] = ["train", "trainval", "val", "test"];
    let has_labels = |split: &&str| {
        let text = retinanet_files::read_text(list_of(source, split)).unwrap_or_default();
        let first = text.lines().find_map(listed_name);
        first.is_some_and(|name| {
            let xml = source.join("Annotations").join(format!("{name}.xml"));
            xml.is_file()
        })
    };
    let listed = SPLITS.into_iter().filter(has_labels);
    listed.map(str::to_owned).collect()
}

fn list_of(source: &Path, split: &str) -> PathBuf {
    source
        .join("ImageSets/Main")
        .join(split)
        .with_extension("txt")
}

/// The image of a line, behind which a class's list has 1, 0 or -1.
fn listed_name(line: &str) -> Option<&str> {
    line.split_whitespace().next()
}

/// Completes what was read of VOC's files: the sizes that are 0 and the names without their extension,
/// from the pictures in this folder; and the names of classes, of which XML keeps line breaks.
///
/// # Errors
///
/// Returns an error if a size is needed whose picture is not there or cannot be read.
pub(super) fn complete(dataset: &mut Dataset, images: &Path) -> Result<(), ConvertError> {
    merge_names(dataset);
    let folders: Vec<PathBuf> = FOLDERS.iter().map(|name| images.join(name)).collect();
    for image in &mut dataset.images {
        let picture = find(&folders, &image.file_name);
        if let Some(name) = picture.as_ref().and_then(|it| it.file_name()?.to_str()) {
            image.file_name = name.into();
        }
        if image.width == 0 || image.height == 0 {
            let path = picture.unwrap_or_else(|| images.join(&image.file_name));
            let header = read_header(&path).map_err(|error| ConvertError::Failed {
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

/// Writes the files below a folder; tells how many annotations were taken over.
///
/// They are made elsewhere first, so that none is left half-written and the folder is untouched if the data set
/// cannot be written as VOC's.
///
/// # Errors
///
/// Returns what went wrong, in words, with the file.
pub(super) fn write(dataset: &Dataset, folder: &Path) -> Result<usize, String> {
    let in_words = |error: io::Error| in_full(&error);
    let made = tempfile::tempdir().map_err(in_words)?;
    let stats = coco_to_voc(dataset, made.path()).map_err(|error| error.to_string())?;
    move_files(made.path(), folder).map_err(in_words)?;
    Ok(stats.annotations)
}

fn move_files(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            move_files(&entry.path(), &target)?;
        } else {
            retinanet_files::write_cached(&target, fs_err::read(entry.path())?)?;
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
