//! The JSON of VIA, the VGG Image Annotator, version 2: a project, or its annotations exported
//! ([its description](https://www.robots.ox.ac.uk/~vgg/software/via/)).

use std::path::Path;

use hotcoco::{Annotation, Dataset, Image};
use retinanet_data::in_full;
use retinanet_images::read_header;
use serde_json::{Map, Value, json};

use super::shapes::{Classes, ReadDataset, by_image, enclosing, named_box, sorted_classes, turned};

/// The attributes of a region that name its class, where it has several.
const CLASS: [&str; 6] = ["label", "class", "name", "type", "category", "object"];

/// Reads a file. Polygons, circles and ellipses become the boxes around them; points and lines are left out, and counted.
/// Classes are numbered by their sorted names. `images` is the folder of the pictures, whose sizes VIA does not tell.
///
/// # Errors
///
/// Returns what is wrong, in words, with the picture.
pub(super) fn read(file: &Value, images: &Path) -> Result<ReadDataset, String> {
    if file.get("file").is_some() && file.get("metadata").is_some() {
        return Err("it is of VIA 3; its `Export` writes COCO".into());
    }
    let pictures = file.get("_via_img_metadata").unwrap_or(file);
    let pictures = pictures.as_object().ok_or("it is no table of pictures")?;
    if pictures.values().any(|it| it.get("filename").is_none()) {
        return Err("it is no table of pictures, each with a `filename`".into());
    }
    let attribute = class_attribute(pictures)?;
    let all = pictures.values().flat_map(regions);
    let named = all.filter(|region| !is_without_box(region));
    let mut classes = sorted_classes(named.filter_map(|it| class_of(it, attribute.as_deref())));
    let mut read = ReadDataset::default();
    for (picture, id) in pictures.values().zip(1..) {
        let name = picture["filename"].as_str().unwrap_or_default();
        let told = |reason: String| format!("`{name}`: {reason}");
        let header = read_header(&images.join(name));
        let header = header.map_err(|error| told(in_full(&error)))?;
        read.dataset.images.push(Image {
            id,
            file_name: name.to_owned(),
            width: header.upright.0,
            height: header.upright.1,
            ..Image::default()
        });
        for (region, number) in regions(picture).zip(1..) {
            add(&mut read, &mut classes, (region, attribute.as_deref()), id)
                .map_err(|reason| told(format!("region {number}: {reason}")))?;
        }
    }
    read.dataset.categories = classes.categories();
    Ok(read)
}

/// VIA 1 had a table of them, with numbers for keys.
fn regions(picture: &Value) -> impl Iterator<Item = &Value> {
    let regions = &picture["regions"];
    let listed = regions.as_array().into_iter().flatten();
    listed.chain(regions.as_object().into_iter().flat_map(Map::values))
}

fn is_without_box(region: &Value) -> bool {
    let kind = region["shape_attributes"]["name"].as_str();
    matches!(kind, Some("point" | "polyline"))
}

/// The one attribute that regions have, or that of several which is called as classes are; none if regions have none.
fn class_attribute(pictures: &Map<String, Value>) -> Result<Option<String>, String> {
    let regions = pictures.values().flat_map(regions);
    let attributes = regions.filter_map(|it| it["region_attributes"].as_object());
    let mut names: Vec<&String> = attributes.flat_map(Map::keys).collect();
    names.sort_unstable();
    names.dedup();
    if let [] | [_] = names[..] {
        return Ok(names.first().map(|name| (*name).clone()));
    }
    let known = CLASS.iter().find_map(|known| {
        let called = |name: &&&String| name.eq_ignore_ascii_case(known);
        names.iter().find(called).map(|name| (*name).clone())
    });
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    known.map(Some).ok_or_else(|| {
        format!(
            "which of the attributes {} is the class is not clear; call it `label`",
            names.join(", ")
        )
    })
}

