//! How well a model's anchors cover the boxes of a data set.

use std::collections::BTreeMap;
use std::fmt;

use rayon::prelude::*;
use retinanet_anchors::{AnchorGenerator, Assigner, Assignment};
use retinanet_boxes::BoundingBox;
use retinanet_data::{CocoDataset, ImageRecord, Transform};
use serde::Serialize;

/// Bounds of COCO's small, medium and large, in square pixels of the original image.
const SMALL: f32 = 32.0 * 32.0;
const MEDIUM: f32 = 96.0 * 96.0;

/// Bars of the histogram of overlaps.
const BARS: usize = 10;

/// What anchors reach of a data set's boxes; crowds do not count.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CoverageReport {
    /// Whether boxes that no anchor overlaps by `foreground` are hardly learnt.
    pub needs_fitting_anchors: bool,
    /// Overlap from which an anchor is an object.
    pub foreground: f32,
    /// Overlap below which an anchor is background.
    pub background: f32,
    /// All boxes.
    pub all: Coverage,
    /// By the class's name, in the order of the classes.
    pub by_class: Vec<(String, Coverage)>,
    /// By COCO's small, medium and large, in pixels of the original image.
    pub by_size: Vec<(String, Coverage)>,
    /// By the level of the best anchor, finest first.
    pub by_level: Vec<(String, Coverage)>,
    /// How many boxes have a best overlap of 0.0 to 0.1, 0.1 to 0.2 and so on.
    pub histogram: [usize; BARS],
}

/// What anchors reach of some boxes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Coverage {
    /// How many boxes.
    pub boxes: usize,
    /// Boxes that anchors were matched to.
    pub matched: usize,
    /// Boxes whose best anchor reaches the foreground's threshold.
    pub foreground: usize,
    /// Boxes whose best anchor reaches the background's threshold.
    pub background: usize,
    /// Sum of the best overlaps.
    pub iou_sum: f64,
    /// Anchors that are objects for these boxes.
    pub positives: usize,
    /// Those of them that are only by low-quality matching.
    pub low_quality: usize,
    /// Boxes without any anchor, where anchors were matched.
    pub missed: usize,
}

impl Coverage {
    /// The share of boxes whose best anchor reaches the foreground's threshold; 1 of none.
    pub fn share_of_foreground(&self) -> f64 {
        share(self.foreground, self.boxes)
    }

    /// The share of boxes whose best anchor reaches the background's threshold; 1 of none.
    pub fn share_of_background(&self) -> f64 {
        share(self.background, self.boxes)
    }

    /// The share of boxes with an anchor that learns them; 1 of none, and nothing where anchors were not matched.
    pub fn share_of_learnt(&self) -> Option<f64> {
        let were_matched = self.matched == self.boxes;
        were_matched.then(|| share(self.boxes - self.missed, self.boxes))
    }

    /// The mean of the best overlaps.
    pub fn mean_iou(&self) -> f64 {
        self.iou_sum / self.boxes.max(1) as f64
    }

    /// What anchors reach of these boxes.
    pub fn of(boxes: &[Covered], assigner: &Assigner) -> Self {
        let mut coverage = Self::default();
        for covered in boxes {
            coverage.add(covered, assigner);
        }
        coverage
    }

    fn add(&mut self, covered: &Covered, assigner: &Assigner) {
        self.boxes += 1;
        self.foreground += usize::from(covered.iou >= assigner.foreground());
        self.background += usize::from(covered.iou >= assigner.background());
        self.iou_sum += f64::from(covered.iou);
        self.positives += covered.positives;
        self.low_quality += covered.low_quality;
        self.matched += usize::from(covered.matched);
        self.missed += usize::from(covered.matched && covered.positives == 0);
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        1.0
    } else {
        part as f64 / whole as f64
    }
}

