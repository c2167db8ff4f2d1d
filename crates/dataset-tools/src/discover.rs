//! What a folder holds: annotations of a known format, their halves for training and validation, and the images.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use retinanet_annotations::{CocoFile, Masks};
use retinanet_data::locate;

use crate::convert::{DatasetFormat, yolo_splits};

/// Annotations that were found, and where their images are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Their format.
    pub format: DatasetFormat,
    /// What is trained on; everything if there is no validation half.
    pub train: FoundSplit,
    /// What is evaluated on, if it is told apart.
    pub val: Option<FoundSplit>,
}

/// A half of what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSplit {
    /// The file or folder of its annotations.
    pub annotations: PathBuf,
    /// The folder that the names of its images start from.
    pub images: PathBuf,
    /// Its name in a `data.yaml` that lists several.
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

/// Looks for annotations in a folder and two levels below: COCO's first, then YOLO's, Pascal VOC's and CSV's.
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
    if let Some(found) = found_voc(&tree) {
        return Ok(found);
    }
    let csv: Vec<PathBuf> = tree.with_extension("csv").cloned().collect();
    let halves = choose(folder, &csv)?.ok_or_else(|| DiscoverError::Nothing {
        folder: folder.to_owned(),
    })?;
    let split = |path: PathBuf| FoundSplit {
        images: path.parent().unwrap_or(folder).to_owned(),
        annotations: path,
        split: None,
    };
    Ok(Found {
        format: DatasetFormat::Csv,
        train: split(halves.train),
        val: halves.val.map(split),
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
    let near = [beside.join("images"), beside.to_owned()];
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
    const NAMES: [&str; 6] = [
        "data.yaml",
        "data.yml",
        "dataset.yaml",
        "classes.txt",
        "obj.names",
        "_darknet.labels",
    ];
    let named = |name: &str| {
        let mut files = tree.files.iter();
        files.find(|path| path.file_name().is_some_and(|it| it == name))
    };
    let Some(names) = NAMES.iter().find_map(|name| named(name)) else {
        return Ok(None);
    };
    let root = names.parent().unwrap_or(folder);
    let splits =
        yolo_splits(names).map_err(|error| DiscoverError::Unreadable(error.to_string()))?;
    let of_name = |name: &str| FoundSplit {
        annotations: names.to_owned(),
        images: root.to_owned(),
        split: Some(name.to_owned()),
    };
    let has = |name: &str| splits.iter().any(|it| it == name);
    let train = if has("train") {
        of_name("train")
    } else {
        // The names may be among the labels, and labels and pictures in folders beside each other.
        let is_labels = root.file_name().is_some_and(|it| it == "labels");
        let both = root.parent().filter(|_| is_labels).unwrap_or(root);
        let [labels, images] = ["labels", "images"].map(|name| both.join(name));
        let (annotations, images) = if labels.is_dir() && images.is_dir() {
            (labels, images)
        } else {
            (root.to_owned(), root.to_owned())
        };
        FoundSplit {
            annotations,
            images,
            split: None,
        }
    };
    let val = train.split.as_ref().and_then(|_| {
        let name = ["val", "valid", "test"].into_iter().find(|name| has(name));
        name.map(of_name)
    });
    Ok(Some(Found {
        format: DatasetFormat::Yolo,
        train,
        val,
    }))
}

fn found_voc(tree: &Tree) -> Option<Found> {
    let xml = tree.with_extension("xml").next()?;
    let folder = xml.parent()?;
    let is_annotations = folder.file_name().is_some_and(|it| it == "Annotations");
    let root = if is_annotations {
        folder.parent()?
    } else {
        folder
    };
    let images = ["JPEGImages", "images"].map(|name| root.join(name));
    let images = images.into_iter().find(|it| it.is_dir());
    Some(Found {
        format: DatasetFormat::Voc,
        train: FoundSplit {
            annotations: root.to_owned(),
            images: images.unwrap_or_else(|| root.to_owned()),
            split: None,
        },
        val: None,
    })
}

const TRAIN: [&str; 2] = ["train", "training"];
const VAL: [&str; 4] = ["val", "valid", "validation", "dev"];
const TEST: [&str; 2] = ["test", "testing"];

/// Whether one of these words is in a file's path below a folder.
fn has_word(folder: &Path, path: &Path, words: &[&str]) -> bool {
    let relative = path.strip_prefix(folder).unwrap_or(path);
    let text = relative.to_string_lossy().to_lowercase();
    let mut parts = text.split(|it: char| !it.is_alphabetic());
    parts.any(|part| words.contains(&part))
}

/// Whether a file is called as a half is.
fn is_half(folder: &Path, path: &Path) -> bool {
    has_word(folder, path, &TRAIN) || has_word(folder, path, &VAL)
}

/// The files of a data set's halves.
#[derive(Debug, PartialEq, Eq)]
struct Halves {
    train: PathBuf,
    val: Option<PathBuf>,
}

/// Tells the halves by the words in the files' paths; nothing if there are no files.
fn choose(folder: &Path, files: &[PathBuf]) -> Result<Option<Halves>, DiscoverError> {
    let relative = |path: &PathBuf| path.strip_prefix(folder).unwrap_or(path).to_owned();
    // Of several the shortest name: `train.json`, not `train_raw.json`.
    let of = |words: &[&str]| {
        let fitting = files.iter().filter(|path| has_word(folder, path, words));
        fitting.min_by_key(|path| (relative(path).as_os_str().len(), relative(path)))
    };
    if let Some(train) = of(&TRAIN) {
        let val = of(&VAL).or_else(|| of(&TEST)).filter(|val| *val != train);
        return Ok(Some(Halves {
            train: train.clone(),
            val: val.cloned(),
        }));
    }
    match files {
        [] => Ok(None),
        [one] => Ok(Some(Halves {
            train: one.clone(),
            val: None,
        })),
        _ => Err(DiscoverError::Several {
            folder: folder.to_owned(),
            files: files
                .iter()
                .map(|path| relative(path).display().to_string())
                .collect(),
        }),
    }
}

/// The files and folders of a folder, without hidden ones and without pictures.
struct Tree {
    folders: Vec<PathBuf>,
    files: BTreeSet<PathBuf>,
}

impl Tree {
    /// Reads a folder and two levels below it. What cannot be read is left out.
    fn of(root: &Path) -> Self {
        const DEEPEST: usize = 3;
        /// A folder that has more folders is one of images by class, or worse.
        const MOST_FOLDERS: usize = 500;
        const KINDS: [&str; 8] = [
            "json", "yaml", "yml", "txt", "names", "labels", "xml", "csv",
        ];
        let mut tree = Self {
            folders: vec![root.to_owned()],
            files: BTreeSet::new(),
        };
        let mut level = vec![root.to_owned()];
        for _ in 0..DEEPEST {
            let mut next = Vec::new();
            for folder in level {
                let entries = fs_err::read_dir(&folder).into_iter().flatten().flatten();
                for entry in entries {
                    let name = entry.file_name();
                    let path = folder.join(&name);
                    if name.as_encoded_bytes().starts_with(b".") {
                        continue;
                    }
                    let Ok(kind) = entry.file_type() else {
                        continue;
                    };
                    let is_known = path.extension().and_then(|it| it.to_str());
                    if kind.is_dir() {
                        next.push(path);
                    } else if is_known.is_some_and(|it| KINDS.contains(&it.to_lowercase().as_str()))
                    {
                        tree.files.insert(path);
                    }
                }
            }
            next.sort();
            next.truncate(MOST_FOLDERS.saturating_sub(tree.folders.len()));
            tree.folders.extend(next.iter().cloned());
            level = next;
        }
        tree
    }

    fn with_extension(&self, extension: &'static str) -> impl Iterator<Item = &PathBuf> {
        let has = move |path: &&PathBuf| {
            let own = path.extension();
            own.is_some_and(|it| it.eq_ignore_ascii_case(extension))
        };
        self.files.iter().filter(has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, content).unwrap();
        }
        folder
    }

    const COCO: &str = r#"{"images": [{"id": 1, "file_name": "a.png", "width": 9, "height": 9}],
        "annotations": [], "categories": [{"id": 1, "name": "cat"}]}"#;

    #[test]
    fn halves_are_told_by_words_and_of_several_the_shortest_name_is_taken() {
        let choose = |files: &[&str]| {
            let files: Vec<PathBuf> = files.iter().map(|it| Path::new("d").join(it)).collect();
            let halves = choose(Path::new("d"), &files);
            halves.map(|halves| {
                halves.map(|halves| {
                    let name =
                        |path: PathBuf| path.strip_prefix("d").unwrap().display().to_string();
                    (name(halves.train), halves.val.map(name))
                })
            })
        };
        let pair =
            |train: &str, val: Option<&str>| Some((train.to_owned(), val.map(str::to_owned)));
        for (files, told) in [
            (
                &["train.json", "train_raw.json", "val.json", "test.json"][..],
                pair("train.json", Some("val.json")),
            ),
            (
                &[
                    "annotations/instances_train2017.json",
                    "annotations/instances_val2017.json",
                ],
                pair(
                    "annotations/instances_train2017.json",
                    Some("annotations/instances_val2017.json"),
                ),
            ),
            (
                &[
                    "test/_annotations.coco.json",
                    "train/_annotations.coco.json",
                    "valid/_annotations.coco.json",
                ],
                pair(
                    "train/_annotations.coco.json",
                    Some("valid/_annotations.coco.json"),
                ),
            ),
            (
                &["train.json", "test.json"],
                pair("train.json", Some("test.json")),
            ),
            (&["retrained.json"], pair("retrained.json", None)),
            (&["train.json"], pair("train.json", None)),
            (&[], None),
        ] {
            assert_eq!(choose(files).unwrap(), told, "{files:?}");
        }
        let error = choose(&["a.json", "b.json"]).unwrap_err().to_string();
        assert!(
            error.contains("a.json, b.json") && error.contains("--annotations"),
            "{error}"
        );
    }

    #[test]
    fn the_images_of_a_coco_file_are_looked_for() {
        let folder = folder(&[
            ("annotations/train.json", COCO),
            ("other.json", r#"{"version": 1}"#),
            ("pictures/train/a.png", ""),
        ]);
        let root = folder.path();
        let found = discover(root).unwrap();
        assert_eq!(found.format, DatasetFormat::Coco);
        assert_eq!(found.train.annotations, root.join("annotations/train.json"));
        assert_eq!(found.train.images, root.join("pictures/train"));
        assert_eq!(found.val, None);

        fs_err::remove_dir_all(root.join("pictures")).unwrap();
        let error = discover(root).unwrap_err().to_string();
        assert!(
            error.contains("`a.png`") && error.contains("--images"),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_or_empty_half_is_not_passed_over() {
        let cut = folder(&[
            ("train.json", COCO),
            ("val.json", &COCO[..40]),
            ("a.png", ""),
        ]);
        let error = discover(cut.path()).unwrap_err().to_string();
        assert!(error.contains("val.json"), "{error}");
        let empty =
            r#"{"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}"#;
        let empty = folder(&[("train.json", COCO), ("val.json", empty), ("a.png", "")]);
        let found = discover(empty.path()).unwrap();
        assert_eq!(
            found.val.unwrap().annotations,
            empty.path().join("val.json")
        );
        let other = folder(&[
            ("all.json", COCO),
            ("package.json", "{\"a\": "),
            ("a.png", ""),
        ]);
        assert!(discover(other.path()).is_ok());
    }

    #[test]
    fn other_formats_are_known_by_their_files() {
        let yolo = folder(&[
            (
                "data.yaml",
                "names: [cat]\ntrain: images/train\nval: images/val\n",
            ),
            ("images/train/a.png", ""),
            ("images/val/b.png", ""),
        ]);
        let found = discover(yolo.path()).unwrap();
        assert_eq!(found.format, DatasetFormat::Yolo);
        assert_eq!(found.train.split.as_deref(), Some("train"));
        assert_eq!(found.val.unwrap().split.as_deref(), Some("val"));

        let flat = folder(&[("classes.txt", "cat\n"), ("a.png", ""), ("a.txt", "")]);
        let found = discover(flat.path()).unwrap();
        assert_eq!(
            (found.format, found.train.split),
            (DatasetFormat::Yolo, None)
        );

        let voc = folder(&[
            ("Annotations/a.xml", "<annotation/>"),
            ("JPEGImages/a.jpg", ""),
        ]);
        let found = discover(voc.path()).unwrap();
        assert_eq!(found.format, DatasetFormat::Voc);
        assert_eq!(found.train.annotations, voc.path());
        assert_eq!(found.train.images, voc.path().join("JPEGImages"));

        let csv = folder(&[("boxes.csv", "a.png,1,2,3,4,cat\n"), ("a.png", "")]);
        assert_eq!(discover(csv.path()).unwrap().format, DatasetFormat::Csv);

        let error = discover(folder(&[("a.png", "")]).path()).unwrap_err();
        assert!(matches!(error, DiscoverError::Nothing { .. }), "{error}");
    }
}
