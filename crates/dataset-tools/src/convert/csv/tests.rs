use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::convert::{Converted, DatasetFormat, Destination, Source, convert};

const TITLES: &str = "filename,width,height,class,xmin,ymin,xmax,ymax\n";

/// Reads a file of these bytes, beside a picture `7×5.png` of that size.
fn read_bytes(bytes: &[u8]) -> Result<Dataset, ConvertError> {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("boxes.csv");
    fs_err::write(&path, bytes).expect("the folder is ours");
    let picture = image::RgbImage::new(7, 5);
    let saved = picture.save(folder.path().join("7×5.png"));
    saved.expect("the folder is ours");
    read(&path, folder.path())
}

/// An image's file name, width and height, and its boxes with their classes.
type Content = (String, u32, u32, Vec<(String, [f64; 4])>);

fn contents(dataset: &Dataset) -> Vec<Content> {
    let name = |id| {
        let category = dataset.categories.iter().find(|it| it.id == id);
        category.expect("a category").name.clone()
    };
    let boxes = |image: &Image| {
        let annotations = dataset.annotations.iter();
        let own = annotations.filter(|annotation| annotation.image_id == image.id);
        own.map(|it| (name(it.category_id), it.bbox.expect("a box")))
            .collect()
    };
    let images = dataset.images.iter();
    images
        .map(|it| (it.file_name.clone(), it.width, it.height, boxes(it)))
        .collect()
}

fn contents_of(text: &str) -> Vec<Content> {
    contents(&read_bytes(text.as_bytes()).expect("this file is sound"))
}

fn message(bytes: &[u8]) -> String {
    let error = read_bytes(bytes).expect_err("this file is malformed");
    error.to_string()
}

