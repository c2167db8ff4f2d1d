//! The page in a headless Chromium. The pictures are in the tests' temporary folder, for people.

use std::path::{Path, PathBuf};

use image::RgbImage;
use retinanet_boxes::{BoundingBox, ClassId, Detection};
use retinanet_browser::{Browser, ColorScheme};
use retinanet_service::{Detect, ServiceConfig};
use serde_json::{Value, json};

use crate::common::{Running, info};

/// Fills a canvas with something like a photo, and `make(blob)` into a file.
const DRAWN: &str = r##"new Promise((resolve) => {
    const canvas = new OffscreenCanvas(800, 600), pen = canvas.getContext("2d");
    const sky = pen.createLinearGradient(0, 0, 0, 600);
    sky.addColorStop(0, "#9cc4ee"); sky.addColorStop(0.6, "#e9eef2"); sky.addColorStop(0.6, "#57703f");
    sky.addColorStop(1, "#2f3d22");
    pen.fillStyle = sky; pen.fillRect(0, 0, 800, 600);
    for (const [x, y, w, h, color] of [
        [60, 240, 170, 210, "#7a3b2e"], [260, 330, 240, 120, "#c9b037"], [520, 180, 110, 300, "#222c44"],
        [640, 380, 150, 100, "#eeeeee"], [330, 120, 60, 40, "#444444"], [0, 500, 120, 100, "#8855aa"],
    ]) { pen.fillStyle = color; pen.fillRect(x, y, w, h); }
    canvas.convertToBlob({ type: "image/jpeg" }).then((blob) => {
        const carrier = new DataTransfer();
        carrier.items.add(new File([blob], "garden.jpg", { type: "image/jpeg" }));
        resolve(carrier);
    });
})"##;

const CATEGORIES: [(u64, &str); 6] = [
    (1, "person"),
    (2, "bicycle"),
    (3, "car"),
    (16, "bird"),
    (
        44,
        "bottle of a fine vintage, as the catalogue of the collection has it",
    ),
    (62, "chair"),
];

/// Finds the same in every picture: apart, on top of one another, in the corners, tiny.
struct Scene;

/// `[x, y, width, height]` in a picture of 800×600, class and score, the best first.
const SCENE: [([f32; 4], u32, f32); 16] = [
    ([60.0, 240.0, 170.0, 210.0], 0, 0.98),
    ([260.0, 330.0, 240.0, 120.0], 2, 0.95),
    ([520.0, 180.0, 110.0, 300.0], 0, 0.91),
    ([528.0, 186.0, 100.0, 150.0], 0, 0.88),
    ([534.0, 190.0, 90.0, 100.0], 3, 0.83),
    ([640.0, 380.0, 160.0, 100.0], 1, 0.77),
    ([330.0, 120.0, 60.0, 40.0], 3, 0.71),
    ([0.0, 500.0, 120.0, 100.0], 4, 0.66),
    ([0.0, 0.0, 90.0, 40.0], 5, 0.6),
    ([700.0, 0.0, 100.0, 60.0], 3, 0.55),
    ([680.0, 540.0, 120.0, 60.0], 5, 0.5),
    ([400.0, 60.0, 8.0, 6.0], 3, 0.45),
    ([270.0, 340.0, 220.0, 100.0], 2, 0.41),
    ([0.0, 0.0, 800.0, 600.0], 5, 0.33),
    ([280.0, 350.0, 60.0, 40.0], 5, 0.21),
    ([100.0, 260.0, 60.0, 60.0], 0, 0.1),
];

impl Detect for Scene {
    fn detect(&mut self, pictures: Vec<RgbImage>) -> Vec<Result<Vec<Detection>, String>> {
        let find = |picture: &RgbImage| {
            let right = picture.width() as f32 / 800.0;
            let down = picture.height() as f32 / 600.0;
            let found = SCENE.map(|([x, y, width, height], class, score)| Detection {
                bbox: BoundingBox::new(x, y, x + width, y + height).scale(right, down),
                class: ClassId(class),
                score,
            });
            Ok(found.to_vec())
        };
        pictures.iter().map(find).collect()
    }
}

