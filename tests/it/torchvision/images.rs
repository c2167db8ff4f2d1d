//! Images on their way into the network.

use std::sync::Arc;

use image::{Rgb, RgbImage};
use retinanet_experiment::load_config;
use retinanet_images::{Decoding, PixelForm, TestTimeView, decode_image, prepare_views};
use retinanet_tests::{Experiment, shared};

use super::fixture::{Fixture, bits, sample_error};

/// A thousandth of a grey level, in units of a normalised image.
const TOLERANCE: f64 = 1e-3 / 58.395;

/// Where neighbours differ by the whole range, torchvision's own places of pixels, which it computes
/// in single precision, are off by more.
const TOLERANCE_OF_NOISE: f64 = 2.0 * TOLERANCE;

#[test]
fn resized_images_are_torchvisions() {
    let photos = [("photo0", 83, 60), ("photo1", 40, 101)];
    let experiment = Experiment::new();
    for (name, width, height) in photos {
        let value = |place: u32| (bits(name, place) >> 24) as u8;
        let photo = RgbImage::from_fn(width, height, |x, y| {
            let place = 3 * (y * width + x);
            Rgb([place, place + 1, place + 2].map(value))
        });
        let path = experiment.path(&format!("{name}.png"));
        photo.save(&path).unwrap();
        for (short, long) in [(100, 160), (37, 64)] {
            let error = error(&experiment, &path, name, short, long);
            assert!(error < TOLERANCE_OF_NOISE, "{name} {short}: {error:e}");
        }
    }
}

#[test]
fn a_resized_photo_is_torchvisions() {
    let Some(oddities) = shared("oddities") else {
        return;
    };
    let photo = oddities.join("images/hopper.png");
    for (short, long) in [(200, 333), (75, 100)] {
        let photo = photo.to_str().unwrap();
        let error = error(&Experiment::new(), photo, "hopper", short, long);
        assert!(error < TOLERANCE, "{short}: {error:e}");
    }
}

/// The largest difference from what torchvision makes of a photo.
fn error(experiment: &Experiment, photo: &str, name: &str, short: u32, long: u32) -> f64 {
    let text =
        format!("preset = \"torchvision\"\n[data]\nshort_side = {short}\nlong_side = {long}\n");
    let path = experiment.write("transform.toml", &text);
    let config = load_config(path.as_ref(), &[]).unwrap();
    let transform = config.data.transform().unwrap();
    let image = decode_image(photo.as_ref(), Decoding::default()).unwrap();
    let view = TestTimeView::plain(transform.preparation(), image.dimensions());
    let prepared = prepare_views(
        &[(Arc::new(image), view)],
        transform.preparation(),
        PixelForm::Numbers,
    );

    let fixture = Fixture::read("transform");
    let key = format!("{name}_{short}_{long}");
    let (width, height) = prepared.sizes[0];
    let size = [i64::from(height), i64::from(width)];
    assert_eq!(size[..], fixture.integers(&format!("{key}.size")), "{key}");
    let padded = [prepared.height as i64, prepared.width as i64];
    assert_eq!(
        padded[..],
        fixture.integers(&format!("{key}.padded")),
        "{key}"
    );
    sample_error(&key, &prepared.pixels.numbers(), &fixture.floats(&key))
}
