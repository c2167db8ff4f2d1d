use proptest::prelude::*;

use super::*;
use crate::AnchorConfig;

/// The definition: the full matrix of overlaps, anchors by boxes.
fn dense(config: &MaxIouConfig, anchors: &[BoundingBox], boxes: &[BoundingBox]) -> Vec<Assignment> {
    let ious: Vec<Vec<f32>> = anchors
        .iter()
        .map(|anchor| boxes.iter().map(|bbox| anchor.iou(bbox)).collect())
        .collect();
    let highest: Vec<f32> = (0..boxes.len())
        .map(|index| ious.iter().map(|row| row[index]).fold(0.0, f32::max))
        .collect();
    ious.iter()
        .map(|row| {
            let Some(best) = row.iter().copied().reduce(f32::max) else {
                return Assignment::Background;
            };
            let first = row.iter().position(|&iou| iou == best).unwrap();
            let chooser = (0..boxes.len()).rfind(|&index| {
                highest[index] > 0.0
                    && highest[index] >= config.min_low_quality.as_f32()
                    && row[index] == highest[index]
            });
            match (config.low_quality, chooser) {
                (LowQuality::Keep, Some(_)) => return Assignment::Object(first),
                (LowQuality::Reassign, Some(chooser)) => return Assignment::Object(chooser),
                _ => {}
            }
            if best >= config.foreground.as_f32() {
                Assignment::Object(first)
            } else if best < config.background.as_f32() {
                Assignment::Background
            } else {
                Assignment::Ignored
            }
        })
        .collect()
}

/// Boxes on a small grid: equal overlaps are common, and some boxes cover nothing.
fn grid_box() -> impl Strategy<Value = BoundingBox> {
    (0_u8..12, 0_u8..12, 0_u8..6, 0_u8..6).prop_map(|(x, y, width, height)| {
        let [x1, y1, x2, y2] = [x, y, x + width, y + height].map(f32::from);
        BoundingBox::new(x1, y1, x2, y2)
    })
}

fn any_box() -> impl Strategy<Value = BoundingBox> {
    (
        -50.0_f32..500.0,
        -50.0_f32..500.0,
        -1.0_f32..200.0,
        -1.0_f32..200.0,
    )
        .prop_map(|(x, y, width, height)| BoundingBox::new(x, y, x + width, y + height))
}

fn share(number: f64) -> Share {
    Share::new(number).unwrap()
}

fn any_config() -> impl Strategy<Value = MaxIouConfig> {
    let tenth = |number: u8| f64::from(number) / 10.0;
    let low_quality = prop::sample::select(vec![
        LowQuality::Off,
        LowQuality::Keep,
        LowQuality::Reassign,
    ]);
    let any = (1_u8..=10, 0_u8..=10, low_quality, 0_u8..=8);
    prop_oneof![
        Just(MaxIouConfig::default()),
        any.prop_map(
            move |(foreground, background, low_quality, least)| MaxIouConfig {
                foreground: PositiveShare::new(tenth(foreground)).unwrap(),
                background: share(tenth(background.min(foreground))),
                low_quality,
                min_low_quality: share(tenth(least.saturating_sub(4))),
            }
        ),
    ]
}