fn above(score: f32) -> usize {
    SCENE.iter().filter(|(_, _, told)| *told >= score).count()
}

fn pictures() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    fs_err::create_dir_all(&folder).unwrap();
    folder
}

/// The service and a browser that shows its page; nothing if there is no browser.
#[expect(clippy::print_stderr, reason = "a skipped test must say so")]
fn opened() -> Option<(Running, Browser)> {
    let Some(program) = Browser::find() else {
        eprintln!("skipped: there is no Chromium here");
        return None;
    };
    let config = ServiceConfig::default();
    let service = Running::start_as(info(&CATEGORIES), &config, Scene);
    let mut browser = Browser::start(&program).unwrap();
    browser.resize(1280, 860).unwrap();
    browser
        .open(&format!("http://{}/", service.address))
        .unwrap();
    let named = "document.getElementById('model').textContent === 'shapes'";
    browser.wait_for(named).unwrap();
    Some((service, browser))
}

/// Drops the drawn photo on the page.
fn drop_photo(browser: &mut Browser) {
    let script = format!(
        "{DRAWN}.then((dataTransfer) => document.getElementById('drop').dispatchEvent(
            new DragEvent('drop', {{ dataTransfer, bubbles: true, cancelable: true }})))"
    );
    browser.evaluate(&script).unwrap();
}

fn wait_for_boxes(browser: &mut Browser, count: usize) {
    let condition = format!(
        "document.querySelectorAll('.box').length === {count} && !document.getElementById('picture').hidden"
    );
    browser.wait_for(&condition).unwrap();
}

fn count(browser: &mut Browser, selector: &str) -> usize {
    let script = format!("document.querySelectorAll({}).length", json!(selector));
    browser.evaluate(&script).unwrap().as_u64().unwrap() as usize
}

/// What is wrong with where the labels are, and with what sticks out of the page.
fn faults(browser: &mut Browser) -> Value {
    let script = r"(() => {
        const frame = document.getElementById('picture').getBoundingClientRect();
        const labels = [...document.querySelectorAll('.label:not(.crowded)')]
            .map((label) => [label.textContent, label.getBoundingClientRect()]);
        const faults = [];
        for (const [text, at] of labels) {
            if (at.left < frame.left || at.right > frame.right + 0.5
                || at.top < frame.top || at.bottom > frame.bottom + 0.5) faults.push(`${text} sticks out`);
        }
        labels.forEach(([text, a], index) => labels.slice(index + 1).forEach(([other, b]) => {
            if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
                faults.push(`${text} lies on ${other}`);
        }));
        if (!labels.length) faults.push('there is no label');
        const table = document.getElementById('scroll');
        if (table.scrollWidth > table.clientWidth) faults.push('the table is too wide');
        if (document.documentElement.scrollWidth > innerWidth) faults.push('the page is too wide');
        return faults;
    })()";
    browser.evaluate(script).unwrap()
}

#[test]
fn a_dropped_photo_shows_its_boxes_and_the_controls_choose_among_them() {
    let Some((service, mut browser)) = opened() else {
        return;
    };
    browser.screenshot(&pictures().join("empty.png")).unwrap();
    drop_photo(&mut browser);
    wait_for_boxes(&mut browser, above(0.3));
    assert_eq!(count(&mut browser, "#rows tr"), above(0.3));
    assert_eq!(faults(&mut browser), json!([]));

    // The slider goes from 0.05 to 1.
    browser.click_at("#score", 0.8, 0.5).unwrap();
    let score = browser.evaluate("Number(document.getElementById('score').value)");
    let score = score.unwrap().as_f64().unwrap();
    assert!((0.75..0.88).contains(&score), "{score}");
    wait_for_boxes(&mut browser, above(score as f32));
    browser.click_at("#score", 0.01, 0.5).unwrap();
    wait_for_boxes(&mut browser, SCENE.len());
    assert_eq!(faults(&mut browser), json!([]));

    // Birds are of class 3 and category 16.
    let birds = SCENE.iter().filter(|(_, class, _)| *class == 3).count();
    browser.click("[data-category='16']").unwrap();
    wait_for_boxes(&mut browser, SCENE.len() - birds);
    browser.click("[data-category='16']").unwrap();
    wait_for_boxes(&mut browser, SCENE.len());

    browser.hover_at("#rows tr:nth-child(2)", 0.5, 0.5).unwrap();
    browser
        .wait_for("document.querySelectorAll('.box.hot').length === 1")
        .unwrap();
    assert_eq!(count(&mut browser, ".label.hot"), 1);
    assert_eq!(browser.complaints(), Vec::<String>::new());
    drop(browser);
    service.stop().unwrap();
}