/// A box and what anchors reach of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Covered {
    /// The box's class, as an index.
    pub class: usize,
    /// The box, in pixels of the original image.
    pub original: BoundingBox,
    /// The box, in pixels of the network's input.
    pub bbox: BoundingBox,
    /// Height and width of that input, padding included.
    pub input: [usize; 2],
    /// The level of the best anchor, counted from the finest.
    pub level: usize,
    /// The best anchor's overlap.
    pub iou: f32,
    /// Whether anchors were matched to it.
    pub matched: bool,
    /// Anchors that are objects for it; 0 where they were not matched.
    pub positives: usize,
    /// Those of them that are only by low-quality matching.
    pub low_quality: usize,
}

/// How far [`CoverageReport::new`] looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The best anchor of each box only, which takes no time.
    Reach,
    /// Which anchors become objects too.
    Match,
}

impl CoverageReport {
    /// Looks at all boxes of a data set, at the size that images have outside training.
    pub fn new(
        dataset: &CocoDataset,
        transform: &Transform,
        generator: &AnchorGenerator,
        assigner: &Assigner,
        depth: Depth,
    ) -> Self {
        let covered = cover(dataset, transform, generator, assigner, depth);
        let group = |key: &dyn Fn(&Covered) -> usize, names: Vec<String>| {
            let mut groups: BTreeMap<usize, Coverage> = BTreeMap::new();
            for covered in &covered {
                groups
                    .entry(key(covered))
                    .or_default()
                    .add(covered, assigner);
            }
            let named = names.into_iter().enumerate();
            named
                .filter_map(|(index, name)| Some((name, groups.remove(&index)?)))
                .collect()
        };
        let classes = dataset.classes.iter();
        let classes = classes.map(|(_, class)| class.name.clone()).collect();
        let sizes = ["small", "medium", "large"].map(str::to_owned).to_vec();
        let strides = generator.strides().iter();
        let levels = strides.map(|stride| format!("stride {stride}")).collect();
        let mut histogram = [0; BARS];
        for covered in &covered {
            let bar = (covered.iou * BARS as f32) as usize;
            histogram[bar.min(BARS - 1)] += 1;
        }
        Self {
            needs_fitting_anchors: assigner.needs_fitting_anchors(),
            foreground: assigner.foreground(),
            background: assigner.background(),
            all: Coverage::of(&covered, assigner),
            by_class: group(&|covered| covered.class, classes),
            by_size: group(&|covered| area_class(&covered.original), sizes),
            by_level: group(&|covered| covered.level, levels),
            histogram,
        }
    }
}

/// What anchors reach of each box, image by image.
pub fn cover(
    dataset: &CocoDataset,
    transform: &Transform,
    generator: &AnchorGenerator,
    assigner: &Assigner,
    depth: Depth,
) -> Vec<Covered> {
    let images = dataset.images.par_iter();
    let covered =
        images.flat_map_iter(|image| cover_image(image, transform, generator, assigner, depth));
    covered.collect()
}

/// What anchors reach of each box of an image.
pub fn cover_image(
    image: &ImageRecord,
    transform: &Transform,
    generator: &AnchorGenerator,
    assigner: &Assigner,
    depth: Depth,
) -> Vec<Covered> {
    let mut covered = reach_all(image, transform, generator);
    if depth == Depth::Reach || covered.is_empty() {
        return covered;
    }
    for covered in &mut covered {
        covered.matched = true;
    }
    let foreground = assigner.foreground();
    let boxes: Vec<_> = covered.iter().map(|covered| covered.bbox).collect();
    let (height, width) = padded_size(image, transform);
    let anchors = generator.generate(height, width);
    for (anchor, assignment) in anchors.iter().zip(assigner.assign(&anchors, &boxes)) {
        if let Assignment::Object(index) = assignment {
            let low_quality = boxes.iter().all(|bbox| anchor.iou(bbox) < foreground);
            covered[index].positives += 1;
            covered[index].low_quality += usize::from(low_quality);
        }
    }
    covered
}

