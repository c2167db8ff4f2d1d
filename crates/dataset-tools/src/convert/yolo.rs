//! YOLO's text files, in the layouts that Ultralytics, Roboflow and darknet write: a label file for each
//! picture with a line a box, `class cx cy width height` as shares of the picture's sides.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::path::{Component, Path, PathBuf};

use hotcoco::{Annotation, Category, Dataset, Image};
use retinanet_data::in_full;
use retinanet_images::read_header;
use serde_json::Value;

use super::ConvertError;
use super::pictures;
use super::yaml::Yaml;

/// How far over the picture's border rounding may carry a share.
const SLACK: f64 = 0.01;

/// Reads a data set: `source` is its folder, its `data.yaml`, or a folder of label files; `images` the
/// folder that names start from, found beside the label files if not given; `split` one of the splits
/// that the `data.yaml` lists, all pictures if not given.
///
/// Pictures without a label file are background. Polygons become the boxes around them.
///
/// # Errors
///
/// Returns an error if there are no names of classes or no pictures, or if a label file is malformed (with
/// its line) or has no picture.
pub(super) fn read(
    source: &Path,
    images: Option<&Path>,
    split: Option<&str>,
) -> Result<Dataset, ConvertError> {
    let names = Names::find(source)?;
    let folder = if source.is_file() {
        source.parent().unwrap_or(Path::new("."))
    } else {
        source
    };
    let root = images.map_or_else(|| pictures_of(folder), Path::to_owned);
    let places = match split {
        Some(split) => names.split(split, source)?,
        None => vec![root.clone()],
    };
    let mut paths = Vec::new();
    for place in &places {
        paths.extend(pictures::below(place)?);
    }
    paths.sort();
    let labels = Labels {
        folder: (root != folder && !source.is_file()).then_some((folder, root.as_path())),
    };
    let mut dataset = Dataset {
        categories: names.categories(),
        ..Dataset::default()
    };
    let mut used = HashSet::new();
    for (path, id) in paths.iter().zip(1..) {
        let label = labels.of(path);
        dataset.images.push(image(id, path, &root)?);
        if let Some(label) = label {
            add_boxes(&mut dataset, &label, names.has_keypoints())?;
            used.insert(label);
        }
    }
    if dataset.images.is_empty() {
        return Err(failed(
            &root,
            "there are no pictures below it; see `--images`",
        ));
    }
    refuse_orphans(&used)?;
    Ok(dataset)
}

/// The splits that the `data.yaml` of a source lists, none if there is no such file.
///
/// # Errors
///
/// Returns an error if there are no names of classes.
pub(super) fn splits(source: &Path) -> Result<Vec<String>, ConvertError> {
    let is_list = source.is_file()
        && source
            .extension()
            .is_none_or(|it| it != "yaml" && it != "yml");
    let folder = source.parent().filter(|_| is_list);
    let names = Names::find(folder.unwrap_or(source))?;
    let Some((Yaml::Table(entries), _)) = &names.yaml else {
        return Ok(Vec::new());
    };
    // `val:` with nothing behind it lists nothing.
    let is_listed = |value: &Yaml| value.as_text().is_none_or(|text| !text.trim().is_empty());
    let splits = entries.iter().filter(|(key, value)| {
        ["train", "val", "valid", "test"].contains(&key.as_str()) && is_listed(value)
    });
    splits
        .map(|(name, _)| match name.as_str() {
            // What is not trained on may be elsewhere.
            "test" => Ok(names.split(name, source).is_ok().then(|| name.clone())),
            _ => names.split(name, source).map(|_| Some(name.clone())),
        })
        .filter_map(Result::transpose)
        .collect()
}

