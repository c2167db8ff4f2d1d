//! Label Studio's JSON: a list of tasks, each with a picture and what people (`annotations`) or models (`predictions`) said
//! of it ([its description](https://labelstud.io/guide/task_format)). Shapes are in percent of the picture's sides.

use std::path::Path;

use hotcoco::{Annotation, Dataset, Image};
use retinanet_data::in_full;
use retinanet_images::read_header;
use serde_json::{Value, json};

use super::shapes::{Classes, ReadDataset, by_image, enclosing, named_box, sorted_classes, turned};

/// The names of the two controls in Label Studio's own template for boxes:
/// `<RectangleLabels name="label" toName="image">` and `<Image name="image" …>`.
const CONTROLS: [&str; 2] = ["label", "image"];

/// No picture is longer, in pixels.
const LONGEST: f64 = 65_535.0;

/// Reads the tasks of an export. Of several annotations of a task the first that was not cancelled counts. Polygons,
/// ellipses and rotated rectangles become the boxes around them; brushes, key points and the like are left out, and
/// counted. Classes are numbered by their sorted names. `images` is the folder of the pictures.
///
/// # Errors
///
/// Returns what is wrong, in words, with the task.
pub(super) fn read(file: &Value, images: &Path) -> Result<ReadDataset, String> {
    let tasks = file.as_array().ok_or(
        "it is no list of tasks; Label Studio exports one as JSON, not as JSON-MIN and not as COCO",
    )?;
    let has = |list: &str| {
        let mut lists = tasks.iter().map(|task| task[list].as_array());
        lists.any(|list| list.is_some_and(|list| !list.is_empty()))
    };
    if has("predictions") && !has("annotations") {
        return Err("it holds a model's predictions, and nobody's annotations".into());
    }
    let of_task = |task| results(task).filter_map(move |it| shape_of(it, task));
    let shapes = tasks.iter().flat_map(of_task);
    let mut classes = sorted_classes(shapes.map(|it| it.class));
    let mut read = ReadDataset::default();
    for (task, number) in tasks.iter().zip(1..) {
        read_task(task, number, images, &mut classes, &mut read)
            .map_err(|reason| format!("task {number}: {reason}"))?;
    }
    read.dataset.categories = classes.categories();
    Ok(read)
}

/// What counts of a task: the shapes of the first annotation that was not cancelled.
fn results(task: &Value) -> impl Iterator<Item = &Value> {
    let annotations = task["annotations"].as_array().into_iter().flatten();
    let counted = annotations.filter(|it| it["was_cancelled"].as_bool() != Some(true));
    let first = counted.take(1);
    first.flat_map(|it| it["result"].as_array().into_iter().flatten())
}

/// A shape, and its class.
struct Shape<'a> {
    kind: &'static str,
    class: &'a str,
}

/// The shape of a result with its class, which may stand in another result of the same id, as `<Rectangle>` beside `<Labels>`
/// writes them.
fn shape_of<'a>(result: &'a Value, task: &'a Value) -> Option<Shape<'a>> {
    let kinds = ["rectangle", "polygon", "ellipse"];
    let told = result["type"].as_str()?;
    let plain = told.strip_suffix("labels").unwrap_or(told);
    let kind = kinds.into_iter().find(|kind| *kind == plain)?;
    let own = result["value"][told][0].as_str();
    let class = own.or_else(|| class_beside(result, task))?;
    Some(Shape { kind, class })
}

fn class_beside<'a>(result: &Value, task: &'a Value) -> Option<&'a str> {
    let id = result["id"].as_str()?;
    let mut same = results(task).filter(|it| it["id"] == id);
    same.find_map(|it| it["value"]["labels"][0].as_str())
}

/// Whether a result only says the class of another's shape.
fn is_class_of_shape(result: &Value, task: &Value) -> bool {
    let of_shape = |it: &Value| it["id"] == result["id"] && shape_of(it, task).is_some();
    result["type"] == "labels" && results(task).any(of_shape)
}

