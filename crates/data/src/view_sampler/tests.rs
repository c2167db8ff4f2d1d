use std::sync::Arc;

use image::{Rgb, RgbImage};
use proptest::prelude::*;
use retinanet_boxes::{BoundingBox, ClassId, GroundTruth, ImageId};
use retinanet_images::{
    ChannelMean, ChannelStd, Normalization, Outline, PaddingConfig, PixelForm, Preparation,
    PreparationConfig, Prepared, Side,
};
use retinanet_settings::{PositiveFactor, PositiveShare, Share};
use serde_json::json;

use super::*;
use crate::augment::AugmentConfig;
use crate::random::sample_rng;
use crate::{DataError, ShortSides, TransformConfig};

/// Images of random sizes, each with one box of a quarter of its sides or more.
fn images() -> impl Strategy<Value = Vec<ImageRecord>> {
    let image = (40_u32..200, 40_u32..200).prop_flat_map(|(width, height)| {
        let edges = |side: u32| {
            (0..3 * side / 4, side / 4..side)
                .prop_map(move |(start, length)| (start as f32, (start + length).min(side) as f32))
        };
        (edges(width), edges(height)).prop_map(move |((x1, x2), (y1, y2))| ImageRecord {
            id: ImageId(0),
            file_name: String::new(),
            path: "".into(),
            width,
            height,
            objects: vec![GroundTruth {
                bbox: BoundingBox::new(x1, y1, x2, y2),
                class: ClassId(0),
                crowd: false,
            }],
            outlines: vec![Some(Arc::new(Outline {
                polygons: vec![vec![[x1, y1], [x2, y1], [x1, y2]]],
            }))],
        })
    });
    prop::collection::vec(image, 1..6)
}

/// An image without objects.
fn record(id: u64, width: u32, height: u32) -> ImageRecord {
    ImageRecord {
        id: ImageId(id),
        file_name: String::new(),
        path: "".into(),
        width,
        height,
        objects: Vec::new(),
        outlines: Vec::new(),
    }
}

fn transform(augment: AugmentConfig) -> Transform {
    let mut config = TransformConfig {
        augment,
        ..TransformConfig::default()
    };
    config.resize.short_side = ShortSides::literal(&[60, 90, 150]);
    config.resize.long_side = Side::literal(260);
    Transform::new(&config, None).expect("the settings are in range")
}

/// Everything, about every second time.
fn everything() -> AugmentConfig {
    let mut augment = AugmentConfig {
        vertical_flip: Share::literal(0.5),
        ..AugmentConfig::default()
    };
    augment.crop.probability = Share::literal(0.5);
    augment.jitter.probability = Share::literal(0.5);
    augment.jitter.size = [120, 100].map(Side::literal);
    augment.jitter.min_scale = PositiveFactor::literal(0.5);
    augment.photometric.probability = Share::literal(0.5);
    augment.mosaic.probability = Share::literal(0.5);
    augment.mixup.probability = Share::literal(0.5);
    augment.copy_paste.probability = Share::literal(0.5);
    augment
}

/// The piece's place in the sample, painted: where a box of its image is, 255.
fn mask(piece: &Piece, record: &ImageRecord, bbox: BoundingBox) -> RgbImage {
    let image = RgbImage::from_fn(record.width, record.height, |x, y| {
        let (x, y) = (x as f32, y as f32);
        let inside = x >= bbox.x1 && x < bbox.x2 && y >= bbox.y1 && y < bbox.y2;
        Rgb([if inside { 255 } else { 0 }; 3])
    });
    // Black must be 0 and white 255 again, for there is no padding to tell from the piece.
    let preparation = Preparation::new(&PreparationConfig {
        normalization: Normalization {
            mean: [ChannelMean::literal(0.0); 3],
            std: [ChannelStd::literal(1.0); 3],
            ..Normalization::default()
        },
        padding: PaddingConfig {
            size_divisor: Side::literal(1),
            ..PaddingConfig::default()
        },
        ..PreparationConfig::default()
    })
    .expect("the settings are in range");
    let piece = Piece {
        colors: None,
        weight: 1.0,
        pasted: None,
        ..piece.clone()
    };
    let view = View {
        size: (piece.corner.0 + piece.size.0, piece.corner.1 + piece.size.1),
        pieces: vec![piece],
    };
    let image = Arc::new(image);
    let rendered = view.render(&preparation, |_| Ok::<_, DataError>(Arc::clone(&image)));
    let rendered = rendered.expect("the image is painted here");
    let prepared = Prepared::new(&[rendered], &preparation, PixelForm::Numbers);
    preparation.picture(
        &prepared.pixels.numbers(),
        (prepared.height, prepared.width),
    )
}

