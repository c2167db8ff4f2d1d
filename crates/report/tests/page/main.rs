//! The page in a browser: opened, clicked and photographed.

#![expect(clippy::unwrap_used, reason = "all of this is tests, helpers included")]

mod browser;
mod dataset;
mod made_up;

use std::path::PathBuf;
use std::sync::LazyLock;

use retinanet_browser::{ColorScheme, Key};
use retinanet_evaluation::{Analysis, Confusion, ErrorPart, ErrorParts, Metrics};
use retinanet_report::{Report, TrainingLog};

use crate::browser::{Shape, Window, output};
use crate::made_up::{CLASSES, IMAGES, NASTY};

const SECTIONS: [&str; 13] = [
    "summary",
    "dataset",
    "training",
    "precision",
    "curves",
    "classes",
    "confusion",
    "errors",
    "calibration",
    "loss",
    "anchors",
    "gallery",
    "setup",
];

/// How many images the gallery begins with.
const PICTURES: usize = 12;

static MADE_UP: LazyLock<Report> = LazyLock::new(made_up::report);

fn written(report: &Report, name: &str) -> PathBuf {
    let path = output(name);
    report.write(&path).unwrap();
    path
}

/// A window onto the made-up report.
fn made_up_window(name: &str) -> Option<Window> {
    let mut window = Window::new()?;
    window.open(&written(&MADE_UP, name), Shape::Desk, ColorScheme::Light);
    Some(window)
}