proptest! {
    #[test]
    fn assignments_on_a_grid_are_the_dense_definitions(
        config in any_config(),
        anchors in prop::collection::vec(grid_box(), 0..200),
        boxes in prop::collection::vec(grid_box(), 0..8),
    ) {
        let found = config.init().unwrap().assign(&anchors, &boxes);
        prop_assert_eq!(found, dense(&config, &anchors, &boxes));
    }

    #[test]
    fn assignments_anywhere_are_the_dense_definitions(
        config in any_config(),
        anchors in prop::collection::vec(any_box(), 0..200),
        boxes in prop::collection::vec(any_box(), 0..8),
    ) {
        let found = config.init().unwrap().assign(&anchors, &boxes);
        prop_assert_eq!(found, dense(&config, &anchors, &boxes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Blocks of like sizes, many of which have nothing to say of boxes of other sizes.
    #[test]
    fn assignments_of_a_pyramid_are_the_dense_definitions(
        config in any_config(),
        boxes in prop::collection::vec(pyramid_box(), 1..12),
    ) {
        let anchors = AnchorConfig::default().init(&[8, 16, 32, 64, 128]).unwrap();
        let anchors = anchors.generate(96, 160);
        let found = config.init().unwrap().assign(&anchors, &boxes);
        prop_assert_eq!(found, dense(&config, &anchors, &boxes));
    }
}

/// Boxes of the sizes of all levels and of none, some of them on an anchor's very edges.
fn pyramid_box() -> impl Strategy<Value = BoundingBox> {
    let shape = (0_u8..20, 0_u8..12, 0.0_f32..9.0, 0.0_f32..9.0);
    let anywhere = shape.prop_map(|(x, y, width, height)| {
        let [x, y] = [x, y].map(|position| 8.0 * f32::from(position));
        BoundingBox::from_center(x, y, width.exp2(), height.exp2())
    });
    let on_an_anchor = (0_u8..20, 0_u8..12, 5_u8..8).prop_map(|(x, y, side)| {
        let [x, y] = [x, y].map(|position| 8.0 * f32::from(position));
        let side = f32::from(side).exp2();
        BoundingBox::from_center(x, y, side, side)
    });
    prop_oneof![3 => anywhere, 1 => on_an_anchor]
}

fn square(x: f32, side: f32) -> BoundingBox {
    BoundingBox::new(x, 0.0, x + side, side)
}

fn assign(
    low_quality: LowQuality,
    anchors: &[BoundingBox],
    boxes: &[BoundingBox],
) -> Vec<Assignment> {
    let config = MaxIouConfig {
        low_quality,
        ..MaxIouConfig::default()
    };
    config.init().unwrap().assign(anchors, boxes)
}

#[test]
fn the_band_between_the_thresholds_is_ignored() {
    // Squares of side 10 shifted by d overlap by (10 - d) / (10 + d):
    // 3 → 0.538, 4 → 0.429, 5 → 0.333.
    let anchors = [3.0, 4.0, 5.0].map(|shift| square(shift, 10.0));
    assert_eq!(
        assign(LowQuality::Off, &anchors, &[square(0.0, 10.0)]),
        [
            Assignment::Object(0),
            Assignment::Ignored,
            Assignment::Background
        ]
    );
}

#[test]
fn an_iou_at_a_threshold_has_reached_it() {
    // 5 of 10 columns, and 4 of 10.
    let anchors = [0.5, 0.4].map(|part| BoundingBox::new(0.0, 0.0, 10.0 * part, 10.0));
    assert_eq!(
        assign(LowQuality::Off, &anchors, &[square(0.0, 10.0)]),
        [Assignment::Object(0), Assignment::Ignored]
    );
}

#[test]
fn every_anchor_that_a_box_overlaps_most_is_an_object() {
    // 0.25 on both sides of the box, less further out.
    let anchors = [-6.0, 6.0, 7.0].map(|shift| square(shift, 10.0));
    assert_eq!(
        assign(LowQuality::Keep, &anchors, &[square(0.0, 10.0)]),
        [
            Assignment::Object(0),
            Assignment::Object(0),
            Assignment::Background
        ]
    );
}

#[test]
fn an_anchor_chosen_by_one_box_stays_with_its_own_best() {
    // The only anchor is what the second box overlaps most, but it lies on the first.
    let boxes = [square(0.0, 10.0), square(8.0, 10.0)];
    assert_eq!(
        assign(LowQuality::Keep, &[square(0.0, 10.0)], &boxes),
        [Assignment::Object(0)]
    );
    assert_eq!(
        assign(LowQuality::Reassign, &[square(0.0, 10.0)], &boxes),
        [Assignment::Object(1)]
    );
}

#[test]
fn a_box_whose_best_overlap_is_too_low_chooses_none() {
    // The best anchor overlaps the box by 0.25.
    for (least, expected) in [
        (0.25, Assignment::Object(0)),
        (0.26, Assignment::Background),
    ] {
        let config = MaxIouConfig {
            min_low_quality: share(least),
            ..MaxIouConfig::default()
        };
        let matcher = config.init().unwrap();
        let found = matcher.assign(&[square(6.0, 10.0)], &[square(0.0, 10.0)]);
        assert_eq!(found, [expected]);
    }
}

#[test]
fn a_box_that_no_anchor_overlaps_chooses_none() {
    assert_eq!(
        assign(
            LowQuality::Keep,
            &[square(0.0, 10.0)],
            &[square(50.0, 10.0)]
        ),
        [Assignment::Background]
    );
}

#[test]
fn the_first_of_equal_boxes_gets_the_anchor() {
    let twice = [square(0.0, 10.0), square(0.0, 10.0)];
    assert_eq!(
        assign(LowQuality::Keep, &[square(1.0, 10.0)], &twice),
        [Assignment::Object(0)]
    );
}

#[test]
fn without_boxes_all_is_background() {
    assert_eq!(
        assign(LowQuality::Keep, &[square(0.0, 10.0); 70], &[]),
        [Assignment::Background; 70]
    );
    assert_eq!(assign(LowQuality::Keep, &[], &[square(0.0, 10.0)]), []);
}

#[test]
fn thresholds_must_be_in_order() {
    let config = MaxIouConfig {
        background: share(0.6),
        ..MaxIouConfig::default()
    };
    assert_eq!(
        config.init().unwrap_err().to_string(),
        "`background` must be at most `foreground`, 0.5, got 0.6"
    );
}

#[test]
fn an_unknown_key_is_refused() {
    let error = toml::from_str::<MaxIouConfig>("positive = 0.5").unwrap_err();
    assert!(
        error.to_string().contains("unknown field `positive`"),
        "{error}"
    );
    let config: MaxIouConfig = toml::from_str("background = 0.3").unwrap();
    assert_eq!(config.foreground, 0.5);
}
