//! What a folder holds: annotations of a known format, their halves for training and validation, and the images.

mod halves;
mod tree;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use retinanet_annotations::{CocoFile, Masks};
use retinanet_data::locate;

use self::halves::{choose, is_half, several};
pub use self::tree::MADE_BY_INIT;
use self::tree::Tree;
use crate::convert::{DatasetFormat, voc_splits, yolo_splits};

/// Annotations that were found, and where their images are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Their format.
    pub format: DatasetFormat,
    /// What is trained on; everything if there is no validation half.
    pub train: FoundSplit,
    /// What is evaluated on, if it is told apart.
    pub val: Option<FoundSplit>,
    /// Lists of halves that are there and not read: a folder `ImageSets` of VOC's without `Main/train.txt`.
    pub unread_lists: Option<PathBuf>,
}

/// A half of what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSplit {
    /// The file or folder of its annotations.
    pub annotations: PathBuf,
    /// The folder that the names of its images start from.
    pub images: PathBuf,
    /// Its name in what lists several: a `data.yaml`, darknet's text files or VOC's `ImageSets`.
    pub split: Option<String>,
}

/// A folder does not hold what can be trained on, or more than one such thing.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoverError {
    /// There are no annotations.
    #[error(
        "`{}` has no annotations that are known here: no COCO instances JSON, no YOLO `data.yaml` or `classes.txt`, no \
         Pascal VOC XML, no CSV",
        folder.display()
    )]
    Nothing {
        /// The folder.
        folder: PathBuf,
    },
    /// It is not clear which file is to be trained on.
    #[error(
        "`{}` has several annotation files, and which is for training is not in their names: {}; name one with \
         `--annotations` and its folder of images with `--images`",
        folder.display(),
        files.join(", ")
    )]
    Several {
        /// The folder.
        folder: PathBuf,
        /// The files, relative to it.
        files: Vec<String>,
    },
    /// The images of an annotation file are not there.
    #[error(
        "none of the images that `{}` names is below `{}`, such as `{example}`; name their folder with `--images`",
        annotations.display(),
        folder.display()
    )]
    NoImages {
        /// The annotations.
        annotations: PathBuf,
        /// Where was looked.
        folder: PathBuf,
        /// The first image.
        example: String,
    },
    /// A file cannot be read.
    #[error("{0}")]
    Unreadable(String),
}

/// Looks for annotations in a folder and some levels below: COCO's first, then YOLO's, Pascal VOC's and CSV's.
///
/// # Errors
///
/// Returns an error if there are none, if it is not clear which to train on, or if their images are not there.
pub fn discover(folder: &Path) -> Result<Found, DiscoverError> {
    let tree = Tree::of(folder);
    let (coco, unreadable) = coco_files(&tree);
    // A damaged half is not passed over for another file.
    let damaged = (unreadable.iter()).find(|(path, _)| coco.is_empty() || is_half(folder, path));
    if let Some((_, reason)) = damaged {
        return Err(DiscoverError::Unreadable(reason.clone()));
    }
    if !coco.is_empty() {
        return found_coco(folder, &tree, &coco);
    }
    if let Some(found) = found_yolo(folder, &tree)? {
        return Ok(found);
    }
    if let Some(found) = found_voc(folder, &tree)? {
        return Ok(found);
    }
    let csv: Vec<PathBuf> = tree.with_extension("csv").cloned().collect();
    let halves = choose(folder, &csv)?.ok_or_else(|| DiscoverError::Nothing {
        folder: folder.to_owned(),
    })?;
    let split = |path: PathBuf| FoundSplit {
        images: tree.pictures_near(path.parent().unwrap_or(folder)),
        annotations: path,
        split: None,
    };
    Ok(Found {
        format: DatasetFormat::Csv,
        train: split(halves.train),
        val: halves.val.map(split),
        unread_lists: None,
    })
}

/// Finds the folder that the names of a COCO file's images start from, at or below this one or beside the file.
///
/// # Errors
///
/// Returns an error if the file cannot be read, or if none of its images is there.
pub fn find_images(annotations: &Path, folder: &Path) -> Result<PathBuf, DiscoverError> {
    let file = CocoFile::read(annotations, Masks::Bounds)
        .map_err(|error| DiscoverError::Unreadable(retinanet_data::in_full(&error)))?;
    // Annotations are often in a folder beside that of the images.
    let is_annotations = folder.file_name().is_some_and(|it| it == "annotations");
    let around = folder.parent().filter(|_| is_annotations);
    let folder = match around.unwrap_or(folder) {
        here if here.as_os_str().is_empty() => Path::new("."),
        folder => folder,
    };
    images_of(annotations, &file, &Tree::of(folder), folder)
}