/// A text, or the one box that is ticked.
fn class_of<'a>(region: &'a Value, attribute: Option<&str>) -> Option<&'a str> {
    let value = region["region_attributes"].get(attribute?)?;
    let ticked =
        |(name, is_ticked): (&'a String, &Value)| (is_ticked == true).then_some(name.as_str());
    let choice = || value.as_object()?.iter().find_map(ticked);
    let class = value.as_str().or_else(choice)?;
    Some(class.trim()).filter(|class| !class.is_empty())
}

fn add(
    read: &mut ReadDataset,
    classes: &mut Classes,
    (region, attribute): (&Value, Option<&str>),
    image_id: u64,
) -> Result<(), String> {
    if is_without_box(region) {
        read.left_out += 1;
        return Ok(());
    }
    let class = class_of(region, attribute).ok_or("no attribute names its class")?;
    let bbox = bbox(&region["shape_attributes"])?;
    let annotations = &mut read.dataset.annotations;
    annotations.push(Annotation {
        id: annotations.len() as u64 + 1,
        image_id,
        category_id: classes.id_of(class),
        bbox: Some(bbox),
        area: Some(bbox[2] * bbox[3]),
        ..Annotation::default()
    });
    Ok(())
}

/// The box around a shape, `[x, y, width, height]`.
fn bbox(shape: &Value) -> Result<[f64; 4], String> {
    let number = |key: &str| {
        let number = shape[key].as_f64();
        number.ok_or_else(|| format!("its `{key}` is no number"))
    };
    let kind = shape["name"].as_str().unwrap_or_default();
    let corners = match kind {
        "rect" => {
            let (x, y) = (number("x")?, number("y")?);
            vec![[x, y], [x + number("width")?, y + number("height")?]]
        }
        "circle" => {
            let (x, y, radius) = (number("cx")?, number("cy")?, number("r")?);
            vec![[x - radius, y - radius], [x + radius, y + radius]]
        }
        "ellipse" => {
            let (x, y, rx, ry) = (number("cx")?, number("cy")?, number("rx")?, number("ry")?);
            let degrees = shape["theta"].as_f64().unwrap_or(0.0).to_degrees();
            turned([x - rx, y - ry, x + rx, y + ry], [x, y], degrees)
        }
        "polygon" => {
            let numbers = |key: &str| {
                let numbers = shape[key].as_array()?.iter().map(Value::as_f64);
                numbers.collect::<Option<Vec<f64>>>()
            };
            let points = numbers("all_points_x").zip(numbers("all_points_y"));
            let (x, y) = points.ok_or("its points are no lists of numbers")?;
            if x.len() != y.len() {
                return Err("its lists of points are not of one length".into());
            }
            x.into_iter().zip(y).map(|(x, y)| [x, y]).collect()
        }
        other => return Err(format!("`{other}` is no shape that is known")),
    };
    enclosing(&corners).ok_or_else(|| "its box is non-finite".into())
}