/// Gives the label files of a data set, each with its path below the folder of labels, the `data.yaml`, and
/// how many annotations are in them. Boxes are clipped to their picture; crowds and non-finite
/// boxes have no place there.
///
/// # Errors
///
/// Returns what is wrong if an image has no size, or two would have one label file.
pub(super) fn write(dataset: &Dataset) -> Result<(Vec<(PathBuf, String)>, usize), String> {
    let mut categories: Vec<&Category> = dataset.categories.iter().collect();
    categories.sort_by_key(|category| category.id);
    let places: HashMap<u64, usize> = (categories.iter().map(|it| it.id)).zip(0..).collect();
    let mut boxes: HashMap<u64, Vec<&Annotation>> = HashMap::new();
    for annotation in &dataset.annotations {
        boxes
            .entry(annotation.image_id)
            .or_default()
            .push(annotation);
    }
    let (mut files, mut written) = (Vec::new(), 0);
    let mut names = HashSet::new();
    for image in &dataset.images {
        if image.width == 0 || image.height == 0 {
            return Err(format!("image {} has no size", image.id));
        }
        let path = label_path(&image.file_name);
        if path.as_os_str().is_empty() || !names.insert(path.clone()) {
            return Err(format!(
                "image {} (`{}`) would share its label file with another",
                image.id, image.file_name
            ));
        }
        let mut text = String::new();
        for annotation in boxes.get(&image.id).into_iter().flatten() {
            let class = places.get(&annotation.category_id).ok_or_else(|| {
                format!(
                    "annotation {} is of a category that is not listed",
                    annotation.id
                )
            })?;
            if let Some(shares) = shares(annotation, image) {
                let [x, y, width, height] = shares;
                // A text in memory takes all that is written.
                let _ = writeln!(text, "{class} {x:.6} {y:.6} {width:.6} {height:.6}");
                written += 1;
            }
        }
        files.push((path, text));
    }
    // JSON's quotes are YAML's too.
    let names = categories.iter().map(|it| Value::from(it.name.as_str()));
    let names = Value::from(names.collect::<Vec<_>>());
    let yaml = format!("nc: {}\nnames: {names}\n", categories.len());
    files.push(("data.yaml".into(), yaml));
    Ok((files, written))
}

/// Centre, width and height of what lies in the picture, as shares of its sides.
fn shares(annotation: &Annotation, image: &Image) -> Option<[f64; 4]> {
    let [x, y, width, height] = annotation.bbox.filter(|_| !annotation.iscrowd)?;
    let (right, bottom) = (f64::from(image.width), f64::from(image.height));
    let (x1, y1) = (x.clamp(0.0, right), y.clamp(0.0, bottom));
    let (x2, y2) = (
        (x + width).clamp(0.0, right),
        (y + height).clamp(0.0, bottom),
    );
    let shares = [
        x1.midpoint(x2) / right,
        y1.midpoint(y2) / bottom,
        (x2 - x1) / right,
        (y2 - y1) / bottom,
    ];
    // So written that NaN fails too.
    (shares[2] > 0.0 && shares[3] > 0.0).then_some(shares)
}

/// The label file of a picture's name, with its folders; nothing of what leads elsewhere.
fn label_path(file_name: &str) -> PathBuf {
    let slashes = file_name.replace('\\', "/");
    let parts = Path::new(&slashes).components();
    let kept: PathBuf = parts
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    if kept.as_os_str().is_empty() {
        kept
    } else {
        kept.with_extension("txt")
    }
}

/// The names of the classes, and the splits.
struct Names {
    names: BTreeMap<usize, String>,
    /// The `data.yaml` and its folder, if there is one.
    yaml: Option<(Yaml, PathBuf)>,
}

impl Names {
    /// Looks for a `data.yaml`, else for a list of names, in the source and up to two folders above.
    fn find(source: &Path) -> Result<Self, ConvertError> {
        const YAML: [&str; 3] = ["data.yaml", "data.yml", "dataset.yaml"];
        const LISTS: [&str; 3] = ["classes.txt", "obj.names", "_darknet.labels"];
        if source.is_file() {
            return Self::of_yaml(source);
        }
        let folders: Vec<_> = source.ancestors().take(3).collect();
        let find = |names: &[&str]| {
            let paths = folders
                .iter()
                .flat_map(|folder| names.iter().map(|name| folder.join(name)));
            paths.into_iter().find(|path| path.is_file())
        };
        if let Some(path) = find(&YAML) {
            return Self::of_yaml(&path);
        }
        let Some(path) = find(&LISTS) else {
            return Err(failed(
                source,
                "there is no `data.yaml` and no `classes.txt` that names the classes",
            ));
        };
        let text = read_text(&path)?;
        let names = text.lines().map(|name| name.trim().to_owned());
        Ok(Self {
            names: (0..).zip(names.filter(|name| !name.is_empty())).collect(),
            yaml: None,
        })
    }