fn read_task(
    task: &Value,
    id: u64,
    images: &Path,
    classes: &mut Classes,
    read: &mut ReadDataset,
) -> Result<(), String> {
    let address = task["data"].as_object().and_then(|data| {
        let image = data.get("image").or_else(|| data.get("img"));
        image.or_else(|| data.values().find(|it| it.is_string()))
    });
    let address = (address.and_then(Value::as_str)).ok_or("its `data` names no image")?;
    let file_name = file_name(address, images);
    // Ours tell it, so that a picture without shapes can be read back.
    let told = |key: &str| {
        task["data"][key]
            .as_u64()
            .and_then(|it| u32::try_from(it).ok())
    };
    let (mut width, mut height) = (told("width").unwrap_or(0), told("height").unwrap_or(0));
    for result in results(task) {
        let side = |key: &str| {
            let side = result[key].as_f64();
            side.filter(|it| (1.0..=LONGEST).contains(it))
                .unwrap_or(0.0)
        };
        let (of_width, of_height) = (side("original_width"), side("original_height"));
        let Some(Shape { kind, class }) = shape_of(result, task) else {
            read.left_out += usize::from(!is_class_of_shape(result, task));
            continue;
        };
        if of_width == 0.0 || of_height == 0.0 {
            return Err(
                "a shape tells no `original_width` and `original_height` of a picture".into(),
            );
        }
        (width, height) = (of_width as u32, of_height as u32);
        let corners = corners(kind, &result["value"], [of_width, of_height])?;
        let bbox = enclosing(&corners).ok_or("a shape has no number")?;
        let annotations = &mut read.dataset.annotations;
        annotations.push(Annotation {
            id: annotations.len() as u64 + 1,
            image_id: id,
            category_id: classes.id_of(class),
            bbox: Some(bbox),
            area: Some(bbox[2] * bbox[3]),
            ..Annotation::default()
        });
    }
    if width == 0 || height == 0 {
        let header = read_header(&images.join(&file_name)).map_err(|error| {
            format!(
                "it has no shape that tells the picture's size, and {}",
                in_full(&error)
            )
        })?;
        (width, height) = header.upright;
    }
    read.dataset.images.push(Image {
        id,
        file_name,
        width,
        height,
        ..Image::default()
    });
    Ok(())
}

/// The corners of a shape in pixels. A rectangle turns about its upper left corner, an ellipse about its middle.
fn corners(kind: &str, value: &Value, sides: [f64; 2]) -> Result<Vec<[f64; 2]>, String> {
    let number = |key: &str| {
        let number = value[key].as_f64();
        number.ok_or_else(|| format!("a shape's `{key}` is no number"))
    };
    let [width, height] = sides.map(|side| side / 100.0);
    let degrees = value["rotation"].as_f64().unwrap_or(0.0);
    match kind {
        "polygon" => {
            let points = value["points"]
                .as_array()
                .ok_or("a polygon has no `points`")?;
            let pixels = points.iter().map(|point| {
                let (x, y) = (point[0].as_f64()?, point[1].as_f64()?);
                Some([x * width, y * height])
            });
            let pixels: Option<Vec<_>> = pixels.collect();
            pixels.ok_or_else(|| "a point of a polygon is no pair of numbers".into())
        }
        "ellipse" => {
            let (x, y) = (number("x")? * width, number("y")? * height);
            let (rx, ry) = (number("radiusX")? * width, number("radiusY")? * height);
            Ok(turned([x - rx, y - ry, x + rx, y + ry], [x, y], degrees))
        }
        _ => {
            let (x, y) = (number("x")? * width, number("y")? * height);
            let (right, bottom) = (x + number("width")? * width, y + number("height")? * height);
            Ok(turned([x, y, right, bottom], [x, y], degrees))
        }
    }
}

/// The name of a picture's file: what follows `?d=` of a local one, else the last part of the address; without the eight
/// digits that Label Studio puts before what is uploaded, where the folder has no such file.
fn file_name(address: &str, images: &Path) -> String {
    let local = address.split_once("?d=").map(|(_, path)| decoded(path));
    let name = local.unwrap_or_else(|| address.rsplit('/').next().unwrap_or(address).to_owned());
    let name = name.trim_start_matches('/');
    let original = name.split_once('-').filter(|(digits, _)| {
        digits.len() == 8 && digits.chars().all(|digit| digit.is_ascii_hexdigit())
    });
    match original {
        Some((_, original)) if !images.join(name).is_file() => original.to_owned(),
        _ => name.to_owned(),
    }
}

