//! labelme's JSON: a file for each picture, beside it
//! ([`labelme/_label_file.py`](https://github.com/wkentaro/labelme) writes them).

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use hotcoco::{Annotation, Dataset, Image};
use retinanet_annotations::read_json;
use retinanet_data::in_full;
use retinanet_images::read_header;
use serde_json::{Value, json};

use super::ConvertError;
use super::shapes::{Classes, ReadDataset, by_image, enclosing, named_box, sorted_classes};

/// The version of labelme whose files these are.
const VERSION: &str = "5.5.0";

/// Reads the files below a folder, or one file. Polygons, circles, masks and turned rectangles become the boxes around them;
/// points and lines are left out, and counted. Classes are numbered by their sorted names.
///
/// # Errors
///
/// Returns an error that names the file, if one is not labelme's or is damaged, or if a size is needed whose picture is
/// not there.
pub(super) fn read(source: &Path) -> Result<ReadDataset, ConvertError> {
    let (root, paths) = files(source)?;
    let mut files = Vec::new();
    for path in paths {
        let file: Value = read_json(&path)?;
        if !file["shapes"].is_array() {
            return Err(failed(
                &path,
                "it has no list of `shapes`, as labelme's files have",
            ));
        }
        files.push((path, file));
    }
    let shapes = files.iter().flat_map(|(_, file)| shapes_of(file));
    let named = shapes.filter(|shape| !is_without_box(shape));
    let mut classes = sorted_classes(named.filter_map(|shape| shape["label"].as_str()));
    let mut read = ReadDataset::default();
    let mut names = HashSet::new();
    for ((path, file), id) in files.iter().zip(1..) {
        let image = image(path, file, &root, id).map_err(|reason| failed(path, &reason))?;
        if !names.insert(image.file_name.clone()) {
            let reason = format!("`{}` has another file already", image.file_name);
            return Err(failed(path, &reason));
        }
        read.dataset.images.push(image);
        for (shape, number) in shapes_of(file).zip(1..) {
            add(&mut read, &mut classes, shape, id)
                .map_err(|reason| failed(path, &format!("shape {number}: {reason}")))?;
        }
    }
    read.dataset.categories = classes.categories();
    Ok(read)
}

/// The folder that names start from, and the files in it.
fn files(source: &Path) -> Result<(PathBuf, Vec<PathBuf>), ConvertError> {
    if source.is_file() {
        let folder = source.parent().unwrap_or(Path::new(""));
        return Ok((folder.to_owned(), vec![source.to_owned()]));
    }
    let mut found = Vec::new();
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        let unreadable = |error| ConvertError::Read {
            path: folder.clone(),
            source: error,
        };
        for entry in fs_err::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let path = entry.path();
            // A link to a folder may lead in a circle.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|it| it.eq_ignore_ascii_case("json"))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok((source.to_owned(), found))
}

fn shapes_of(file: &Value) -> impl Iterator<Item = &Value> {
    file["shapes"].as_array().into_iter().flatten()
}

/// labelme's first versions had polygons alone, and told no kind.
fn kind(shape: &Value) -> &str {
    shape["shape_type"].as_str().unwrap_or("polygon")
}

fn is_without_box(shape: &Value) -> bool {
    matches!(kind(shape), "point" | "points" | "line" | "linestrip")
}

fn image(path: &Path, file: &Value, root: &Path, id: u64) -> Result<Image, String> {
    let told = file["imagePath"].as_str().ok_or("it has no `imagePath`")?;
    let told = told.replace('\\', "/");
    let folder = path.parent().unwrap_or(Path::new(""));
    // What was elsewhere when it was labelled is often beside its file by now.
    let last = told.rsplit('/').next().unwrap_or(&told);
    let picture = [folder.join(&told), folder.join(last)];
    let there = picture.iter().find(|path| path.is_file());
    let name = there.unwrap_or(&picture[1]);
    let name = name.strip_prefix(root).unwrap_or(name).to_str();
    let name = name.ok_or("its picture's name is not UTF-8")?.to_owned();
    let side = |key: &str| {
        let side = file[key].as_u64().and_then(|it| u32::try_from(it).ok());
        side.filter(|it| *it > 0)
    };
    let told = side("imageWidth").zip(side("imageHeight"));
    let measured = || {
        let header = read_header(there.unwrap_or(&picture[1]));
        let size = header.map(|header| header.upright);
        size.map_err(|error| format!("it tells no size of its picture, and {}", in_full(&error)))
    };
    let (width, height) = told.map_or_else(measured, Ok)?;
    Ok(Image {
        id,
        file_name: name,
        width,
        height,
        ..Image::default()
    })
}

fn add(
    read: &mut ReadDataset,
    classes: &mut Classes,
    shape: &Value,
    image_id: u64,
) -> Result<(), String> {
    if is_without_box(shape) {
        read.left_out += 1;
        return Ok(());
    }
    let label = shape["label"].as_str().ok_or("it has no `label`")?;
    let points = shape["points"].as_array().ok_or("it has no `points`")?;
    let points = points
        .iter()
        .map(|point| Some([point[0].as_f64()?, point[1].as_f64()?]));
    let points: Option<Vec<[f64; 2]>> = points.collect();
    let points = points.ok_or("a point is no pair of numbers")?;
    let corners = match (kind(shape), &points[..]) {
        ("circle", [[x, y], [on_x, on_y]]) => {
            let radius = (on_x - x).hypot(on_y - y);
            vec![[x - radius, y - radius], [x + radius, y + radius]]
        }
        ("rectangle" | "oriented_rectangle" | "polygon" | "mask", _) if points.len() > 1 => points,
        (other, _) => return Err(format!("`{other}` of {} points is no shape", points.len())),
    };
    let bbox = enclosing(&corners).ok_or("its box is non-finite")?;
    let annotations = &mut read.dataset.annotations;
    annotations.push(Annotation {
        id: annotations.len() as u64 + 1,
        image_id,
        category_id: classes.id_of(label),
        bbox: Some(bbox),
        area: Some(bbox[2] * bbox[3]),
        ..Annotation::default()
    });
    Ok(())
}