#[test]
fn the_page_is_photographed_in_light_and_dark_wide_and_on_a_phone() {
    let Some((service, mut browser)) = opened() else {
        return;
    };
    drop_photo(&mut browser);
    wait_for_boxes(&mut browser, above(0.3));
    for (scheme, name) in [(ColorScheme::Light, "light"), (ColorScheme::Dark, "dark")] {
        browser.set_color_scheme(scheme).unwrap();
        browser.resize(1280, 860).unwrap();
        browser.wait_for("innerWidth === 1280").unwrap();
        let path = pictures().join(format!("wide_{name}.png"));
        browser.screenshot(&path).unwrap();
        assert_eq!(faults(&mut browser), json!([]), "{name}");

        browser.become_phone(390, 844).unwrap();
        browser.wait_for("innerWidth === 390").unwrap();
        // Labels are placed again once the picture has its new size.
        browser
            .wait_for("new Promise(requestAnimationFrame) && true")
            .unwrap();
        let path = pictures().join(format!("phone_{name}.png"));
        browser.screenshot(&path).unwrap();
        assert_eq!(faults(&mut browser), json!([]), "{name}, phone");
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
    drop(browser);
    service.stop().unwrap();
}

#[test]
fn files_are_chosen_pasted_refused_and_saved() {
    let Some((service, mut browser)) = opened() else {
        return;
    };
    let script = format!(
        "{DRAWN}.then((clipboardData) => document.body.dispatchEvent(
            new ClipboardEvent('paste', {{ clipboardData, bubbles: true }})))"
    );
    browser.evaluate(&script).unwrap();
    wait_for_boxes(&mut browser, above(0.3));

    // What is saved is what is on show.
    let spy = "URL.createObjectURL = ((make) => (blob) => make(window.saved = blob))(URL.createObjectURL)";
    browser.evaluate(spy).unwrap();
    browser.click("#download").unwrap();
    let saved = browser.evaluate("saved.text()").unwrap();
    let saved: Value = serde_json::from_str(saved.as_str().unwrap()).unwrap();
    assert_eq!(
        (&saved["file_name"], &saved["width"]),
        (&json!("garden.jpg"), &json!(800))
    );
    assert_eq!(saved["detections"].as_array().unwrap().len(), above(0.3));

    // A format that no Chromium shows.
    let tiff = pictures().join("photo.tiff");
    RgbImage::new(80, 60).save(&tiff).unwrap();
    browser.choose_file("#file", &tiff).unwrap();
    browser
        .wait_for("document.getElementById('photo').hidden")
        .unwrap();
    wait_for_boxes(&mut browser, above(0.3));
    assert_eq!(browser.complaints(), Vec::<String>::new());

    let text = pictures().join("letter.txt");
    fs_err::write(&text, "no image").unwrap();
    browser.choose_file("#file", &text).unwrap();
    let told = "document.getElementById('error').textContent.includes('not an image')";
    browser.wait_for(told).unwrap();
    let named = "document.getElementById('error').textContent.startsWith('letter.txt: ')";
    browser.wait_for(named).unwrap();
    // The last picture that could be looked at stays.
    wait_for_boxes(&mut browser, above(0.3));
    browser.screenshot(&pictures().join("refused.png")).unwrap();
    // The browser itself notes the refusal.
    let complaints = browser.complaints();
    assert!(
        complaints.iter().all(|complaint| complaint.contains("415")),
        "{complaints:?}"
    );

    drop_photo(&mut browser);
    wait_for_boxes(&mut browser, above(0.3));
    assert_eq!(count(&mut browser, "#error[hidden]"), 1);
    drop(browser);
    service.stop().unwrap();
}