/// A file with its path.
type Named<T> = (PathBuf, T);

/// The JSON files that are COCO's, and those that cannot be read with the reason.
fn coco_files(tree: &Tree) -> (Vec<Named<CocoFile>>, Vec<Named<String>>) {
    let (mut coco, mut unreadable) = (Vec::new(), Vec::new());
    for path in tree.with_extension("json") {
        match CocoFile::read(path, Masks::Bounds) {
            Ok(file) => {
                let lists = [
                    file.images.records().len(),
                    file.annotations.records().len(),
                    file.categories.records().len(),
                ];
                if lists.iter().any(|count| *count > 0) {
                    coco.push((path.clone(), file));
                }
            }
            Err(error) => unreadable.push((path.clone(), retinanet_data::in_full(&error))),
        }
    }
    (coco, unreadable)
}

fn found_coco(
    folder: &Path,
    tree: &Tree,
    files: &[Named<CocoFile>],
) -> Result<Found, DiscoverError> {
    let paths: Vec<PathBuf> = files.iter().map(|(path, _)| path.clone()).collect();
    let halves = choose(folder, &paths)?.ok_or_else(|| DiscoverError::Nothing {
        folder: folder.to_owned(),
    })?;
    let split = |path: PathBuf| {
        let file = files
            .iter()
            .find(|(it, _)| *it == path)
            .map(|(_, file)| file);
        let images = match file {
            Some(file) => images_of(&path, file, tree, folder)?,
            None => folder.to_owned(),
        };
        Ok(FoundSplit {
            annotations: path,
            images,
            split: None,
        })
    };
    Ok(Found {
        format: DatasetFormat::Coco,
        train: split(halves.train)?,
        val: halves.val.map(split).transpose()?,
        unread_lists: None,
    })
}

/// The folder where most of a file's first images are.
fn images_of(
    annotations: &Path,
    file: &CocoFile,
    tree: &Tree,
    folder: &Path,
) -> Result<PathBuf, DiscoverError> {
    const TRIED: usize = 20;
    let records = file.images.records();
    let names: Vec<&str> = (records.iter().take(TRIED))
        .map(|image| image.file_name.as_str())
        .collect();
    let beside = annotations.parent().unwrap_or(folder);
    if names.is_empty() {
        return Ok(beside.to_owned());
    }
    let around = beside.parent().unwrap_or(beside);
    let near = [
        beside.join("images"),
        beside.to_owned(),
        around.join("images"),
        around.to_owned(),
    ];
    let found = |folder: &Path| {
        let there = names.iter().filter(|name| locate(folder, name).is_file());
        there.count()
    };
    let mut best: Option<(usize, &Path)> = None;
    for candidate in near.iter().chain(&tree.folders) {
        let count = found(candidate);
        if count > best.map_or(0, |(most, _)| most) {
            best = Some((count, candidate));
        }
        if count == names.len() {
            break;
        }
    }
    let found = best.map(|(_, folder)| folder.to_owned());
    found.ok_or_else(|| DiscoverError::NoImages {
        annotations: annotations.to_owned(),
        folder: folder.to_owned(),
        example: names.first().unwrap_or(&"").chars().take(200).collect(),
    })
}