/// Gives the files of a data set, each with its path beside its picture, and how many annotations are in them.
///
/// # Errors
///
/// Returns what is wrong if two images would have one file.
pub(super) fn write(dataset: &Dataset) -> Result<(Vec<(PathBuf, String)>, usize), String> {
    let of_images = by_image(dataset);
    let (mut files, mut written) = (Vec::new(), 0);
    let mut names = HashSet::new();
    for image in &dataset.images {
        let path = Path::new(&image.file_name).with_extension("json");
        let is_below = path.is_relative()
            && path
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
        if !is_below || !names.insert(path.clone()) {
            return Err(format!(
                "image {} (`{}`) would have no file of its own",
                image.id, image.file_name
            ));
        }
        let mut shapes = Vec::new();
        for annotation in of_images.get(&image.id).into_iter().flatten() {
            let Some((class, [x, y, width, height])) = named_box(dataset, annotation) else {
                continue;
            };
            written += 1;
            shapes.push(json!({
                "label": class,
                "points": [[x, y], [x + width, y + height]],
                "group_id": null,
                "description": "",
                "shape_type": "rectangle",
                "flags": {},
                "mask": null,
            }));
        }
        let picture = Path::new(&image.file_name).file_name();
        let file = json!({
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": picture.and_then(|it| it.to_str()).unwrap_or(&image.file_name),
            "imageData": null,
            "imageHeight": image.height,
            "imageWidth": image.width,
        });
        files.push((path, file.to_string()));
    }
    Ok((files, written))
}

fn failed(path: &Path, reason: &str) -> ConvertError {
    ConvertError::Failed {
        path: path.into(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(kind: &str, label: &str, points: &Value) -> Value {
        json!({ "label": label, "points": points, "shape_type": kind, "group_id": null, "flags": {} })
    }

    /// A street of 200 × 100, with a rectangle from its lower right corner, a polygon, a circle and a line.
    fn file() -> Value {
        json!({
            "version": "5.2.1",
            "flags": {},
            "shapes": [
                shape("rectangle", "van", &json!([[80.0, 60.0], [20.0, 20.0]])),
                shape("polygon", "car", &json!([[0.0, 0.0], [10.0, 5.0], [5.0, 50.0]])),
                shape("circle", "car", &json!([[100.0, 50.0], [103.0, 54.0]])),
                shape("line", "lane", &json!([[0.0, 0.0], [9.0, 9.0]])),
            ],
            "imagePath": "..\\pictures\\street.jpg",
            "imageData": null,
            "imageHeight": 100,
            "imageWidth": 200,
        })
    }

    fn read_one(file: &Value) -> Result<ReadDataset, String> {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("street.json"), file.to_string()).unwrap();
        read(folder.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_is_read_and_written() {
        let ReadDataset { dataset, left_out } = read_one(&file()).unwrap();
        assert_eq!(left_out, 1);
        let names: Vec<_> = dataset.categories.iter().map(|it| &*it.name).collect();
        assert_eq!(names, ["car", "van"]);
        let image = &dataset.images[0];
        assert_eq!(
            (&*image.file_name, image.width, image.height),
            ("street.jpg", 200, 100)
        );
        let boxes: Vec<_> = (dataset.annotations.iter())
            .map(|it| (it.category_id, it.bbox.unwrap()))
            .collect();
        let expected = [
            (2, [20.0, 20.0, 60.0, 40.0]),
            (1, [0.0, 0.0, 10.0, 50.0]),
            (1, [95.0, 45.0, 10.0, 10.0]),
        ];
        assert_eq!(boxes, expected);

        let (files, written) = write(&dataset).unwrap();
        assert_eq!((files.len(), written), (1, 3));
        assert_eq!(files[0].0, Path::new("street.json"));
        let back = read_one(&serde_json::from_str(&files[0].1).unwrap()).unwrap();
        let again: Vec<_> = (back.dataset.annotations.iter())
            .map(|it| (it.category_id, it.bbox.unwrap()))
            .collect();
        assert_eq!(again, expected);
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_shape() {
        let told = |change: fn(&mut Value)| {
            let mut file = file();
            change(&mut file);
            read_one(&file).err().unwrap_or_default()
        };
        for (told, reason) in [
            (
                told(|file| *file = json!({ "images": [] })),
                "no list of `shapes`",
            ),
            (
                told(|file| file["shapes"][0]["label"] = Value::Null),
                "shape 1: it has no `label`",
            ),
            (
                told(|file| file["shapes"][1]["points"][0] = json!("x")),
                "no pair of numbers",
            ),
            (
                told(|file| file["shapes"][2]["shape_type"] = json!("blob")),
                "`blob` of 2 points",
            ),
            (
                told(|file| file["imageWidth"] = Value::Null),
                "tells no size",
            ),
            (
                told(|file| file["imagePath"] = Value::Null),
                "no `imagePath`",
            ),
        ] {
            assert!(
                told.contains("street.json") && told.contains(reason),
                "{told}"
            );
        }
        let escaping = Dataset {
            images: vec![Image {
                id: 1,
                file_name: "../a.png".into(),
                ..Image::default()
            }],
            ..Dataset::default()
        };
        assert!(write(&escaping).is_err());
    }
}