/// The boxes of an image with their best anchors.
fn reach_all(
    image: &ImageRecord,
    transform: &Transform,
    generator: &AnchorGenerator,
) -> Vec<Covered> {
    let (height, width) = padded_size(image, transform);
    let single = image.objects.iter().filter(|object| !object.crowd);
    single
        .filter_map(|object| {
            let bbox = transform
                .preparation()
                .place(object.bbox, (image.width, image.height));
            let reach = generator.best_overlap(height, width, &bbox);
            bbox.is_proper().then_some(Covered {
                class: object.class.index(),
                original: object.bbox,
                bbox,
                input: [height, width],
                level: reach.level,
                iou: reach.iou,
                matched: false,
                positives: 0,
                low_quality: 0,
            })
        })
        .collect()
}

fn padded_size(image: &ImageRecord, transform: &Transform) -> (usize, usize) {
    let preparation = transform.preparation();
    preparation.padded_size([preparation.resized_size(image.size())])
}

/// 0, 1 or 2 for COCO's small, medium and large.
pub(crate) fn area_class(bbox: &BoundingBox) -> usize {
    let area = bbox.area();
    usize::from(area > SMALL) + usize::from(area > MEDIUM)
}

impl fmt::Display for CoverageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widest = |rows: &[(String, Coverage)]| rows.iter().map(|(name, _)| name.len()).max();
        let groups = [&self.by_class, &self.by_size, &self.by_level];
        let width = groups.iter().filter_map(|rows| widest(rows)).max();
        let width = width.unwrap_or(0).max(5);
        writeln!(
            f,
            "{:width$}  {:>7}  {:>8}  {:>8}  {:>8}  {:>9}  {:>11}  {:>6}",
            "boxes",
            "number",
            format!("IoU {}", self.foreground),
            format!("IoU {}", self.background),
            "mean IoU",
            "positives",
            "low quality",
            "missed"
        )?;
        row(f, width, "all", &self.all)?;
        for group in groups {
            writeln!(f)?;
            for (name, coverage) in group {
                row(f, width, name, coverage)?;
            }
        }
        writeln!(f, "\nbest IoU of a box")?;
        let largest = self.histogram.iter().max().copied().unwrap_or(0).max(1);
        for (bar, count) in self.histogram.iter().enumerate() {
            let length = (40 * count).div_ceil(largest);
            let (from, to) = (bar as f32 / BARS as f32, (bar + 1) as f32 / BARS as f32);
            writeln!(
                f,
                "{from:.1} to {to:.1}  {count:>7}  {}",
                "#".repeat(length)
            )?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, width: usize, name: &str, coverage: &Coverage) -> fmt::Result {
    let boxes = coverage.boxes.max(1) as f64;
    writeln!(
        f,
        "{name:width$}  {:>7}  {:>7.1}%  {:>7.1}%  {:>8.3}  {:>9.2}  {:>11.2}  {:>6}",
        coverage.boxes,
        100.0 * coverage.share_of_foreground(),
        100.0 * coverage.share_of_background(),
        coverage.mean_iou(),
        coverage.positives as f64 / boxes,
        coverage.low_quality as f64 / boxes,
        coverage.missed,
    )
}

#[cfg(test)]
mod tests {
    use retinanet_anchors::{AnchorConfig, AssignerKind, MaxIouConfig};

    use super::*;
    use crate::shared::shared_data;
    use retinanet_data::{ReadOptions, ResizeConfig, ShortSides, TransformConfig};
    use retinanet_images::Side;

    #[test]
    fn boxes_that_no_anchor_learns_are_none_learnt_and_unmatched_ones_say_nothing() {
        let assigner = AssignerKind::MaxIou(MaxIouConfig::default())
            .init()
            .unwrap();
        let learnt = |matched, positives| {
            let bbox = BoundingBox::new(0.0, 0.0, 2.0, 2.0);
            let covered = Covered {
                class: 0,
                original: bbox,
                bbox,
                input: [64, 64],
                level: 0,
                iou: 0.01,
                matched,
                positives,
                low_quality: 0,
            };
            Coverage::of(&[covered.clone(), covered], &assigner).share_of_learnt()
        };
        assert_eq!(learnt(true, 0), Some(0.0));
        assert_eq!(learnt(true, 3), Some(1.0));
        assert_eq!(learnt(false, 0), None);
        assert_eq!(Coverage::default().share_of_learnt(), Some(1.0));
    }

