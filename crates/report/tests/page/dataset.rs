//! The page of a data set's images in a browser.

use image::RgbImage;
use retinanet_browser::ColorScheme;
use retinanet_report::{BoxOverlay, ClassColor, DatasetPage, ImageFinding, ImageView, Picture};

use crate::browser::{Shape, Window, output};
use crate::made_up::NASTY;

/// A name that no address may hold as it is.
const ODD: &str = "odd/50% #1?.png";

fn page() -> DatasetPage {
    let classes = ["cat", NASTY[1]].into_iter().zip(["#ff1414", "#46eb76"]);
    let overlay = |class, x, crowd| BoxOverlay {
        class,
        bbox: [x, 10.0, 40.0, 30.0],
        crowd,
    };
    let picture = |caption: &str, file: &str| Picture {
        caption: caption.into(),
        file: file.into(),
        width: 160,
        height: 120,
        objects: vec![
            overlay(0, 5.0, false),
            overlay(1, 60.0, false),
            overlay(0, 110.0, true),
        ],
    };
    let finding = ImageFinding {
        severity: "warning".into(),
        title: "a box that occurs twice".into(),
        detail: NASTY[0].into(),
    };
    let first = ImageView {
        file_name: ODD.into(),
        about: "image 1, 160×120, 3 boxes".into(),
        findings: vec![finding],
        views: vec![picture("as it is", ODD), picture("in epoch 0", "plain.png")],
    };
    let mut second = picture("as it is", "plain.png");
    second.objects.truncate(1);
    DatasetPage {
        title: NASTY[2].into(),
        about: "2 images".into(),
        settings: "[data.augment]\nhorizontal_flip = 0.5".into(),
        classes: classes
            .map(|(name, color)| ClassColor {
                name: name.into(),
                color: color.into(),
            })
            .collect(),
        images: vec![
            first,
            ImageView {
                file_name: "plain.png".into(),
                about: "image 2".into(),
                findings: Vec::new(),
                views: vec![second],
            },
        ],
    }
}

#[test]
fn boxes_are_drawn_over_images_beside_the_page_and_can_be_chosen() {
    let folder = output("dataset-page");
    fs_err::create_dir_all(folder.join("odd")).unwrap();
    for name in [ODD, "plain.png"] {
        let image = RgbImage::from_pixel(160, 120, image::Rgb([90, 140, 200]));
        image.save(folder.join(name)).unwrap();
    }
    let path = folder.join("index.html");
    page().write(&path).unwrap();
    let Some(mut window) = Window::new() else {
        return;
    };
    for (name, shape, scheme) in [
        ("desk", Shape::Desk, ColorScheme::Light),
        ("phone", Shape::Phone, ColorScheme::Dark),
    ] {
        window.open(&path, shape, scheme);
        let wide = window.evaluate("document.documentElement.scrollWidth");
        assert_eq!(wide, shape.width(), "{name}");
        let loaded = "[...document.images].every((it) => it.complete && it.naturalWidth === 160)";
        assert_eq!(window.evaluate(loaded), true, "{name}");
        window.photograph("body", &format!("dataset-{name}.png"));
        assert_eq!(window.complaints(), Vec::<String>::new(), "{name}");
    }
    assert_eq!(window.texts("h1"), [NASTY[2]]);
    assert!(window.texts(".findings li")[0].contains(NASTY[0]));
    assert_eq!(window.count("rect"), 7);
    assert_eq!(window.count("svg text"), 7);

    // A class and what is ignored are hidden by the legend.
    window.click(".legend button:nth-child(1)");
    assert_eq!(window.count("rect"), 4);
    window.click(".legend button:nth-child(3)");
    assert_eq!(window.count("rect"), 2);
    window.click(".legend button:nth-child(1)");
    assert_eq!(window.count("rect"), 5);

    // Images are chosen by class and by findings.
    window.choose("#category", "1");
    assert_eq!(window.texts(".image h2"), [ODD]);
    window.choose("#category", "");
    assert_eq!(window.count(".image"), 2);
    window.click(".controls input");
    assert_eq!(window.texts(".image h2"), [ODD]);

    window.click(".frame");
    assert_eq!(window.count("dialog[open] rect"), 2);
    window.photograph("dialog", "dataset-dialog.png");
    window.click("dialog button");
    assert_eq!(window.count("dialog"), 0);
    assert_eq!(window.complaints(), Vec::<String>::new());
}