/// Writes a data set as exported annotations; tells how many annotations were taken over.
pub(super) fn write(dataset: &Dataset) -> (Value, usize) {
    let of_images = by_image(dataset);
    let mut written = 0;
    let mut pictures = Map::new();
    for image in &dataset.images {
        let mut regions = Vec::new();
        for annotation in of_images.get(&image.id).into_iter().flatten() {
            let Some((class, [x, y, width, height])) = named_box(dataset, annotation) else {
                continue;
            };
            written += 1;
            regions.push(json!({
                "shape_attributes": { "name": "rect", "x": x, "y": y, "width": width, "height": height },
                "region_attributes": { "label": class },
            }));
        }
        // VIA's key is the name with the file's size behind it, which it takes -1 for unknown.
        let key = format!("{}-1", image.file_name);
        let picture = json!({
            "filename": image.file_name,
            "size": -1,
            "regions": regions,
            "file_attributes": {},
        });
        pictures.insert(key, picture);
    }
    (Value::Object(pictures), written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pictures() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let picture = image::RgbImage::new(200, 100);
        picture.save(folder.path().join("street.png")).unwrap();
        folder
    }

    fn file() -> Value {
        let region = |shape: Value, class: &str| json!({ "shape_attributes": shape, "region_attributes": { "kind": class } });
        json!({ "street.png1234": {
            "filename": "street.png",
            "size": 1234,
            "regions": [
                region(json!({ "name": "rect", "x": 20, "y": 20, "width": 60, "height": 40 }), "van"),
                region(json!({ "name": "circle", "cx": 100, "cy": 50, "r": 5 }), "car"),
                region(json!({ "name": "ellipse", "cx": 50, "cy": 50, "rx": 20, "ry": 10, "theta": std::f64::consts::FRAC_PI_2 }), "car"),
                region(json!({ "name": "polygon", "all_points_x": [0, 10, 5], "all_points_y": [0, 5, 50] }), "car"),
                region(json!({ "name": "point", "cx": 1, "cy": 1 }), "dot"),
            ],
            "file_attributes": {},
        } })
    }

    fn boxes(read: &ReadDataset) -> Vec<(u64, [f64; 4])> {
        let annotations = read.dataset.annotations.iter();
        annotations
            .map(|it| (it.category_id, it.bbox.unwrap().map(f64::round)))
            .collect()
    }

    #[test]
    fn annotations_and_projects_are_read_and_written() {
        let folder = pictures();
        let found = read(&file(), folder.path()).unwrap();
        assert_eq!(found.left_out, 1);
        let names: Vec<_> = found
            .dataset
            .categories
            .iter()
            .map(|it| &*it.name)
            .collect();
        assert_eq!(names, ["car", "van"]);
        let expected = [
            (2, [20.0, 20.0, 60.0, 40.0]),
            (1, [95.0, 45.0, 10.0, 10.0]),
            (1, [40.0, 30.0, 20.0, 40.0]),
            (1, [0.0, 0.0, 10.0, 50.0]),
        ];
        assert_eq!(boxes(&found), expected);
        let project =
            json!({ "_via_settings": {}, "_via_img_metadata": file(), "_via_attributes": {} });
        assert_eq!(boxes(&read(&project, folder.path()).unwrap()), expected);
        let (written, count) = write(&found.dataset);
        assert_eq!(count, 4);
        assert_eq!(boxes(&read(&written, folder.path()).unwrap()), expected);
    }

    #[test]
    fn a_class_is_one_attribute_of_several_and_may_be_ticked() {
        let folder = pictures();
        let mut several = file();
        let region = &mut several["street.png1234"]["regions"][0];
        region["region_attributes"] =
            json!({ "class": { "bus": false, "tram": true }, "kind": "x" });
        for place in 1..5 {
            several["street.png1234"]["regions"][place]["region_attributes"] =
                json!({ "class": "car" });
        }
        let found = read(&several, folder.path()).unwrap();
        let names: Vec<_> = found
            .dataset
            .categories
            .iter()
            .map(|it| &*it.name)
            .collect();
        assert_eq!(names, ["car", "tram"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_picture_and_region() {
        let folder = pictures();
        let told = |change: fn(&mut Value)| {
            let mut file = file();
            change(&mut file);
            read(&file, folder.path()).err().unwrap_or_default()
        };
        for (told, reason) in [
            (
                told(|file| *file = json!({ "file": {}, "metadata": {} })),
                "VIA 3",
            ),
            (told(|file| *file = json!([])), "no table of pictures"),
            (told(|file| *file = json!({ "images": [] })), "`filename`"),
            (
                told(|file| file["street.png1234"]["filename"] = json!("lost.png")),
                "lost.png",
            ),
            (
                told(|file| {
                    file["street.png1234"]["regions"][0]["shape_attributes"]["x"] = json!("left");
                }),
                "`street.png`: region 1: its `x` is no number",
            ),
            (
                told(|file| file["street.png1234"]["regions"][1]["region_attributes"] = json!({})),
                "region 2: no attribute names its class",
            ),
            (
                told(|file| {
                    file["street.png1234"]["regions"][1]["region_attributes"]["colour"] =
                        json!("red");
                }),
                "`colour`, `kind`",
            ),
        ] {
            assert!(told.contains(reason), "{told}");
        }
    }
}
