use super::halves::choose;
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

/// The halves of files below a folder `d`, as `TRAIN` or `TRAIN VAL`; nothing if there are none.
fn halves(files: &str) -> Option<String> {
    let files: Vec<PathBuf> = (files.split_whitespace())
        .map(|name| Path::new("d").join(name))
        .collect();
    let halves = choose(Path::new("d"), &files).unwrap()?;
    let paths = [Some(halves.train), halves.val];
    let names = paths.into_iter().flatten().map(|path| {
        let path = path.strip_prefix("d").unwrap();
        path.to_str().unwrap().to_owned()
    });
    Some(names.collect::<Vec<_>>().join(" "))
}

#[test]
fn halves_are_told_by_words_and_of_several_the_shortest_name_is_taken() {
    for (files, told) in [
        (
            "train.json train_raw.json val.json test.json",
            "train.json val.json",
        ),
        (
            "a/instances_train2017.json a/instances_val2017.json",
            "a/instances_train2017.json a/instances_val2017.json",
        ),
        (
            "test/_a.coco.json train/_a.coco.json valid/_a.coco.json",
            "train/_a.coco.json valid/_a.coco.json",
        ),
        ("train.json test.json", "train.json test.json"),
        ("retrained.json", "retrained.json"),
        ("val.json", "val.json"),
        ("all.json val.json", "all.json val.json"),
        // A file's own name counts before that of its folder, and of its words the last.
        (
            "my_training/train.json my_training/val.json",
            "my_training/train.json my_training/val.json",
        ),
        (
            "train/train_a.json train/val_a.json",
            "train/train_a.json train/val_a.json",
        ),
        (
            "train-eval-split-eval.json train-eval-split-train.json",
            "train-eval-split-train.json train-eval-split-eval.json",
        ),
    ] {
        assert_eq!(halves(files).as_deref(), Some(told), "{files}");
    }
    assert_eq!(halves(""), None);
    let files = ["a.json", "b.json"].map(PathBuf::from);
    let error = choose(Path::new(""), &files).unwrap_err().to_string();
    assert!(
        error.contains("a.json, b.json") && error.contains("--annotations"),
        "{error}"
    );
}

#[test]
fn runs_and_what_init_made_are_nobodys_annotations() {
    let folder = folder(&[
        ("all.json", COCO),
        ("a.png", ""),
        ("all_data/train.json", COCO),
        ("all_data/made_by_retinanet_init.txt", ""),
        ("run/eval/train.json", COCO),
        ("run/metrics.jsonl", ""),
    ]);
    let found = discover(folder.path()).unwrap();
    assert_eq!(found.train.annotations, folder.path().join("all.json"));
    assert_eq!(found.val, None);
}

#[test]
fn the_halves_of_other_formats_are_told_apart_too() {
    let voc = folder(&[
        ("test/a.xml", "<annotation/>"),
        ("train/b.xml", "<annotation/>"),
        ("train/b.jpg", ""),
        ("valid/c.xml", "<annotation/>"),
        ("valid/c.jpg", ""),
    ]);
    let found = discover(voc.path()).unwrap();
    assert_eq!(found.train.annotations, voc.path().join("train"));
    assert_eq!(found.train.images, voc.path().join("train"));
    assert_eq!(found.val.unwrap().annotations, voc.path().join("valid"));

    let years = folder(&[
        ("VOCdevkit/VOC2007/Annotations/a.xml", "<annotation/>"),
        ("VOCdevkit/VOC2012/Annotations/b.xml", "<annotation/>"),
    ]);
    let error = discover(years.path()).unwrap_err();
    assert!(matches!(error, DiscoverError::Several { .. }), "{error}");

    let yolo = folder(&[
        ("classes.txt", "cat\n"),
        ("images/train/a.png", ""),
        ("images/val/b.png", ""),
        ("labels/train/a.txt", ""),
        ("labels/val/b.txt", ""),
    ]);
    let found = discover(yolo.path()).unwrap();
    assert_eq!(found.train.annotations, yolo.path().join("labels/train"));
    assert_eq!(found.val.unwrap().images, yolo.path().join("images/val"));

    let lost = folder(&[
        ("data.yaml", "names: [cat]\ntrain: images\nval: nowhere\n"),
        ("images/a.png", ""),
    ]);
    let error = discover(lost.path()).unwrap_err().to_string();
    assert!(error.contains("`nowhere`"), "{error}");

    let beside = folder(&[("labels.csv", "a.png,1,2,3,4,cat\n"), ("images/a.png", "")]);
    let found = discover(beside.path()).unwrap();
    assert_eq!(found.train.images, beside.path().join("images"));
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
    let empty = r#"{"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}"#;
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