    fn of_yaml(path: &Path) -> Result<Self, ConvertError> {
        let text = read_text(path)?;
        let yaml = Yaml::parse(&text).map_err(|error| failed(path, &error))?;
        let names = (yaml.get("names").and_then(names_of))
            .ok_or_else(|| failed(path, "its `names` are neither a list nor a table of names"))?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self {
            names,
            yaml: Some((yaml, folder)),
        })
    }

    /// Whether labels are boxes with keypoints.
    fn has_keypoints(&self) -> bool {
        let yaml = self.yaml.as_ref();
        yaml.is_some_and(|(yaml, _)| yaml.get("kpt_shape").is_some())
    }

    fn categories(&self) -> Vec<Category> {
        let category = |(index, name): (&usize, &String)| Category {
            id: *index as u64 + 1,
            name: name.clone(),
            ..Category::default()
        };
        self.names.iter().map(category).collect()
    }

    /// The folders, or lists of pictures, of a split.
    fn split(&self, split: &str, source: &Path) -> Result<Vec<PathBuf>, ConvertError> {
        let none = || failed(source, &format!("no `data.yaml` lists a split `{split}`"));
        let (yaml, folder) = self.yaml.as_ref().ok_or_else(none)?;
        let base = match yaml.get("path").and_then(Yaml::as_text) {
            Some(path) if folder.join(path).is_dir() => folder.join(path),
            _ => folder.clone(),
        };
        let entries = match yaml.get(split) {
            Some(Yaml::Text(one)) => vec![one.as_str()],
            Some(Yaml::List(many)) => many.iter().filter_map(Yaml::as_text).collect(),
            Some(Yaml::Table(_)) | None => return Err(none()),
        };
        let place = |entry: &str| {
            // Roboflow writes `../train/images` for what is beside the file.
            let beside = entry.trim_start_matches("../");
            [base.join(entry), base.join(beside), folder.join(beside)]
                .into_iter()
                .find(|path| path.exists())
                .ok_or_else(|| {
                    failed(
                        source,
                        &format!("`{entry}` of the split `{split}` is not there"),
                    )
                })
        };
        entries.into_iter().map(place).collect()
    }
}

fn names_of(names: &Yaml) -> Option<BTreeMap<usize, String>> {
    let name = |value: &Yaml| Some(value.as_text()?.trim().to_owned());
    match names {
        Yaml::List(names) => (0..)
            .zip(names)
            .map(|(index, it)| Some((index, name(it)?)))
            .collect(),
        Yaml::Table(names) => (names.iter())
            .map(|(index, it)| Some((index.parse().ok()?, name(it)?)))
            .collect(),
        Yaml::Text(_) => None,
    }
}

/// The folder of the pictures of a folder of labels: that beside it which is called `images` where it is
/// called `labels`, else itself.
fn pictures_of(folder: &Path) -> PathBuf {
    let pictures = replace_last(folder, "labels", "images");
    pictures
        .filter(|it| it.is_dir())
        .unwrap_or_else(|| folder.to_owned())
}

/// The path with the last of its folders of this name called otherwise.
fn replace_last(path: &Path, from: &str, to: &str) -> Option<PathBuf> {
    let parts: Vec<_> = path.components().collect();
    let last = parts.iter().rposition(|part| part.as_os_str() == from)?;
    let renamed = parts.iter().enumerate().map(|(index, part)| {
        if index == last {
            to.as_ref()
        } else {
            part.as_os_str()
        }
    });
    Some(renamed.collect())
}

/// Where the label files lie.
struct Labels<'a> {
    /// The folder of the labels, and that of the pictures that it mirrors, if they are two.
    folder: Option<(&'a Path, &'a Path)>,
}

impl Labels<'_> {
    /// The label file of a picture, if it has one.
    fn of(&self, picture: &Path) -> Option<PathBuf> {
        let mirrored = self
            .folder
            .and_then(|(labels, pictures)| Some(labels.join(picture.strip_prefix(pictures).ok()?)));
        // As Ultralytics finds them (`img2label_paths`).
        let renamed = replace_last(picture, "images", "labels");
        let candidates = [mirrored, renamed, Some(picture.to_owned())];
        let labels = candidates
            .into_iter()
            .flatten()
            .map(|path| path.with_extension("txt"));
        labels.into_iter().find(|path| path.is_file())
    }
}

fn image(id: u64, path: &Path, root: &Path) -> Result<Image, ConvertError> {
    let (width, height) = read_header(path)
        .map_err(|error| failed(path, &in_full(&error)))?
        .upright;
    let name = path.strip_prefix(root).unwrap_or(path).to_str();
    let name = name.ok_or_else(|| failed(path, "its name is not UTF-8, which JSON has to be"))?;
    Ok(Image {
        id,
        file_name: name.into(),
        width,
        height,
        ..Image::default()
    })
}

