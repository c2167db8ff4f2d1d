//! What is found in the image files.

use std::collections::BTreeMap;
use std::sync::Mutex;

use image::RgbImage;
use serde_json::json;

use super::*;

#[test]
fn faults_of_files_are_found() -> Result<(), DataError> {
    let folder = painted();
    let path = |id: u8| folder.path().join(format!("{id}.png"));
    fs_err::remove_file(path(1)).expect("the file is ours");
    fs_err::write(path(2), "no picture").expect("the file is ours");
    let bytes = fs_err::read(path(3)).expect("the file is ours");
    fs_err::write(path(3), &bytes[..bytes.len() - 10]).expect("the file is ours");
    let other = RgbImage::new(80, 100);
    other.save(path(4)).expect("the file is ours");
    fs_err::copy(path(5), path(6)).expect("the files are ours");

    let calls = Mutex::new(Vec::new());
    let report = check(&CheckRequest::new(split(&folder)), &|done, total| {
        calls.lock().expect("nobody panics").push((done, total));
    })?;
    let expected = BTreeMap::from([
        (Kind::MissingFile, vec![1]),
        (Kind::UndecodableFile, vec![2]),
        (Kind::TruncatedFile, vec![3]),
        // Without an orientation it is not rotated but another.
        (Kind::SizeMismatch, vec![4]),
        (Kind::RepeatedImage, vec![6]),
    ]);
    assert_eq!(found(&report), expected, "{report}");
    let mut calls = calls.into_inner().expect("nobody panics");
    calls.sort_unstable();
    assert_eq!(calls, (1..=10).map(|done| (done, 10)).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn an_image_in_both_splits_is_found() -> Result<(), DataError> {
    let (train, val) = (painted(), folder());
    let from = train.path().join("7.png");
    fs_err::copy(from, val.path().join("renamed.png")).expect("the folders are ours");
    let images = json!([{"id": 1, "file_name": "renamed.png"}, {"id": 2, "file_name": "gone"}]);
    fs_err::write(
        val.path().join("train.json"),
        json!({"images": images}).to_string(),
    )
    .expect("the folder is ours");

    let request = CheckRequest {
        other: Some(split(&val)),
        ..CheckRequest::new(split(&train))
    };
    let report = check(&request, &|_, total| assert_eq!(total, 12))?;
    assert_eq!(
        found(&report),
        BTreeMap::from([(Kind::SharedImage, vec![7])])
    );
    let detail = &report.findings[0].examples[0].detail;
    assert_eq!(detail, "`renamed.png` of the other split");
    Ok(())
}