/// The box around the pixels that are more than half white, if there are any.
fn bounds(mask: &RgbImage) -> Option<BoundingBox> {
    let mut found: Option<BoundingBox> = None;
    for (x, y, pixel) in mask.enumerate_pixels() {
        if pixel[0] < 128 {
            continue;
        }
        let (x, y) = (x as f32, y as f32);
        let around = found.get_or_insert(BoundingBox::new(x, y, x + 1.0, y + 1.0));
        around.x1 = around.x1.min(x);
        around.y1 = around.y1.min(y);
        around.x2 = around.x2.max(x + 1.0);
        around.y2 = around.y2.max(y + 1.0);
    }
    found
}

/// Where the object is painted. Its sides are looked for in bands through the whole image, one upright
/// and one across: an object of which a cut leaves a strip of half a pixel is half white at most, and
/// less where a row ends.
fn painted(piece: &Piece, record: &ImageRecord) -> Option<BoundingBox> {
    let bbox = record.objects[0].bbox;
    let (width, height) = (record.width as f32, record.height as f32);
    let upright = BoundingBox::new(bbox.x1, 0.0, bbox.x2, height);
    let across = BoundingBox::new(0.0, bbox.y1, width, bbox.y2);
    let [upright, across] = [upright, across].map(|band| bounds(&mask(piece, record, band)));
    let (upright, across) = (upright?, across?);
    Some(BoundingBox::new(
        upright.x1, across.y1, upright.x2, across.y2,
    ))
}