/// Adds the boxes of the last image.
fn add_boxes(dataset: &mut Dataset, label: &Path, has_keypoints: bool) -> Result<(), ConvertError> {
    let Some(image) = dataset.images.last() else {
        return Ok(());
    };
    let text = read_text(label)?;
    for (number, line) in (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let refuse = |reason: &str| failed(label, &format!("line {number}: {reason}"));
        let (class, [x, y, width, height]) =
            parse_line(line, has_keypoints).map_err(|reason| refuse(&reason))?;
        let category = (dataset.categories.iter())
            .find(|category| category.id == class + 1)
            .ok_or_else(|| refuse(&format!("class {class} has no name")))?;
        let (across, down) = (f64::from(image.width), f64::from(image.height));
        let bbox = [x * across, y * down, width * across, height * down];
        dataset.annotations.push(Annotation {
            id: dataset.annotations.len() as u64 + 1,
            image_id: image.id,
            category_id: category.id,
            bbox: Some(bbox),
            area: Some(bbox[2] * bbox[3]),
            ..Annotation::default()
        });
    }
    Ok(())
}

/// The class of a line, and its box as left, top, width and height in shares. With keypoints (Ultralytics' `kpt_shape`) the
/// box comes first, and they do not count.
fn parse_line(line: &str, has_keypoints: bool) -> Result<(u64, [f64; 4]), String> {
    let numbers: Option<Vec<f64>> = line.split_whitespace().map(|it| it.parse().ok()).collect();
    let numbers = numbers.ok_or("it holds something other than numbers")?;
    let (&class, shares) = numbers.split_first().ok_or("it is empty")?;
    let shares = if has_keypoints {
        &shares[..shares.len().min(4)]
    } else {
        shares
    };
    if class.fract() != 0.0 || !(0.0..1e9).contains(&class) {
        return Err(format!("class {class} is not a whole number from 0"));
    }
    if !shares
        .iter()
        .all(|share| (-SLACK..=1.0 + SLACK).contains(share))
    {
        return Err("its numbers are not from 0 to 1; are they pixels?".into());
    }
    let bbox = match *shares {
        [x, y, width, height] => [x - width / 2.0, y - height / 2.0, width, height],
        // A polygon `x y x y …`: the box around it, as Ultralytics' `segments2boxes`.
        ref polygon if polygon.len() >= 6 && polygon.len() % 2 == 0 => {
            let bound = |start: usize| {
                let edge = polygon.iter().skip(start).step_by(2).copied();
                (
                    edge.clone().fold(f64::INFINITY, f64::min),
                    edge.fold(f64::NEG_INFINITY, f64::max),
                )
            };
            let ((x1, x2), (y1, y2)) = (bound(0), bound(1));
            [x1, y1, x2 - x1, y2 - y1]
        }
        _ => {
            return Err(format!(
                "it has {} numbers, where 5 make a box and 7, 9, 11 … a polygon",
                numbers.len()
            ));
        }
    };
    Ok((class as u64, bbox))
}

/// Refuses label files without a picture beside those that have one: their boxes would be lost.
fn refuse_orphans(used: &HashSet<PathBuf>) -> Result<(), ConvertError> {
    let folders: HashSet<_> = used.iter().filter_map(|label| label.parent()).collect();
    for folder in folders {
        for entry in fs_err::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_label = path.extension().is_some_and(|it| it == "txt")
                && retinanet_files::read_text(&path).is_ok_and(|text| {
                    let mut lines = text
                        .lines()
                        .filter(|line| !line.trim().is_empty())
                        .peekable();
                    lines.peek().is_some() && lines.all(|line| parse_line(line, false).is_ok())
                });
            if is_label && !used.contains(&path) {
                return Err(failed(&path, "there is no picture for it"));
            }
        }
    }
    Ok(())
}

fn read_text(path: &Path) -> Result<String, ConvertError> {
    retinanet_files::read_text(path).map_err(|source| ConvertError::Read {
        path: path.into(),
        source,
    })
}

fn failed(path: &Path, reason: &str) -> ConvertError {
    ConvertError::Failed {
        path: path.into(),
        reason: reason.into(),
    }
}
