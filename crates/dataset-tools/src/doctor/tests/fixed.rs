//! What the fix changes, and what it leaves.

use std::path::Path;

use serde_json::json;

use super::*;

#[test]
fn numbers_and_names_of_other_systems_are_mended() -> Result<(), DataError> {
    let folder = painted();
    fs_err::create_dir(folder.path().join("a b")).expect("the folder is ours");
    fs_err::rename(folder.path().join("3.png"), folder.path().join("a b/3.png"))
        .expect("the folder is ours");
    let mut file = clean();
    file["images"][2]["file_name"] = json!("a%20b\\3.png");
    file["images"][4]["id"] = json!("5");
    file["images"][5]["width"] = json!(100.0);
    file["annotations"][0]["category_id"] = json!(" 2 ");
    file["annotations"][1]
        .as_object_mut()
        .expect("an object")
        .remove("id");
    let path = folder.path().join("train.json");
    fs_err::write(&path, file.to_string()).expect("the folder is ours");
    assert!(check_images(split(&folder))?.fails());

    let fixed = fix(&split(&folder))?;
    assert_eq!(fixed.changes.len(), 5, "{:#?}", fixed.changes);
    let repaired = &fixed.json;
    assert_eq!(repaired["images"][2]["file_name"], "a b/3.png");
    assert_eq!(repaired["images"][4]["id"], 5);
    assert_eq!(repaired["images"][5]["width"].as_u64(), Some(100));
    assert_eq!(repaired["annotations"][1]["id"], 2);
    fs_err::write(&path, repaired.to_string()).expect("the folder is ours");
    assert_eq!(check_images(split(&folder))?.findings, []);
    assert_eq!(fixed.check(&path)?.findings, []);
    Ok(())
}

#[test]
fn a_clipped_box_takes_its_area_along() -> Result<(), DataError> {
    let mut file = clean();
    file["annotations"][0]["bbox"] = json!([80, 5, 60, 70]);
    file["annotations"][0]["area"] = json!(4200);
    file["annotations"][0]["segmentation"] = json!([]);
    let fixed = fix_bytes(file.to_string().as_bytes())?;
    assert_eq!(fixed.json["annotations"][0]["bbox"], json!([80, 5, 20, 70]));
    assert_eq!(fixed.json["annotations"][0]["area"], 1400);
    Ok(())
}

#[test]
fn a_box_is_clipped_and_a_copy_that_clipping_made_goes() -> Result<(), DataError> {
    let mut file = clean();
    file["annotations"][2]["bbox"] = json!([-5, 10, 40, 20]);
    file["annotations"][2]["id"] = json!(0);
    let mut copy = file["annotations"][2].clone();
    copy["id"] = json!(77);
    copy["bbox"] = json!([-9, 10, 44, 20]);
    push(&mut file, "annotations", copy);
    let fixed = fix_bytes(file.to_string().as_bytes())?;
    let repaired = &fixed.json["annotations"][2];
    assert_eq!(repaired["bbox"], json!([0, 10, 35, 20]));
    // 3 is free, because no annotation has it any more.
    assert_eq!(repaired["id"], 3);
    assert_eq!(repaired["note"], "kept");
    assert_eq!(fixed.json["annotations"].as_array().map(Vec::len), Some(20));
    assert_eq!(fixed.changes.len(), 4, "{:?}", fixed.changes);
    Ok(())
}

#[test]
fn what_is_left_after_the_fix_is_told() -> Result<(), DataError> {
    let mut file = clean();
    file["images"][0]["width"] = json!("wide");
    let fixed = fix_bytes(file.to_string().as_bytes())?;
    assert_eq!(fixed.changes, [""; 0]);
    assert!(fixed.check(Path::new("repaired.json"))?.fails());
    Ok(())
}
