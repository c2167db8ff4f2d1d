//! Against numbers of mmdetection's, as `scripts/make_mmdetection_fixtures.py` stored them.

use retinanet_anchors::{AnchorConfig, Assignment, AtssConfig, Lengths};
use retinanet_boxes::BoundingBox;
use retinanet_settings::Whole;
use serde::Deserialize;

#[derive(Deserialize)]
struct Scene {
    height: usize,
    width: usize,
    boxes: Vec<[f32; 4]>,
    /// Anchors, and the boxes that they are objects of.
    objects: Vec<(usize, usize)>,
}

#[test]
fn atss_makes_objects_of_the_same_anchors() {
    const STRIDES: [usize; 5] = [8, 16, 32, 64, 128];
    let scenes: Vec<Scene> =
        serde_json::from_str(include_str!("../fixtures/mmdetection/atss.json")).unwrap();
    assert!(scenes.len() > 30);
    let config = AnchorConfig {
        sizes: Lengths::literal(&STRIDES.map(|stride| 8.0 * stride as f32)),
        scales_per_octave: Whole::literal(1),
        aspect_ratios: Lengths::literal(&[1.0]),
        ..AnchorConfig::default()
    };
    let generator = config.init(&STRIDES).unwrap();
    let assigner = AtssConfig::default().init();
    for (place, scene) in scenes.into_iter().enumerate() {
        let anchors = generator.generate(scene.height, scene.width);
        let boxes: Vec<_> = scene.boxes.into_iter().map(BoundingBox::from).collect();
        let assignments = assigner.assign(&anchors, &boxes).into_iter().enumerate();
        let objects: Vec<_> = assignments
            .filter_map(|(anchor, assignment)| match assignment {
                Assignment::Object(index) => Some((anchor, index)),
                Assignment::Background | Assignment::Ignored => None,
            })
            .collect();
        assert_eq!(objects, scene.objects, "scene {place}");
    }
}