    /// The definition: every box against every anchor.
    fn dense(
        image: &ImageRecord,
        transform: &Transform,
        generator: &AnchorGenerator,
        config: &MaxIouConfig,
    ) -> Vec<(f32, usize, usize)> {
        let (height, width) = padded_size(image, transform);
        let anchors = generator.generate(height, width);
        let single = image.objects.iter().filter(|object| !object.crowd);
        let size = (image.width, image.height);
        let boxes: Vec<_> = single
            .map(|object| transform.preparation().place(object.bbox, size))
            .filter(BoundingBox::is_proper)
            .collect();
        let highest = |bbox: &BoundingBox| {
            let ious = anchors.iter().map(|anchor| anchor.iou(bbox));
            ious.fold(0.0, f32::max)
        };
        let best: Vec<f32> = boxes.iter().map(highest).collect();
        let foreground = config.foreground.as_f32();
        let mut found: Vec<_> = best.iter().map(|iou| (*iou, 0, 0)).collect();
        for anchor in anchors.iter() {
            let ious: Vec<f32> = boxes.iter().map(|bbox| anchor.iou(bbox)).collect();
            let own = ious.iter().copied().fold(0.0, f32::max);
            let chosen = ious
                .iter()
                .zip(&best)
                .any(|(iou, best)| iou == best && *best > 0.0);
            if own >= foreground || chosen {
                let first = ious.iter().position(|iou| *iou == own);
                let (_, positives, low_quality) = &mut found[first.unwrap()];
                *positives += 1;
                *low_quality += usize::from(own < foreground);
            }
        }
        found
    }

    #[test]
    fn the_report_agrees_with_a_dense_calculation_to_the_last_box() {
        for (name, expected) in [("bccd", 2_500), ("coco_free", 500)] {
            let Some(folder) = shared_data(name) else {
                return;
            };
            let options = ReadOptions::default();
            let images = folder.join("images");
            let dataset =
                CocoDataset::read_with(&folder.join("train.json"), &images, options).unwrap();
            // Small, so that a dense calculation ends soon.
            let config = TransformConfig {
                resize: ResizeConfig {
                    short_side: ShortSides::literal(&[200]),
                    long_side: Side::literal(333),
                    ..ResizeConfig::default()
                },
                ..TransformConfig::default()
            };
            let transform = Transform::new(&config, None).unwrap();
            let generator = AnchorConfig::default().init(&[8, 16, 32, 64, 128]).unwrap();
            let config = MaxIouConfig::default();
            let assigner = AssignerKind::MaxIou(config).init().unwrap();

            let found = cover(&dataset, &transform, &generator, &assigner, Depth::Match);
            let dense: Vec<_> = dataset
                .images
                .par_iter()
                .flat_map_iter(|image| dense(image, &transform, &generator, &config))
                .collect();
            assert_eq!(found.len(), dense.len(), "{name}");
            for (found, (iou, positives, low_quality)) in found.iter().zip(&dense) {
                // Far from the origin edges round otherwise.
                assert!(
                    (found.iou - iou).abs() < 1e-6,
                    "{name}: {found:?}, not {iou}"
                );
                let anchors = (found.positives, found.low_quality);
                assert_eq!(anchors, (*positives, *low_quality), "{name}: {found:?}");
            }
            assert!(dense.len() > expected, "{name}: {} boxes", dense.len());

            let report =
                CoverageReport::new(&dataset, &transform, &generator, &assigner, Depth::Match);
            assert_eq!(report.all.boxes, dense.len());
            for group in [&report.by_class, &report.by_size, &report.by_level] {
                let sum = |count: fn(&Coverage) -> usize| -> usize {
                    group.iter().map(|(_, coverage)| count(coverage)).sum()
                };
                assert_eq!(sum(|it| it.boxes), report.all.boxes);
                assert_eq!(sum(|it| it.foreground), report.all.foreground);
                assert_eq!(sum(|it| it.positives), report.all.positives);
            }
            assert_eq!(report.histogram.iter().sum::<usize>(), report.all.boxes);
        }
    }
}