/// A path as a query of an address holds it.
fn encoded(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    let bytes = path.bytes().map(|byte| {
        if plain(byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    });
    bytes.collect::<Vec<_>>().concat()
}

/// The text of a query in an address; a `%` before anything but two digits stands for itself.
pub fn decoded(query: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = query.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| first == b'%');
        let digits = digits.and_then(|it| std::str::from_utf8(it).ok());
        if let Some(byte) = digits.and_then(|it| u8::from_str_radix(it, 16).ok()) {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes a data set as tasks; tells how many annotations were taken over. Those with a score are predictions.
pub(super) fn write(dataset: &Dataset) -> (Value, usize) {
    let mut written = 0;
    let of_images = by_image(dataset);
    let is_truth = dataset.annotations.iter().all(|it| it.score.is_none());
    let tasks = dataset.images.iter().map(|image| {
        let (mut annotations, mut predictions) = (Vec::new(), Vec::new());
        for annotation in of_images.get(&image.id).into_iter().flatten() {
            let Some(result) = result(dataset, image, annotation) else {
                continue;
            };
            written += 1;
            if annotation.score.is_some() {
                predictions.push(result);
            } else {
                annotations.push(result);
            }
        }
        let address = format!("/data/local-files/?d={}", encoded(&image.file_name));
        let data = json!({ "image": address, "width": image.width, "height": image.height });
        let mut task = json!({ "data": data });
        if !predictions.is_empty() {
            task["predictions"] = json!([{ "model_version": "retinanet", "result": predictions }]);
        } else if is_truth {
            task["annotations"] = json!([{ "result": annotations }]);
        }
        task
    });
    let tasks: Vec<Value> = tasks.collect();
    (Value::Array(tasks), written)
}

fn result(dataset: &Dataset, image: &Image, annotation: &Annotation) -> Option<Value> {
    let (class, [x, y, width, height]) = named_box(dataset, annotation)?;
    let percent = |length: f64, side: u32| 100.0 * length / f64::from(side);
    let [control, picture] = CONTROLS;
    let mut result = json!({
        "id": format!("retinanet{}", annotation.id),
        "type": "rectanglelabels",
        "from_name": control,
        "to_name": picture,
        "original_width": image.width,
        "original_height": image.height,
        "image_rotation": 0,
        "value": {
            "x": percent(x, image.width),
            "y": percent(y, image.height),
            "width": percent(width, image.width),
            "height": percent(height, image.height),
            "rotation": 0,
            "rectanglelabels": [class],
        },
    });
    if let Some(score) = annotation.score {
        result["score"] = json!(score);
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export() -> Value {
        let shape = |kind: &str, value: Value| {
            json!({
                "id": "x", "type": kind, "from_name": "label", "to_name": "image",
                "original_width": 200, "original_height": 100, "image_rotation": 0, "value": value,
            })
        };
        json!([
            {
                "id": 7,
                "data": { "image": "/data/upload/1/0a1b2c3d-street.jpg" },
                "annotations": [
                    { "was_cancelled": true, "result": [shape("rectanglelabels", json!({}))] },
                    { "was_cancelled": false, "result": [
                        shape("rectanglelabels", json!({
                            "x": 10.0, "y": 20.0, "width": 30.0, "height": 40.0, "rotation": 0, "rectanglelabels": ["van"],
                        })),
                        shape("rectanglelabels", json!({
                            "x": 50.0, "y": 50.0, "width": 10.0, "height": 30.0, "rotation": 90, "rectanglelabels": ["car"],
                        })),
                        shape("polygonlabels", json!({
                            "points": [[0.0, 0.0], [10.0, 5.0], [5.0, 50.0]], "polygonlabels": ["car"],
                        })),
                        shape("keypointlabels", json!({ "x": 1.0, "y": 1.0, "keypointlabels": ["car"] })),
                    ] },
                ],
            },
        ])
    }

    #[test]
    fn an_export_is_read() {
        let ReadDataset { dataset, left_out } = read(&export(), Path::new("nowhere")).unwrap();
        assert_eq!(left_out, 1);
        let names: Vec<_> = dataset
            .categories
            .iter()
            .map(|it| (it.id, &*it.name))
            .collect();
        assert_eq!(names, [(1, "car"), (2, "van")]);
        let [image] = &dataset.images[..] else {
            panic!("{:?}", dataset.images)
        };
        assert_eq!(
            (&*image.file_name, image.width, image.height),
            ("street.jpg", 200, 100)
        );
        let boxes: Vec<_> = (dataset.annotations.iter())
            .map(|it| (it.category_id, it.bbox.unwrap().map(f64::round)))
            .collect();
        // The second, 20 × 30 at (100, 50), turns by a quarter about that corner: it lies to the left then.
        let expected = [
            (2, [20.0, 20.0, 60.0, 40.0]),
            (1, [70.0, 50.0, 30.0, 20.0]),
            (1, [0.0, 0.0, 20.0, 50.0]),
        ];
        assert_eq!(boxes, expected);
    }

    #[test]
    fn what_is_written_is_read_back_and_scores_make_predictions() {
        let mut dataset = read(&export(), Path::new("nowhere")).unwrap().dataset;
        let (file, written) = write(&dataset);
        assert_eq!(written, 3);
        let back = read(&file, Path::new("nowhere")).unwrap().dataset;
        for (back, before) in back.annotations.iter().zip(&dataset.annotations) {
            assert_eq!(back.category_id, before.category_id);
            let pairs = back.bbox.unwrap().into_iter().zip(before.bbox.unwrap());
            assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-9));
        }
        for annotation in &mut dataset.annotations {
            annotation.score = Some(0.5);
        }
        let (file, _) = write(&dataset);
        assert_eq!(file[0]["predictions"][0]["result"][0]["score"], json!(0.5));
        assert!(file[0]["annotations"].is_null());
    }

    #[test]
    fn a_class_may_stand_beside_its_shape_and_a_path_is_encoded() {
        let part = |kind: &str, value: Value| json!({ "id": "r", "type": kind, "original_width": 200, "original_height": 100, "value": value });
        let task = json!([{
            "data": { "image": "/data/local-files/?d=a%20b/c%23.jpg" },
            "annotations": [{ "result": [
                part("rectangle", json!({ "x": 0.0, "y": 0.0, "width": 50.0, "height": 50.0 })),
                part("labels", json!({ "labels": ["car"] })),
                { "id": "t", "type": "rectangle", "value": {} },
            ] }],
        }]);
        let ReadDataset {
            mut dataset,
            left_out,
        } = read(&task, Path::new("nowhere")).unwrap();
        assert_eq!((dataset.annotations.len(), left_out), (1, 1));
        assert_eq!(dataset.images[0].file_name, "a b/c#.jpg");
        dataset.annotations.clear();
        let (file, _) = write(&dataset);
        assert_eq!(
            file[0]["data"]["image"],
            "/data/local-files/?d=a%20b/c%23.jpg"
        );
        let back = read(&file, Path::new("nowhere")).unwrap().dataset;
        assert_eq!((back.images[0].width, back.images[0].height), (200, 100));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let told = |change: fn(&mut Value)| {
            let mut file = export();
            change(&mut file);
            read(&file, Path::new("nowhere")).err().unwrap_or_default()
        };
        assert!(told(|file| *file = json!({})).contains("no list of tasks"));
        assert!(
            told(|file| file[0]["data"] = json!({})).contains("task 1: its `data` names no image")
        );
        assert!(
            told(|file| file[0]["annotations"][1]["result"][0]["original_width"] = Value::Null)
                .contains("`original_width`")
        );
        assert!(
            told(|file| file[0]["annotations"][1]["result"][0]["value"]["x"] = json!("left"))
                .contains("`x` is no number")
        );
        assert!(
            told(|file| file[0]["annotations"][1]["result"][0]["original_width"] = json!(1e12))
                .contains("of a picture")
        );
        assert!(told(|file| file[0]["annotations"] = json!([])).contains("picture's size"));
        let predicted = told(|file| {
            file[0]["predictions"] = file[0]["annotations"].take();
        });
        assert!(predicted.contains("a model's predictions"), "{predicted}");
    }
}