proptest! {
    /// Boxes go where pixels go: half a pixel for the threshold at half white, and as much for
    /// pixels that a cut goes through.
    #[test]
    fn boxes_agree_with_painted_masks(images in images(), seed: u64) {
        let transform = transform(everything());
        let view = transform.sample(0, &images, &mut sample_rng(seed, 0, 0, 0));
        for piece in &view.pieces {
            let record = &images[piece.image];
            let object = record.objects[0];
            let size = (record.width, record.height);
            let placed = piece.place(object, size, 0.25);
            let Some(painted) = painted(piece, record) else {
                let too_thin = |bbox: BoundingBox| bbox.width() <= 1.0 || bbox.height() <= 1.0;
                prop_assert!(placed.is_none_or(|object| too_thin(object.bbox)), "{placed:?}");
                continue;
            };
            let placed = placed.expect("something is painted");
            for (a, b) in placed.bbox.to_array().into_iter().zip(painted.to_array()) {
                prop_assert!((a - b).abs() <= 1.0, "{:?}, painted {painted:?}", placed.bbox);
            }
        }
    }

    /// What counts as an object is what shows enough of it: by counting the pixels of the image
    /// that are shown.
    #[test]
    fn what_is_kept_agrees_with_counted_pixels(images in images(), seed: u64, min_kept in 0.05_f32..0.95) {
        let transform = transform(AugmentConfig { min_kept_area: Share::new(f64::from(min_kept)).unwrap(), ..everything() });
        let view = transform.sample(0, &images, &mut sample_rng(seed, 0, 0, 0));
        for piece in &view.pieces {
            let record = &images[piece.image];
            let object = record.objects[0];
            let Region { x, y, width, height } = piece.source;
            let inside = |bbox: BoundingBox| {
                let pixels = (0..record.height).flat_map(|y| (0..record.width).map(move |x| (x, y)));
                let pixels = pixels.map(|(x, y)| (f64::from(x) + 0.5, f64::from(y) + 0.5));
                pixels.filter(move |&(x, y)| {
                    x > f64::from(bbox.x1) && x < f64::from(bbox.x2) && y > f64::from(bbox.y1) && y < f64::from(bbox.y2)
                })
            };
            let all = inside(object.bbox).count() as f32;
            let shown = inside(object.bbox)
                .filter(|&(px, py)| px > x && px < x + width && py > y && py < y + height)
                .count() as f32;
            let kept = piece.source.kept(&object.bbox, (record.width, record.height));
            // The centres of pixels in an interval are within 1 of its length.
            let (width, height) = (object.bbox.width(), object.bbox.height());
            let slack = 1.0 / width + 1.0 / height + 1.0 / (width * height);
            prop_assert!((kept - shown / all).abs() <= slack, "{kept}, counted {shown} of {all}");
            if let Some(placed) = piece.place(object, (record.width, record.height), min_kept) {
                prop_assert_eq!(placed.crowd, kept < min_kept);
            }
        }
    }

    /// Nothing reaches outside the sample or the image.
    #[test]
    fn pieces_stay_inside(images in images(), seed: u64) {
        let transform = transform(everything());
        let view = transform.sample(0, &images, &mut sample_rng(seed, 0, 0, 0));
        for piece in &view.pieces {
            let record = &images[piece.image];
            prop_assert!(piece.size.0 > 0 && piece.size.1 > 0);
            prop_assert!(piece.corner.0 + piece.size.0 <= view.size.0);
            prop_assert!(piece.corner.1 + piece.size.1 <= view.size.1);
            let Region { x, y, width, height } = piece.source;
            prop_assert!(x >= 0.0 && y >= 0.0 && width > 0.0 && height > 0.0);
            prop_assert!(x + width <= f64::from(record.width) + 1e-9);
            prop_assert!(y + height <= f64::from(record.height) + 1e-9);
        }
    }

    /// Pasted pieces lie over all others, show the whole object at the scale that was asked for, and mix with what is there
    /// outside its box alone.
    #[test]
    fn pasted_objects_are_whole(images in images(), seed: u64) {
        let mut augment = AugmentConfig::default();
        augment.copy_paste.probability = Share::literal(1.0);
        let view = transform(augment).sample(0, &images, &mut sample_rng(seed, 0, 0, 0));
        prop_assert_eq!(view.pieces.len(), 2);
        let pasted = &view.pieces[1];
        let record = &images[pasted.image];
        let size = (record.width, record.height);
        let placed = pasted.place(record.objects[0], size, 1.0).unwrap();
        prop_assert!(!placed.crowd);
        let hidden = pasted.hides().unwrap();
        for (a, b) in placed.bbox.to_array().into_iter().zip(hidden.to_array()) {
            prop_assert!((a - b).abs() <= 1.0, "{placed:?} and {hidden:?}");
        }
        let scale = f64::from(pasted.size.0) / pasted.source.width;
        prop_assert!(scale < 1.5 * 260.0 / 40.0, "{scale}");
        let cut_out = pasted.cut_out.as_ref().unwrap();
        prop_assert_eq!(Some(&cut_out.outline), record.outlines[0].as_ref());
        prop_assert_eq!(cut_out.object, 0);
    }

    #[test]
    fn a_mosaic_covers_its_sample_once(images in images(), seed: u64) {
        let mut augment = AugmentConfig::default();
        augment.mosaic.probability = Share::literal(1.0);
        let view = transform(augment).sample(0, &images, &mut sample_rng(seed, 0, 0, 0));
        let mut covered = vec![0_u8; (view.size.0 * view.size.1) as usize];
        for Piece { corner, size, .. } in &view.pieces {
            for y in corner.1..corner.1 + size.1 {
                for x in corner.0..corner.0 + size.0 {
                    covered[(y * view.size.0 + x) as usize] += 1;
                }
            }
        }
        prop_assert!(covered.iter().all(|count| *count == 1));
        prop_assert_eq!(view.pieces.len(), 4);
        prop_assert!(view.pieces.iter().any(|piece| piece.image == 0));
    }

    /// A crop has sides of at least their shares, and shows an object unless there is none.
    #[test]
    fn a_crop_is_large_enough_and_shows_something(images in images(), seed: u64) {
        let mut augment = AugmentConfig::default();
        augment.crop.probability = Share::literal(1.0);
        augment.crop.min_side = PositiveShare::literal(0.4);
        let view = transform(augment).sample(0, &images, &mut sample_rng(seed, 0, 0, 0));
        let Region { width, height, .. } = view.pieces[0].source;
        let ImageRecord { width: image_width, height: image_height, objects, .. } = &images[0];
        prop_assert!(width >= (0.4 * f64::from(*image_width)).round());
        prop_assert!(height >= (0.4 * f64::from(*image_height)).round());
        let kept = view.pieces[0].source.kept(&objects[0].bbox, (*image_width, *image_height));
        prop_assert!(kept >= 0.25, "{kept}");
    }
}

/// detectron2's `ResizeScale(0.1, 2.0, 1024, 1024)` and `FixedSizeCrop((1024, 1024))`: the scale
/// that fits 640×480 into 1024² is 1.6.
#[test]
fn jitter_is_resizing_within_the_limits_and_cropping_to_the_size() {
    let mut augment = AugmentConfig::default();
    augment.jitter.probability = Share::literal(1.0);
    let transform = transform(augment);
    let record = record(0, 640, 480);
    let (mut padded, mut cropped) = (0, 0);
    let (mut least, mut largest) = (f64::MAX, 0.0_f64);
    for epoch in 0..400 {
        let view = transform.sample(
            0,
            std::slice::from_ref(&record),
            &mut sample_rng(1, epoch, 0, 0),
        );
        assert_eq!(view.size, (1024, 1024));
        let piece = &view.pieces[0];
        let scale = f64::from(piece.size.0) / piece.source.width;
        (least, largest) = (least.min(scale), largest.max(scale));
        if piece.source == Region::whole((640, 480)) {
            padded += 1;
        } else {
            cropped += 1;
            assert!(piece.size.0 == 1024 || piece.size.1 == 1024);
        }
        // The shape stays, up to the rounding of a side to whole pixels.
        let other = f64::from(piece.size.1) / piece.source.height;
        assert!((scale / other - 1.0).abs() < 0.02, "{scale} and {other}");
    }
    // Uniform between 0.16 and 3.2; beyond 1.6 the image is larger than 1024. 5 standard
    // deviations of 400 draws are 50.
    assert!((padded - 189_i32).abs() < 50, "{padded} and {cropped}");
    assert!(least < 0.2 && least > 0.155, "{least}");
    assert!(largest > 3.1 && largest < 3.21, "{largest}");
}