fn found_yolo(folder: &Path, tree: &Tree) -> Result<Option<Found>, DiscoverError> {
    const NAMES: [&str; 3] = ["data.yaml", "data.yml", "dataset.yaml"];
    const LISTS: [&str; 3] = ["classes.txt", "obj.names", "_darknet.labels"];
    let unreadable = |error: crate::ConvertError| DiscoverError::Unreadable(error.to_string());
    let yaml: Vec<PathBuf> = (tree
        .with_extension("yaml")
        .chain(tree.with_extension("yml")))
    .filter(|path| yolo_splits(path).is_ok())
    .cloned()
    .collect();
    if yaml.len() > 1 {
        return Err(several(folder, &yaml));
    }
    let listed = || {
        let is_list = |path: &&PathBuf| {
            let name = path.file_name().and_then(|it| it.to_str());
            name.is_some_and(|name| LISTS.contains(&name))
        };
        tree.files.iter().find(is_list)
    };
    let Some(names) = yaml.first().or_else(listed) else {
        // A file that should have been one says why it is not.
        let is_named = |path: &&PathBuf| NAMES.iter().any(|name| path.ends_with(name));
        let damaged = tree.files.iter().find(is_named);
        return match damaged.map(|path| yolo_splits(path)) {
            Some(Err(error)) => Err(unreadable(error)),
            _ => Ok(None),
        };
    };
    let root = names.parent().unwrap_or(folder);
    let splits = yolo_splits(names).map_err(unreadable)?;
    let has = |name: &&str| splits.iter().any(|it| it == name);
    let (train, val) = if has(&"train") {
        let of_name = |name: &str| FoundSplit {
            annotations: if yaml.is_empty() { root } else { names }.to_path_buf(),
            images: root.to_owned(),
            split: Some(name.to_owned()),
        };
        let val = ["val", "valid", "test"].into_iter().find(has);
        (of_name("train"), val.map(of_name))
    } else {
        yolo_folders(root)
    };
    Ok(Some(Found {
        format: DatasetFormat::Yolo,
        unread_lists: None,
        train,
        val,
    }))
}

/// The halves of YOLO's files that no `data.yaml` lists.
fn yolo_folders(root: &Path) -> (FoundSplit, Option<FoundSplit>) {
    // The names may be among the labels, and labels and pictures in folders beside each other.
    let is_labels = root.file_name().is_some_and(|it| it == "labels");
    let both = root.parent().filter(|_| is_labels).unwrap_or(root);
    let of = |part: &str| {
        let [labels, images] = ["labels", "images"].map(|name| both.join(name).join(part));
        (labels.is_dir() && images.is_dir()).then_some(FoundSplit {
            annotations: labels,
            images,
            split: None,
        })
    };
    if let Some(train) = of("train") {
        return (train, of("val").or_else(|| of("valid")));
    }
    let together = || FoundSplit {
        annotations: root.to_owned(),
        images: root.to_owned(),
        split: None,
    };
    (of("").unwrap_or_else(together), None)
}

fn found_voc(folder: &Path, tree: &Tree) -> Result<Option<Found>, DiscoverError> {
    let root_of = |xml: &PathBuf| {
        let folder = xml.parent()?;
        let name = folder.file_name().map(std::ffi::OsStr::to_ascii_lowercase);
        let is_annotations = name.is_some_and(|it| it == "annotations" || it == "labels");
        Some(
            if is_annotations {
                folder.parent()?
            } else {
                folder
            }
            .to_owned(),
        )
    };
    let roots: BTreeSet<PathBuf> = tree.voc.iter().filter_map(root_of).collect();
    let roots: Vec<PathBuf> = roots.into_iter().collect();
    let Some(halves) = choose(folder, &roots)? else {
        return Ok(None);
    };
    let split = |root: PathBuf| {
        let xml = tree
            .voc
            .iter()
            .find(|xml| root_of(xml).as_ref() == Some(&root));
        let beside = xml.and_then(|xml| xml.parent()).unwrap_or(&root);
        // Where the files are called otherwise than VOC's, they are read where they are.
        let is_vocs = beside.file_name().is_some_and(|it| it == "Annotations");
        FoundSplit {
            annotations: if is_vocs {
                root.clone()
            } else {
                beside.to_owned()
            },
            images: tree.pictures_near(&root),
            split: None,
        }
    };
    let lists = halves.train.join("ImageSets");
    let mut found = Found {
        format: DatasetFormat::Voc,
        train: split(halves.train),
        val: halves.val.map(split),
        unread_lists: None,
    };
    if found.val.is_none() && lists.is_dir() {
        let listed = voc_splits(&found.train.annotations);
        let has = |name: &&str| listed.iter().any(|it| it == name);
        let of_name = |name: &str| FoundSplit {
            split: Some(name.to_owned()),
            ..found.train.clone()
        };
        // `trainval` is what VOC's test set goes with.
        match ["train", "trainval"].into_iter().find(has) {
            Some(train) => {
                let with_val = has(&"val") && train == "train";
                let val = with_val.then_some("val").or(Some("test").filter(has));
                (found.val, found.train) = (val.map(of_name), of_name(train));
            }
            None => found.unread_lists = Some(lists),
        }
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests;