fn content(
    (file, width, height): (&str, u32, u32),
    boxes: impl IntoIterator<Item = (&'static str, [f64; 4])>,
) -> Content {
    let boxes = boxes.into_iter().map(|(class, bbox)| (class.into(), bbox));
    (file.into(), width, height, boxes.collect())
}

/// Two images of which one has no boxes, and a crowd.
fn coco() -> Value {
    json!({
        "images": [
            {"id": 40, "file_name": "b/\"two\", 2.png", "width": 100, "height": 80},
            {"id": 9, "file_name": "one.png", "width": 30, "height": 20},
        ],
        "categories": [
            {"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 4, "name": "owl"},
        ],
        "annotations": [
            {"id": 1, "image_id": 40, "category_id": 7, "bbox": [1.5, 2, 10.25, 20], "area": 205},
            {"id": 2, "image_id": 40, "category_id": 3, "bbox": [0, 0, 4, 4], "iscrowd": 1},
            {"id": 3, "image_id": 40, "category_id": 3, "bbox": [0.1, -3, 0, 4], "area": 0},
            {"id": 4, "image_id": 40, "category_id": 3},
        ],
    })
}

fn source<'a>(format: DatasetFormat, path: &'a Path, folder: &'a TempDir) -> Source<'a> {
    Source {
        format,
        path,
        images: Some(folder.path()),
        split: None,
    }
}

const fn to(format: DatasetFormat, path: &Path) -> Destination<'_> {
    Destination { format, path }
}

#[test]
fn coco_becomes_csv_and_comes_back() -> Result<(), ConvertError> {
    let folder = TempDir::new().expect("a temporary folder");
    let [there, csv, back] = ["a.json", "b.csv", "c.json"].map(|it| folder.path().join(it));
    fs_err::write(&there, coco().to_string()).expect("the folder is ours");

    let coco = DatasetFormat::Coco;
    let converted = convert(source(coco, &there, &folder), to(DatasetFormat::Csv, &csv))?;
    let expected = Converted {
        images: 2,
        annotations: 2,
        left_out: 2,
    };
    assert_eq!(converted, expected);
    let expected = "\"b/\"\"two\"\", 2.png\",100,80,dog,1.5,2,11.75,22\n\
                    \"b/\"\"two\"\", 2.png\",100,80,cat,0.1,-3,0.1,1\n\
                    one.png,30,20,,,,,\n";
    let text = fs_err::read_to_string(&csv).expect("it was written");
    assert_eq!(text, format!("{TITLES}{expected}"));
    let files = fs_err::read_dir(folder.path()).expect("the folder is ours");
    assert_eq!(files.count(), 2, "nothing is left beside the file");

    let converted = convert(source(DatasetFormat::Csv, &csv, &folder), to(coco, &back))?;
    assert_eq!((converted.images, converted.left_out), (2, 0));
    let back = fs_err::read(&back).expect("it was written");
    let back: Dataset = serde_json::from_slice(&back).expect("COCO");
    let boxes = [
        ("dog", [1.5, 2.0, 10.25, 20.0]),
        ("cat", [0.1, -3.0, 0.0, 4.0]),
    ];
    let expected = [
        content(("b/\"two\", 2.png", 100, 80), boxes),
        content(("one.png", 30, 20), []),
    ];
    assert_eq!(contents(&back), expected);
    Ok(())
}

#[test]
fn ids_count_from_one_and_classes_are_sorted() {
    let lines = [
        "b.png,9,9,owl,1,1,2,2\n",
        "a.png,9,9,cat,1,1,2,2\n",
        "b.png,9,9,dog,3,3,4,4\n",
    ];
    let ids = |lines: &[&str]| {
        let text = format!("{TITLES}{}", lines.concat());
        let data = read_bytes(text.as_bytes()).expect("this file is sound");
        let categories: Vec<_> = data.categories.iter().map(|it| it.name.clone()).collect();
        assert_eq!(categories, ["cat", "dog", "owl"]);
        let ids: Vec<_> = data.categories.iter().map(|it| it.id).collect();
        assert_eq!(ids, [1, 2, 3]);
        let annotations = data.annotations.iter();
        annotations
            .map(|it| (it.id, it.image_id, it.category_id, it.area))
            .collect::<Vec<_>>()
    };
    let area = Some(1.0);
    assert_eq!(
        ids(&lines),
        [(1, 1, 3, area), (2, 2, 1, area), (3, 1, 2, area)]
    );
    let other = [lines[1], lines[2], lines[0]];
    assert_eq!(
        ids(&other),
        [(1, 1, 1, area), (2, 2, 2, area), (3, 2, 3, area)]
    );
}

#[test]
fn keras_retinanet_needs_no_header() {
    let text = "7×5.png,1,2,3,5,cat\n7×5.png,0,0,1,1,big dog\n";
    let boxes = [
        ("cat", [1.0, 2.0, 2.0, 3.0]),
        ("big dog", [0.0, 0.0, 1.0, 1.0]),
    ];
    assert_eq!(contents_of(text), [content(("7×5.png", 7, 5), boxes)]);
    let empty = content(("7×5.png", 7, 5), []);
    assert_eq!(contents_of("7×5.png,,,,,"), [empty]);
}

#[test]
fn headers_differ() {
    let boxes = [("cat", [1.0, 2.0, 2.0, 3.0])];
    let expected = [content(("a.png", 10, 20), boxes)];
    for text in [
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,10,20,cat,1,2,3,5\n",
        "Class , IMAGE_PATH,Top,Left,Right,Bottom,Height,Width\ncat,a.png,2,1,3,5,20,10",
        "id,file,label,x1,x2,y1,y2,score,width,height\n8,a.png,cat,1,3,2,5,x,10.0,20.0\n",
        "image;category;x_min;y_min;x_max;y_max;width;height\r\na.png;cat;1;2;3;5;10;20\r\n",
        "\u{feff}path,class_name,xmin,ymin,xmax,ymax,width,height\r\n\r\n\
         \"a.png\",\" cat \",1,2,3.0,5e0,10,20",
        "file_name,name,xmin,ymin,xmax,ymax,width,height\na.png,,,,,,10,20\na.png,cat,1,2,3,5,,\n",
    ] {
        assert_eq!(contents_of(text), expected, "{text}");
    }
}

#[test]
fn sizes_are_read_from_the_pictures() {
    let titles = "filename,class,xmin,ymin,xmax,ymax\n";
    let empty = content(("7×5.png", 7, 5), []);
    assert_eq!(contents_of(&format!("{titles}7×5.png,,,,,\n")), [empty]);
    let message = message(format!("{titles}none.png,,,,,\n").as_bytes());
    assert!(message.contains("none.png`: its size"), "{message}");
}

#[test]
fn degenerate_boxes_stay() {
    let text = format!("{TITLES}a.png,9,9,cat,5,5,5,4\n");
    let boxes = [("cat", [5.0, 5.0, 0.0, -1.0])];
    assert_eq!(contents_of(&text), [content(("a.png", 9, 9), boxes)]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn a_malformed_line_is_told_with_its_number() {
    for (lines, expected) in [
        (
            "a.png,9,9,cat,1,1\n",
            "line 2: it has 6 columns, expected 8",
        ),
        ("\n\na.png,9,9,cat,1,1\n", "line 4: it has 6 columns"),
        (",9,9,cat,1,1,2,2\n", "line 2: it names no file"),
        (
            "a.png,9,9,cat,x,1,2,2\n",
            "line 2: the left edge of its box is `x`",
        ),
        (
            "a.png,9,9,cat,1,nan,2,2\n",
            "line 2: the top edge of its box is `nan`",
        ),
        (
            "a.png,9,9,cat,1,1,1e999,2\n",
            "line 2: the right edge of its box is `1e999`",
        ),
        (
            "a.png,9,9,cat,1,1,2,\n",
            "line 2: its box has no bottom edge",
        ),
        ("a.png,9,9,cat,,,,\n", "line 2: its box has no left edge"),
        ("a.png,9,9, ,1,1,2,2\n", "line 2: its box has no class"),
        (
            "a.png,0,9,cat,1,1,2,2\n",
            "line 2: its width `0` is not a number of pixels",
        ),
        (
            "a.png,9,9.5,cat,1,1,2,2\n",
            "line 2: its height `9.5` is not a number of pixels",
        ),
        (
            "a.png,9,,cat,1,1,2,2\n",
            "line 2: it has a width but no height",
        ),
        (
            "a.png,,9,cat,1,1,2,2\n",
            "line 2: it has a height but no width",
        ),
        (
            "a.png,9,9,,,,,\nb.png,9,9,,,,,\na.png,9,8,,,,,\n",
            "line 4: `a.png` is 9×8 pixels, but 9×9 on a line before",
        ),
        (
            "\"a\n.png\",9,9,,,,,\nb.png,9,9,,,,\n",
            "line 4: it has 7 columns",
        ),
        (
            "\"a.png,9,9,,,,,\nb.png,9,9,,,,,\n",
            "line 2: it has 1 columns",
        ),
    ] {
        for end in ["\n", "\r\n"] {
            let text = format!("{TITLES}{lines}").replace('\n', end);
            let message = message(text.as_bytes());
            assert!(message.contains("boxes.csv`: "), "{message}");
            assert!(message.contains(expected), "{text}{message}");
        }
    }
    let latin = message(b"a.png,1,1,2,2,cat\nb.png,1,1,2,2,K\xE4fer\n");
    assert!(latin.contains("line 2: it is not UTF-8"), "{latin}");
}

#[test]
fn a_header_must_be_whole_and_clear() {
    for (text, expected) in [
        (
            "file,xmin,ymin,xmax,ymax\n",
            "line 1: the header has no column `class`",
        ),
        (
            "file,class,x1,y1,x2\n",
            "line 1: the header has no column `ymax`",
        ),
        (
            "path,filename,class,x1,y1,x2,y2\n",
            "line 1: the columns `path` and `filename` both mean `filename`",
        ),
        // No header at all, and no form of keras-retinanet's either.
        (
            "file,class,x,y,w,h\n",
            "line 1: the left edge of its box is `class`",
        ),
        ("file,class,x,y,w,h\n", "the first line is not a header"),
        (
            "image_id,class,xmin,ymin,xmax,ymax,area\n",
            "line 1: it has 7 columns, expected 6",
        ),
    ] {
        let message = message(text.as_bytes());
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn what_csv_cannot_tell_apart_is_not_written() {
    for (pointer, value, expected) in [
        (
            "/images/1/file_name",
            json!("b/\"two\", 2.png"),
            "image 9 has no file name of its own",
        ),
        (
            "/images/1/file_name",
            json!(" "),
            "image 9 has no file name of its own",
        ),
        (
            "/categories/0/name",
            json!(""),
            "annotation 1 is of category 7, which has no name",
        ),
        (
            "/categories/0/id",
            json!(8),
            "annotation 1 is of category 7, which has no name",
        ),
    ] {
        let mut file = coco();
        *file.pointer_mut(pointer).expect("a field") = value;
        let dataset: Dataset = serde_json::from_value(file).expect("COCO");
        let error = write(&dataset).expect_err("it cannot be written");
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn an_unknown_size_stays_unknown() {
    let mut file = coco();
    file["images"] = json!([{"id": 1, "file_name": "7×5.png", "height": 5}]);
    let dataset: Dataset = serde_json::from_value(file).expect("COCO");
    let (text, written) = write(&dataset).expect("it can be written");
    assert_eq!(written, 0);
    let back = read_bytes(&text).expect("what was written is sound");
    assert_eq!(contents(&back), [content(("7×5.png", 7, 5), [])]);
}

/// Text that nothing needs to be trimmed from.
fn text() -> impl Strategy<Value = String> {
    "[a-zäß\"',;\r\n -]{1,9}".prop_map(|text| format!("<{text}>"))
}

proptest! {
    #[test]
    fn round_trips_keep_all(
        images in prop::collection::btree_map(
            text(),
            (
                1..=u32::MAX,
                1..=u32::MAX,
                prop::collection::vec((text(), prop::array::uniform4(-1e4..1e4_f64)), 0..4),
            ),
            1..6,
        ),
    ) {
        let mut table = Table::default();
        for (file, (width, height, boxes)) in &images {
            let mut line = Line { file, size: Some((*width, *height)), object: None };
            prop_assert_eq!(table.add(&line), Ok(()));
            for (class, corners) in boxes {
                line.object = Some((class, *corners));
                prop_assert_eq!(table.add(&line), Ok(()));
            }
        }
        let dataset = table.into_dataset();
        let (text, written) = write(&dataset).map_err(TestCaseError::fail)?;
        prop_assert_eq!(written, dataset.annotations.len());
        let back = parse(&text).map_err(TestCaseError::fail)?.into_dataset();

        let ids = |data: &Dataset| data.categories.iter().map(|it| it.id).collect::<Vec<_>>();
        prop_assert_eq!(ids(&back), ids(&dataset));
        let (found, expected) = (contents(&back), contents(&dataset));
        prop_assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert_eq!(&found.0, &expected.0);
            prop_assert_eq!((found.1, found.2), (expected.1, expected.2));
            prop_assert_eq!(found.3.len(), expected.3.len());
            for ((class, found), (expected_class, expected)) in found.3.iter().zip(&expected.3) {
                prop_assert_eq!(class, expected_class);
                prop_assert_eq!(&found[..2], &expected[..2]);
                // A width is a difference of corners, and rounded as such.
                prop_assert!((found[2] - expected[2]).abs() < 1e-10);
                prop_assert!((found[3] - expected[3]).abs() < 1e-10);
            }
        }
    }
}