#[test]
fn it_is_drawn_in_light_and_dark_and_on_a_phone_without_a_complaint() {
    let path = written(&MADE_UP, "looks.html");
    let Some(mut window) = Window::new() else {
        return;
    };
    let light = (ColorScheme::Light, [0xf5, 0xf6, 0xf8]);
    let dark = (ColorScheme::Dark, [0x12, 0x15, 0x1a]);
    for (name, shape, (scheme, ground)) in [
        ("light", Shape::Desk, light),
        ("dark", Shape::Desk, dark),
        ("phone-light", Shape::Phone, light),
        ("phone-dark", Shape::Phone, dark),
    ] {
        window.open(&path, shape, scheme);
        let wide = window.evaluate("document.documentElement.scrollWidth");
        assert_eq!(wide, shape.width(), "{name}");
        assert_eq!(window.count(".empty"), 0, "{name}");
        if shape == Shape::Desk {
            // All columns fit, however many there are.
            let classes = "document.querySelector('#classes .scroll')";
            let hidden = format!("{classes}.scrollWidth - {classes}.clientWidth");
            assert_eq!(window.evaluate(&hidden), 0, "{name}");
        }
        for section in SECTIONS {
            let file = format!("report-{name}-{section}.png");
            let picture = window.photograph(&format!("#{section}"), &file);
            let picture = image::open(picture).unwrap().to_rgb8();
            assert_eq!(picture.get_pixel(1, 1).0, ground, "{file}");
        }
        assert_eq!(window.complaints(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn names_are_shown_as_they_are() {
    let Some(mut window) = made_up_window("names.html") else {
        return;
    };
    let shown = window.texts("#classes tbody th");
    assert_eq!(shown[..NASTY.len()], NASTY);
    assert_eq!(window.texts("h1"), ["made-up <run> & co"]);
    assert_eq!(window.evaluate("document.title"), "made-up <run> & co");
    assert_eq!(window.complaints(), Vec::<String>::new());
}

#[test]
fn headings_sort_the_classes_and_what_is_undefined_comes_last() {
    let Some(mut window) = made_up_window("sort.html") else {
        return;
    };
    let heading = "#classes thead th:nth-child(2) button";
    assert_eq!(window.texts(heading), ["AP"]);
    let numbers = |window: &mut Window| -> Vec<f64> {
        let shown = window.texts("#classes tbody td:nth-child(2)");
        assert_eq!(shown.len(), CLASSES);
        assert_eq!(shown[CLASSES - 1], "–");
        let numbers = shown[..CLASSES - 1].iter();
        numbers.map(|it| it.parse().unwrap()).collect()
    };
    assert!(!numbers(&mut window).is_sorted());

    window.click(heading);
    assert!(numbers(&mut window).is_sorted_by(|a, b| a >= b));
    window.click(heading);
    assert!(numbers(&mut window).is_sorted());

    window.click("#classes thead th:first-child button");
    let names = window.texts("#classes tbody th");
    let place = |name: &str| names.iter().position(|it| it == name);
    assert!(place("class 4") < place("class 10"), "{names:?}");
    assert_eq!(window.count("#classes [aria-sort]"), 1);
    assert_eq!(window.complaints(), Vec::<String>::new());
}

/// What the worst images of the gallery show from a score on: objects, objects missed, detections
/// that are right, and that are wrong.
fn expected_boxes(images: usize, score: f64) -> [usize; 4] {
    let mut gallery: Vec<_> = MADE_UP.gallery.iter().map(|it| &it.analysis).collect();
    gallery.sort_by(|a, b| a.f1.total_cmp(&b.f1));
    let mut boxes = [0; 4];
    for image in &gallery[..images] {
        boxes[0] += image.objects.len();
        for object in &image.objects {
            boxes[1] += usize::from(object.found.is_none_or(|found| found < score));
        }
        for detection in &image.detections {
            let shown = usize::from(detection.detection.score >= score);
            boxes[if detection.right { 2 } else { 3 }] += shown;
        }
    }
    boxes
}

fn drawn_boxes(window: &mut Window) -> [usize; 4] {
    [
        ".object",
        ".missed",
        ".detection.right",
        ".detection:not(.right)",
    ]
    .map(|name| window.count(&format!("#gallery .pictures rect{name}")))
}

#[test]
fn the_gallery_draws_what_the_slider_and_the_boxes_say() {
    let Some(mut window) = made_up_window("gallery.html") else {
        return;
    };
    assert_eq!(window.count("#gallery .picture"), PICTURES);
    assert_eq!(drawn_boxes(&mut window), expected_boxes(PICTURES, 0.3));
    window.click("#gallery .content > button");
    assert_eq!(window.count("#gallery .picture"), IMAGES);

    let all = expected_boxes(IMAGES, 0.0);
    assert!(all[2] > 0 && all[3] > 0, "{all:?}");
    assert_eq!(expected_boxes(IMAGES, 1.0)[2..], [0, 0]);
    for score in [1.0, 0.55, 0.0] {
        window.choose("#score", &score.to_string());
        let expected = expected_boxes(IMAGES, score);
        assert_eq!(drawn_boxes(&mut window), expected, "{score}");
    }
    for (layer, cleared) in [("object", 0..2), ("right", 2..3), ("wrong", 3..4)] {
        let toggle = format!("#gallery [data-layer={layer}] input");
        let mut expected = all;
        expected[cleared].fill(0);
        window.click(&toggle);
        assert_eq!(drawn_boxes(&mut window), expected, "{layer}");
        window.click(&toggle);
        assert_eq!(drawn_boxes(&mut window), all, "{layer}");
    }
    assert_eq!(window.complaints(), Vec::<String>::new());
}

#[test]
fn images_are_chosen_by_class() {
    let Some(mut window) = made_up_window("category.html") else {
        return;
    };
    let category = MADE_UP.gallery[0].analysis.objects[0].category_id;
    let has_class = |image: &&retinanet_report::GalleryImage| {
        let objects = image.analysis.objects.iter().map(|it| it.category_id);
        let detections = image.analysis.detections.iter();
        let mut classes = objects.chain(detections.map(|it| it.detection.category_id));
        classes.any(|it| it == category)
    };
    let expected = MADE_UP.gallery.iter().filter(has_class).count();
    assert!(expected < PICTURES);
    window.choose("#category", &category.0.to_string());
    assert_eq!(window.count("#gallery .picture"), expected);
    assert_eq!(window.complaints(), Vec::<String>::new());
}

#[test]
fn the_worst_images_come_first_and_open_large() {
    let Some(mut window) = made_up_window("dialog.html") else {
        return;
    };
    let f1 = |caption: &String| {
        caption
            .rsplit_once("F1 ")
            .unwrap()
            .1
            .parse::<f64>()
            .unwrap()
    };
    let captions = window.texts("#gallery .pictures figcaption");
    assert!(captions.iter().map(f1).is_sorted(), "{captions:?}");

    window.click("#gallery .picture:nth-child(3) .frame");
    let open = "dialog[open] figcaption";
    assert_eq!(window.texts(open), captions[2..3]);
    window.photograph("dialog", "report-dialog.png");
    window.click("dialog button:nth-child(2)");
    assert_eq!(window.texts(open), captions[3..4]);
    window.click("dialog button:nth-child(1)");
    assert_eq!(window.texts(open), captions[2..3]);
    window.click("dialog button:nth-child(3)");
    assert_eq!(window.count("dialog[open]"), 0);

    window.choose("#order", "best");
    let captions = window.texts("#gallery .pictures figcaption");
    assert!(captions.iter().map(f1).rev().is_sorted(), "{captions:?}");
    assert_eq!(window.complaints(), Vec::<String>::new());
}

#[test]
fn the_keyboard_reaches_all_that_the_pointer_does() {
    let Some(mut window) = made_up_window("keyboard.html") else {
        return;
    };
    let heading = "#classes thead th:nth-child(2) button";
    window.tab_to(heading);
    let ring = "getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(window.evaluate(ring), "solid");
    window.press(Key::Enter);
    let sorted = "document.querySelector('#classes [aria-sort]').textContent";
    assert_eq!(window.evaluate(sorted), "AP");

    let captions = window.texts("#gallery .pictures figcaption");
    let frame = "#gallery .picture:nth-child(3) .frame";
    window.tab_to(frame);
    window.press(Key::Enter);
    let open = "dialog[open] figcaption";
    assert_eq!(window.texts(open), captions[2..3]);
    window.press(Key::ArrowRight);
    assert_eq!(window.texts(open), captions[3..4]);
    window.press(Key::ArrowLeft);
    assert_eq!(window.texts(open), captions[2..3]);
    window.press(Key::Escape);
    assert_eq!(window.count("dialog[open]"), 0);
    let back = format!("document.activeElement === document.querySelector({frame:?})");
    assert_eq!(window.evaluate(&back), true);
    assert_eq!(window.complaints(), Vec::<String>::new());
}

#[test]
fn every_control_has_its_turn_with_the_tab_key() {
    let Some(mut window) = made_up_window("tab.html") else {
        return;
    };
    let controls = "a[href], button, input, select, summary, [tabindex='0']";
    let missed = format!(
        "[...document.querySelectorAll({controls:?})]\
         .filter((it) => it.checkVisibility() && !seen.has(it)).map((it) => it.outerHTML)"
    );
    window.evaluate("window.seen = new Set([document.body])");
    let first_time = "!seen.has(document.activeElement) && !!seen.add(document.activeElement)";
    window.press(Key::Tab);
    while window.evaluate(first_time) == true {
        window.press(Key::Tab);
    }
    assert_eq!(window.evaluate(&missed), serde_json::json!([]));
    assert_eq!(window.complaints(), Vec::<String>::new());
}

#[test]
fn curves_hide_smooth_and_tell_their_values() {
    let Some(mut window) = made_up_window("charts.html") else {
        return;
    };
    let chart = "#training .chart:first-child";
    let curves = &format!("{chart} .curve");
    assert_eq!(
        window.texts(&format!("{chart} .legend .name")),
        [
            "loss",
            "class part",
            "box part",
            "largest loss",
            "validation loss"
        ]
    );
    // Three curves, each raw and smoothed, and the validation loss; the fourth is hidden at first.
    assert_eq!(window.count(curves), 7);
    window.click(&format!("{chart} .chart-head label:nth-child(1) input"));
    assert_eq!(window.count(curves), 4);
    window.click(&format!("{chart} .legend button:nth-child(4)"));
    assert_eq!(window.count(curves), 5);
    window.click(&format!("{chart} .legend button:nth-child(1)"));
    assert_eq!(window.count(curves), 4);

    let path = format!("document.querySelector('{curves}').getAttribute('d')");
    let linear = window.evaluate(&path);
    window.click(&format!("{chart} .chart-head label:nth-child(2) input"));
    assert_ne!(window.evaluate(&path), linear);

    assert_eq!(window.count(".tip:not([hidden])"), 0);
    window.hover(&format!("{chart} .plot"));
    let tip = window.texts(".tip:not([hidden])").concat();
    assert!(tip.starts_with("step "), "{tip}");
    assert!(tip.contains("class part"), "{tip}");
    assert_eq!(window.complaints(), Vec::<String>::new());
}

#[test]
fn the_summary_has_means_of_the_last_steps_and_says_what_to_do_next() {
    let Some(mut window) = made_up_window("summary.html") else {
        return;
    };
    let notes = window.texts("#summary .note");
    let means = notes.iter().filter(|it| *it == "mean of the last 21 steps");
    assert_eq!(means.count(), 2, "{notes:?}");
    let advice = window.texts("#advice li").join("\n");
    for part in [
        "first at step 1200",
        "retinanet anchors optimize",
        "hardly learnt",
    ] {
        assert!(advice.contains(part), "{part}: {advice}");
    }
    assert_eq!(window.complaints(), Vec::<String>::new());
}

#[test]
fn f1_is_shown_over_the_score() {
    let Some(mut window) = made_up_window("by-score.html") else {
        return;
    };
    let chart = "#curves .chart:nth-child(2)";
    assert_eq!(
        window.texts(&format!("{chart} h3")),
        ["F1 over the score, largest at 0.430"]
    );
    assert_eq!(
        window.texts(&format!("{chart} .legend .name")),
        ["F1", "precision", "recall"]
    );
    window.hover(&format!("{chart} .plot"));
    let tip = window.texts(".tip:not([hidden])").concat();
    // The made-up curves at 0.48, in the middle: 0.3 + 0.7 · 0.48 and 1 − 0.48².
    assert!(
        tip.contains("precision0.636") && tip.contains("recall0.770"),
        "{tip}"
    );
    assert_eq!(window.complaints(), Vec::<String>::new());
}

#[test]
fn missed_objects_have_their_class() {
    let Some(mut window) = made_up_window("missed.html") else {
        return;
    };
    let [_, missed, ..] = expected_boxes(PICTURES, 0.3);
    window.click("#gallery .picture:first-child .frame");
    let labels = window.texts("dialog[open] text.missed");
    assert!(missed > 0 && !labels.is_empty());
    assert!(
        labels.iter().all(|it| it.ends_with(", missed")),
        "{labels:?}"
    );
    let caption = window.texts("dialog[open] figcaption").concat();
    let class = labels[0].trim_end_matches(", missed");
    assert!(caption.contains(class), "{caption}: {class}");
    assert_eq!(window.complaints(), Vec::<String>::new());
}

#[test]
fn the_confusion_matrix_shrinks_to_what_is_confused() {
    let Some(mut window) = made_up_window("confusion.html") else {
        return;
    };
    let rows = "#confusion tbody tr";
    let first = format!("{rows}:first-child td");
    assert_eq!(window.count(rows), CLASSES + 1);
    assert_eq!(window.count(&first), CLASSES + 1);
    window.click("#confusion input");
    assert_eq!(window.count(rows), CLASSES - 10 + 1);
    assert_eq!(window.count(&first), CLASSES - 10 + 1);
    assert_eq!(window.complaints(), Vec::<String>::new());
}

#[test]
fn an_empty_report_says_what_is_not_there_yet() {
    let path = written(&Report::default(), "empty.html");
    let Some(mut window) = Window::new() else {
        return;
    };
    for (name, shape) in [("desk", Shape::Desk), ("phone", Shape::Phone)] {
        window.open(&path, shape, ColorScheme::Light);
        for section in SECTIONS {
            let empty = format!("#{section} .content > .empty");
            assert_eq!(window.count(&empty), 1, "{section}");
        }
        let wide = window.evaluate("document.documentElement.scrollWidth");
        assert_eq!(wide, shape.width());
        window.photograph("body", &format!("report-empty-{name}.png"));
        assert_eq!(window.complaints(), Vec::<String>::new());
    }
}

#[test]
fn a_run_of_one_step_without_objects_is_drawn() {
    let path = written(&bare_report(), "bare.html");
    let Some(mut window) = Window::new() else {
        return;
    };
    window.open(&path, Shape::Phone, ColorScheme::Dark);
    // A single step is a point.
    assert!(window.count("#training .dot") > 0);
    for scale in ["linear", "logarithmic"] {
        let drawing = window.evaluate("document.querySelector('main').innerHTML");
        for word in ["NaN", "Infinity", "undefined", "null"] {
            let drawing = drawing.as_str().unwrap();
            assert!(!drawing.contains(word), "{scale}: {word}");
        }
        window
            .evaluate("document.querySelectorAll('.chart-head input').forEach((it) => it.click())");
    }
    let cells = window.texts("#classes tbody td:nth-child(2)");
    assert_eq!(cells, ["–"]);
    let notes = window.texts("#summary .note");
    assert!(notes.contains(&"the only step".to_owned()), "{notes:?}");
    // The one step is the only one on its axis.
    let ticks = "[...document.querySelectorAll('#training .chart:first-child text[text-anchor=middle]')]\
                 .map((it) => it.textContent)";
    assert_eq!(window.evaluate(ticks), serde_json::json!(["1"]));
    window.photograph("body", "report-bare.png");
    assert_eq!(window.complaints(), Vec::<String>::new());
}

/// A run's first step, whose loss is non-finite, and an evaluation without anything to find.
fn bare_report() -> Report {
    let nothing = ErrorPart {
        ap: f64::NAN,
        count: 0,
    };
    let class = &MADE_UP.analysis.as_ref().unwrap().classes[CLASSES - 1];
    Report {
        log: one_step(),
        analysis: Some(Analysis {
            best: None,
            by_score: Vec::new(),
            metrics: undefined(),
            classes: vec![class.clone()],
            confusion: Confusion {
                names: vec!["only".into()],
                counts: vec![vec![0; 2]; 2],
            },
            errors: ErrorParts {
                classification: nothing,
                localization: nothing,
                both: nothing,
                duplicate: nothing,
                background: nothing,
                missed: nothing,
                false_positives: f64::NAN,
                false_negatives: f64::NAN,
            },
            calibration: None,
            images: Vec::new(),
            score: 0.5,
        }),
        ..Report::default()
    }
}

const fn undefined() -> Metrics {
    Metrics {
        max_detections: 100,
        ap: -1.0,
        ap50: -1.0,
        ap75: -1.0,
        ap_small: -1.0,
        ap_medium: -1.0,
        ap_large: -1.0,
        ar1: -1.0,
        ar10: -1.0,
        ar100: -1.0,
        ar_small: -1.0,
        ar_medium: -1.0,
        ar_large: -1.0,
        per_class: Vec::new(),
    }
}

fn one_step() -> TrainingLog {
    let lines = concat!(
        r#"{"kind":"step","iteration":1,"epoch":0.1,"lr":0.0,"loss":null,"class_loss":null,"#,
        r#""box_loss":0.5,"gradient_norm":null,"positives":0,"images":1,"seconds":0.0,"#,
        r#""waited_seconds":0.0,"memory":null,"levels":[[0.0,null]]}"#,
        "\n",
        r#"{"kind":"evaluation","iteration":1,"AP":-1.0,"loss":null,"per_class":[]}"#,
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    fs_err::write(&path, lines).unwrap();
    TrainingLog::read(&path).unwrap()
}
