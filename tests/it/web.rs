//! The page that `export --format web` writes, in a headless Chromium.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;

use retinanet_browser::Browser;
use retinanet_tests::{Experiment, run};
use serde_json::Value;

#[test]
fn the_page_finds_what_predict_finds_and_asks_nobody() {
    let experiment = Experiment::new();
    experiment.train_to_find("run").expect_success();
    let [run_dir, page, json, rendered] =
        ["run", "page", "found.json", "rendered"].map(|name| experiment.path(name));
    run(&[
        "export", "--run", &run_dir, "--format", "web", "--out", &page,
    ])
    .expect_success();
    let images = experiment.path("data/images");
    let photos: Vec<PathBuf> = (0..3)
        .map(|place| Path::new(&images).join(format!("val_{place:05}.png")))
        .collect();
    let mut predict = vec![
        "predict", "--run", &run_dir, "--json", &json, "--out", &rendered,
    ];
    predict.extend(photos.iter().map(|photo| photo.to_str().unwrap()));
    run(&[&predict[..], &["--score", "0.05"]].concat()).expect_success();
    let expected = experiment.json("found.json");
    let expected = expected.as_array().unwrap();
    assert!(expected.len() > 5, "too few to compare: {expected:?}");

    let Some(program) = Browser::find() else {
        return;
    };
    let mut browser = Browser::start(&program).unwrap();
    browser.open(&serve(page.into())).unwrap();
    browser.wait_for("service.model === 'run'").unwrap();
    for photo in &photos {
        browser.choose_file("#file", photo).unwrap();
        let name = photo.file_name().unwrap().to_str().unwrap();
        let shown = format!("answer !== null && file.name === '{name}'");
        browser.wait_for(&shown).unwrap();
        let found = "answer.detections.filter(({ score }) => score >= 0.05)";
        let found = browser.evaluate(found).unwrap();
        let expected = expected.iter().filter(|it| it["file_name"] == name);
        compare(found.as_array().unwrap(), &expected.collect::<Vec<_>>());
    }
    // What is no image is told, and the detector goes on.
    let text = experiment.write("text.png", "no picture");
    browser.choose_file("#file", Path::new(&text)).unwrap();
    let told = "document.getElementById('error').textContent.includes('text.png')";
    browser.wait_for(told).unwrap();
    browser.choose_file("#file", &photos[0]).unwrap();
    browser
        .wait_for("answer !== null && file.name === 'val_00000.png'")
        .unwrap();

    let press = "document.getElementById('camera').click()";
    browser.evaluate(press).unwrap();
    let is_filming = "document.querySelector('video').videoWidth > 0 && \
                      document.getElementById('camera').textContent === 'Take the photo'";
    browser.wait_for(is_filming).unwrap();
    browser.evaluate(press).unwrap();
    browser
        .wait_for("answer !== null && file.name === 'camera.png' && answer.width > 0")
        .unwrap();

    let addresses = "performance.getEntriesByType('resource').map(({ name }) => name)";
    let addresses = browser.evaluate(addresses).unwrap();
    for address in addresses.as_array().unwrap() {
        let address = address.as_str().unwrap();
        let own = ["http://127.0.0.1:", "blob:http://127.0.0.1:", "data:"];
        assert!(own.iter().any(|it| address.starts_with(it)), "{address}");
    }
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[test]
fn a_page_of_the_quickstart_is_small_and_takes_no_strangers_place() {
    let experiment = Experiment::new();
    let quickstart = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/quickstart.toml");
    let (run_dir, page) = (experiment.path("run"), experiment.path("page"));
    let data = format!("data.root={}", experiment.path("data"));
    let settings = [
        "train.iterations=1",
        "data.synth.train_images=8",
        "data.synth.val_images=2",
        &data,
    ]
    .map(|setting| ["--set", setting]);
    let train = [
        &["train", quickstart, "--run-dir", &run_dir],
        settings.as_flattened(),
    ]
    .concat();
    run(&train).expect_success();
    let export = [
        "export", "--run", &run_dir, "--format", "web", "--out", &page,
    ];
    run(&export).expect_success();
    let files = fs_err::read_dir(&page).unwrap();
    let bytes: u64 = files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes < 8_000_000, "{bytes} bytes");

    // Over itself, but over nothing else.
    run(&export).expect_success();
    experiment.write("page/photo.jpg", "somebody's");
    run(&export).expect_refusal(2, &["photo.jpg", "new folder"]);
    let raw = run(&[&export[..], &["--raw"]].concat());
    raw.expect_refusal(2, &["`--raw`", "onnx"]);
}

fn compare(found: &[Value], expected: &[&Value]) {
    assert_eq!(found.len(), expected.len(), "{found:?}\n{expected:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found["category_id"], expected["category_id"]);
        let numbers = |of: &Value| {
            let bbox = of["bbox"].as_array().unwrap().iter();
            let numbers = [&of["score"]].into_iter().chain(bbox);
            numbers.map(|it| it.as_f64().unwrap()).collect::<Vec<_>>()
        };
        for (found, expected) in numbers(found).into_iter().zip(numbers(expected)) {
            assert!((found - expected).abs() < 0.01, "{found} and {expected}");
        }
    }
}

/// Serves a folder's files until the test ends; the address of its page.
fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap().take(1 << 16)).lines();
            let request = lines.next().and_then(Result::ok).unwrap_or_default();
            let path = request
                .split(' ')
                .nth(1)
                .unwrap_or("/")
                .trim_start_matches('/');
            let path = if path.is_empty() { "index.html" } else { path };
            let kind = match path.rsplit('.').next() {
                Some("html") => "text/html",
                Some("js") => "text/javascript",
                Some("wasm") => "application/wasm",
                _ => "application/octet-stream",
            };
            let (status, content) = match fs_err::read(folder.join(path)) {
                Ok(content) => ("200 OK", content),
                Err(_) => ("404 Not Found", Vec::new()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                content.len()
            );
            let _ = stream.write_all(&[head.as_bytes(), &content].concat());
        }
    });
    format!("http://{address}")
}