/// Variations that are switched on later leave the earlier ones as they were.
#[test]
fn colours_and_mixing_leave_what_is_shown_where_it_was() {
    let images: Vec<_> = (0..3).map(|id| record(id, 100, 80)).collect();
    let mut augment = AugmentConfig {
        vertical_flip: Share::literal(0.5),
        ..AugmentConfig::default()
    };
    augment.crop.probability = Share::literal(0.5);
    let plain = transform(augment);
    augment.photometric.probability = Share::literal(0.5);
    augment.mixup.probability = Share::literal(0.5);
    augment.copy_paste.probability = Share::literal(0.5);
    let varied = transform(augment);
    let (mut colored, mut mixed) = (0, 0);
    for epoch in 0..100 {
        let draw =
            |transform: &Transform| transform.sample(1, &images, &mut sample_rng(4, epoch, 1, 0));
        let (plain, varied) = (draw(&plain), draw(&varied));
        colored += u32::from(varied.pieces[0].colors.is_some());
        mixed += u32::from(varied.pieces.len() == 2);
        let same = Piece {
            colors: None,
            weight: 1.0,
            ..varied.pieces[0].clone()
        };
        assert_eq!(same, plain.pieces[0]);
    }
    assert!(colored > 20 && mixed > 20, "{colored} and {mixed}");
}

#[test]
fn every_variation_happens_as_often_as_it_says() {
    let images: Vec<_> = (0..5).map(|id| record(id, 100, 80)).collect();
    let mut augment = AugmentConfig {
        horizontal_flip: Share::literal(0.3),
        vertical_flip: Share::literal(0.2),
        ..AugmentConfig::default()
    };
    augment.photometric.probability = Share::literal(0.4);
    augment.mixup.probability = Share::literal(0.1);
    let transform = transform(augment);
    let draws = 4000;
    let mut counts = [0.0; 4];
    for epoch in 0..draws {
        let view = transform.sample(2, &images, &mut sample_rng(3, epoch, 2, 0));
        let piece = &view.pieces[0];
        assert_eq!(piece.image, 2);
        for (count, happened) in counts.iter_mut().zip([
            piece.mirrored,
            piece.upside_down,
            piece.colors.is_some(),
            view.pieces.len() == 2,
        ]) {
            *count += f64::from(u8::from(happened));
        }
    }
    for (count, probability) in counts.into_iter().zip([0.3, 0.2, 0.4, 0.1]) {
        let deviation = (draws as f64 * probability * (1.0 - probability)).sqrt();
        let expected = draws as f64 * probability;
        assert!(
            (count - expected).abs() < 4.0 * deviation,
            "{count}, not about {expected}"
        );
    }
}

#[test]
fn every_setting_out_of_range_is_refused() {
    for (section, key, value) in [
        ("", "vertical_flip", json!(1.5)),
        ("", "min_kept_area", json!(-0.1)),
        ("crop", "probability", json!(2)),
        ("crop", "min_side", json!(0)),
        ("jitter", "probability", json!(-1)),
        ("jitter", "size", json!([0, 100])),
        ("jitter", "min_scale", json!(0)),
        ("jitter", "max_scale", json!(0.05)),
        ("jitter", "max_scale", json!(101)),
        ("jitter", "size", json!([65_536, 1])),
        ("crop", "min_side", json!(1.1)),
        ("mixup", "alpha", json!(101)),
        ("photometric", "probability", json!(1.01)),
        ("photometric", "brightness", json!(1.1)),
        ("photometric", "contrast", json!(-0.1)),
        ("photometric", "saturation", json!(7)),
        ("photometric", "hue", json!(0.6)),
        ("mosaic", "probability", json!(1.01)),
        ("mixup", "probability", json!(-0.01)),
        ("mixup", "alpha", json!(0)),
    ] {
        let (settings, path) = match section {
            "" => (json!({key: value}), key.to_owned()),
            _ => (json!({section: {key: value}}), format!("{section}.{key}")),
        };
        let read = serde_json::from_value::<AugmentConfig>(settings);
        let error = match read.map(|augment| augment.check()) {
            Err(error) => error.to_string(),
            Ok(checked) => checked.expect_err(&path).to_string(),
        };
        assert!(error.contains("must be"), "{path}: {error}");
    }
}
