//! YOLO's text files, in the layouts that Ultralytics, Roboflow and darknet write: a label file for each
//! picture with a line a box, `class cx cy width height` as shares of the picture's sides.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::path::{Component, Path, PathBuf};

use hotcoco::{Annotation, Category, Dataset, Image};
use retinanet_data::in_full;
use retinanet_images::read_header;
use serde_json::Value;

use super::ConvertError;
use super::pictures;

mod classes;

use self::classes::Classes;
pub(super) use self::classes::splits;

/// How far over the picture's border rounding may carry a share.
const SLACK: f64 = 0.01;

/// Reads a data set: `source` is its folder, its `data.yaml`, or a folder of label files; `images` the
/// folder that names start from, found beside the label files if not given; `split` one of the splits
/// that the `data.yaml` or darknet's `NAME.txt` lists, all pictures if not given.
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
    let classes = Classes::find(source)?;
    let folder = if source.is_file() {
        source.parent().unwrap_or(Path::new("."))
    } else {
        source
    };
    let root = images.map_or_else(|| pictures_of(folder), Path::to_owned);
    let places = match split {
        Some(split) => classes.split(split, source)?,
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
        categories: classes.categories(),
        ..Dataset::default()
    };
    let mut used = HashSet::new();
    for (path, id) in paths.iter().zip(1..) {
        let label = labels.of(path);
        dataset.images.push(image(id, path, &root)?);
        if let Some(label) = label {
            add_boxes(&mut dataset, &label, classes.has_keypoints())?;
            used.insert(label);
        }
    }
    if dataset.images.is_empty() {
        return Err(failed(
            &root,
            "there are no pictures below it; see `--images`",
        ));
    }
    if places.iter().any(|place| place.is_file()) {
        // What is beside a listed picture may be of another split.
        let folders: HashSet<_> = paths.iter().filter_map(|path| path.parent()).collect();
        for folder in folders {
            let beside = pictures::below(folder)?;
            used.extend(beside.iter().filter_map(|path| labels.of(path)));
        }
    }
    refuse_orphans(&used)?;
    Ok(dataset)
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
