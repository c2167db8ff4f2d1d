//! Real photos: the detector learns them.

use retinanet_tests::{Experiment, run, shared};

/// Thirteen photos of fruits and nuts, learnt by heart. About four minutes of two cores.
#[test]
#[ignore = "slow: trains for some minutes"]
fn thirteen_photos_are_learnt_by_heart() {
    let Some(data) = shared("fruits_nuts") else {
        return;
    };
    let experiment = Experiment::new();
    let config = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../configs/fruits_nuts_overfit.toml"
    );
    let root = format!("data.root={}", data.display());
    let (directory, json) = (experiment.path("run"), experiment.path("eval.json"));
    let arguments = ["train", config, "--set", &root, "--run-dir", &directory];
    run(&arguments).expect_success();
    run(&["eval", "--run", &directory, "--json", &json]).expect_success();
    let ap50 = experiment.json("eval.json")["metrics"]["AP50"]
        .as_f64()
        .unwrap();
    assert!(ap50 >= 0.9, "AP50 {ap50}");
}
