//! What a data set holds, in numbers: how many boxes of which classes, sizes and shapes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

use retinanet_boxes::{BoundingBox, ClassList, GroundTruth};
use retinanet_data::{CocoDataset, ImageRecord};
use serde::Serialize;

use crate::coverage::area_class;

const AREAS: [&str; 3] = ["small", "medium", "large"];

/// The most boxes that an image of each bin has, but for the last bin.
const MOST_BOXES: [usize; 7] = [0, 1, 2, 5, 10, 20, 50];
const BOX_COUNTS: [&str; 8] = ["0", "1", "2", "3-5", "6-10", "11-20", "21-50", "51+"];

/// The upper ends of the bins of √area, in pixels; the last bin has none.
const MOST_SIDE: [f64; 7] = [8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
const SIDES: [&str; 8] = ["8", "16", "32", "64", "128", "256", "512", "more"];

/// The octaves of height ÷ width, and the bin of squares among them.
const OCTAVES: [&str; 7] = ["1/8 or less", "1/4", "1/2", "1", "2", "4", "8 or more"];
const SQUARE: f64 = 3.0;

/// How many sizes [`ImageSizes::common`] names.
const COMMON_SIZES: usize = 5;

/// A data set in numbers. Printed, it is for people; serialised, for programs.
///
/// Only what reading has kept counts. Crowds are not boxes: they are counted once, and nowhere else.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DatasetStats {
    /// How many images.
    pub images: usize,
    /// Those of them without boxes, perhaps with crowds.
    pub images_without_boxes: usize,
    /// How many boxes.
    pub boxes: usize,
    /// How many crowds.
    pub crowds: usize,
    /// How many annotations reading has left out; see [`CocoDataset::dropped`].
    pub dropped: usize,
    /// The classes in their order, those without boxes too.
    pub classes: Vec<ClassStats>,
    /// Boxes by COCO's small, medium and large: the box's area, in pixels of the original image,
    /// up to 32², up to 96² or above.
    pub areas: [Bin; 3],
    /// Boxes by √area in pixels of the original image, up to each label.
    pub sides: [Bin; 8],
    /// Images by how many boxes they have.
    pub boxes_per_image: [Bin; 8],
    /// Boxes by height ÷ width, to the nearest power of two: `1/2` is all from 0.354 to 0.707.
    pub aspect_ratios: [Bin; 7],
    /// How large the images are; none if there are none.
    pub image_sizes: Option<ImageSizes>,
}

/// A class in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassStats {
    /// The class's name.
    pub name: String,
    /// How many boxes it has.
    pub boxes: usize,
    /// On how many images.
    pub images: usize,
    /// Its share of all boxes, in `[0, 1]`.
    pub share: f64,
    /// The median of √area of its boxes, in pixels of the original image; none without boxes.
    pub median_side: Option<f64>,
}

/// A bin of a histogram.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bin {
    /// What is in it.
    pub label: &'static str,
    /// How many.
    pub count: usize,
}

/// How large the images are, as the annotations say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImageSizes {
    /// Widths, in pixels.
    pub width: Spread,
    /// Heights, in pixels.
    pub height: Spread,
    /// The most common sizes, at most 5, commonest first.
    pub common: Vec<CommonSize>,
}

/// How far lengths spread.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The least, in pixels.
    pub min: u32,
    /// The median, in pixels; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The greatest, in pixels.
    pub max: u32,
}

/// A size that images have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CommonSize {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// How many images have it.
    pub images: usize,
}

impl DatasetStats {
    /// Counts a data set. No image file is opened.
    pub fn of(dataset: &CocoDataset) -> Self {
        let images = &dataset.images;
        let objects = || images.iter().flat_map(|image| &image.objects);
        let boxes = || images.iter().flat_map(single).map(|object| object.bbox);
        let box_counts = || images.iter().map(|image| single(image).count());
        let all_boxes = boxes().count();
        Self {
            images: images.len(),
            images_without_boxes: box_counts().filter(|count| *count == 0).count(),
            boxes: all_boxes,
            crowds: objects().filter(|object| object.crowd).count(),
            dropped: dataset.dropped.len(),
            classes: class_stats(&dataset.classes, images, all_boxes),
            areas: count(AREAS, boxes().map(|bbox| area_class(&bbox))),
            sides: count(SIDES, boxes().map(|bbox| side_bin(&bbox))),
            boxes_per_image: count(BOX_COUNTS, box_counts().map(box_count_bin)),
            aspect_ratios: count(OCTAVES, boxes().map(|bbox| octave(&bbox))),
            image_sizes: image_sizes(images),
        }
    }
}

/// The objects of an image that are not crowds.
fn single(image: &ImageRecord) -> impl Iterator<Item = &GroundTruth> {
    image.objects.iter().filter(|object| !object.crowd)
}

fn class_stats(classes: &ClassList, images: &[ImageRecord], all_boxes: usize) -> Vec<ClassStats> {
    // Of each class how many images have it, and the sides of its boxes.
    let mut found = vec![(0, Vec::new()); classes.len()];
    for image in images {
        let mut seen = HashSet::new();
        for object in single(image) {
            let class = object.class.index();
            if let Some((images, sides)) = found.get_mut(class) {
                *images += usize::from(seen.insert(class));
                sides.push(f64::from(object.bbox.area()).sqrt());
            }
        }
    }
    let named = classes.iter().zip(found);
    let used = named.filter(|((id, _), _)| !classes.is_unused(*id));
    used.map(|((_, class), (images, mut sides))| ClassStats {
        name: class.name.clone(),
        boxes: sides.len(),
        images,
        share: sides.len() as f64 / all_boxes.max(1) as f64,
        median_side: median(&mut sides),
    })
    .collect()
}

/// The middle number, or the mean of the two in the middle.
fn median(numbers: &mut [f64]) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    let last = numbers.len().checked_sub(1)?;
    Some(f64::midpoint(numbers[last / 2], numbers[last.div_ceil(2)]))
}

fn count<const N: usize>(labels: [&'static str; N], bins: impl Iterator<Item = usize>) -> [Bin; N] {
    let mut counted = labels.map(|label| Bin { label, count: 0 });
    for bin in bins {
        counted[bin].count += 1;
    }
    counted
}

fn box_count_bin(boxes: usize) -> usize {
    MOST_BOXES.partition_point(|most| *most < boxes)
}

fn side_bin(bbox: &BoundingBox) -> usize {
    let side = f64::from(bbox.area()).sqrt();
    MOST_SIDE.partition_point(|most| *most < side)
}

fn octave(bbox: &BoundingBox) -> usize {
    let ratio = f64::from(bbox.height()) / f64::from(bbox.width());
    (ratio.log2().round() + SQUARE).clamp(0.0, 2.0 * SQUARE) as usize
}

fn image_sizes(images: &[ImageRecord]) -> Option<ImageSizes> {
    let mut sizes: BTreeMap<(u32, u32), usize> = BTreeMap::new();
    for image in images {
        *sizes.entry((image.width, image.height)).or_default() += 1;
    }
    let mut common: Vec<_> = sizes
        .into_iter()
        .map(|((width, height), images)| CommonSize {
            width,
            height,
            images,
        })
        .collect();
    // Stable, so among equals the smaller comes first.
    common.sort_by_key(|size| Reverse(size.images));
    common.truncate(COMMON_SIZES);
    Some(ImageSizes {
        width: spread(images.iter().map(|image| image.width))?,
        height: spread(images.iter().map(|image| image.height))?,
        common,
    })
}

fn spread(lengths: impl Iterator<Item = u32> + Clone) -> Option<Spread> {
    let mut numbers: Vec<_> = lengths.clone().map(f64::from).collect();
    Some(Spread {
        min: lengths.clone().min()?,
        median: median(&mut numbers)?,
        max: lengths.max()?,
    })
}

impl fmt::Display for DatasetStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, number) in [
            ("images", self.images),
            ("  without boxes", self.images_without_boxes),
            ("boxes", self.boxes),
            ("crowds", self.crowds),
            ("left out by reading", self.dropped),
        ] {
            writeln!(f, "{name:19}  {number:>7}")?;
        }
        writeln!(f)?;
        class_table(f, &self.classes)?;
        histogram(f, "boxes by area (to 32², to 96², above)", &self.areas)?;
        histogram(f, "boxes by √area in pixels, up to", &self.sides)?;
        histogram(f, "images by number of boxes", &self.boxes_per_image)?;
        histogram(f, "boxes by height ÷ width, nearest", &self.aspect_ratios)?;
        match &self.image_sizes {
            Some(sizes) => size_tables(f, sizes),
            None => Ok(()),
        }
    }
}

fn class_table(f: &mut fmt::Formatter<'_>, classes: &[ClassStats]) -> fmt::Result {
    let width = widest(classes.iter().map(|class| class.name.as_str()), "class");
    writeln!(
        f,
        "{:width$}  {:>7}  {:>6}  {:>7}  {:>14}",
        "class", "boxes", "share", "images", "median √area"
    )?;
    for class in classes {
        let side = class.median_side;
        writeln!(
            f,
            "{:width$}  {:>7}  {:>5.1}%  {:>7}  {:>14}",
            class.name,
            class.boxes,
            100.0 * class.share,
            class.images,
            side.map_or("-".into(), |side| format!("{side:.1} px")),
        )?;
    }
    Ok(())
}

fn histogram(f: &mut fmt::Formatter<'_>, title: &str, bins: &[Bin]) -> fmt::Result {
    let width = widest(bins.iter().map(|bin| bin.label), "");
    let largest = bins.iter().map(|bin| bin.count).max().unwrap_or(0).max(1);
    writeln!(f, "\n{title}")?;
    for Bin { label, count } in bins {
        // Without a bar there must be no spaces at the end of the line.
        let bar = "#".repeat((40 * count).div_ceil(largest));
        let line = format!("{label:width$}  {count:>7}  {bar}");
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

fn size_tables(f: &mut fmt::Formatter<'_>, sizes: &ImageSizes) -> fmt::Result {
    writeln!(
        f,
        "\n{:10}  {:>7}  {:>7}  {:>7}",
        "image size", "min", "median", "max"
    )?;
    for (name, Spread { min, median, max }) in [("width", &sizes.width), ("height", &sizes.height)]
    {
        writeln!(f, "{name:10}  {min:>7}  {median:>7}  {max:>7}")?;
    }
    writeln!(f, "\nmost common sizes")?;
    let name = |size: &CommonSize| format!("{}×{}", size.width, size.height);
    let names: Vec<_> = sizes.common.iter().map(name).collect();
    let width = widest(names.iter().map(String::as_str), "");
    for (name, size) in names.iter().zip(&sizes.common) {
        writeln!(f, "{name:width$}  {:>7}", size.images)?;
    }
    Ok(())
}

/// The width of a column, in characters.
fn widest<'a>(names: impl Iterator<Item = &'a str>, title: &str) -> usize {
    let widths = names.map(|name| name.chars().count());
    widths.fold(title.chars().count(), usize::max)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use retinanet_boxes::{CategoryId, Class, ClassId, ImageId};
    use retinanet_data::{DropReason, Dropped};
    use retinanet_images::Decoding;

    use super::*;
    use crate::shared::shared_data;

    fn dataset(images: Vec<ImageRecord>) -> CocoDataset {
        let class = |(category, name): (u64, &str)| Class::new(CategoryId(category), name);
        let classes = [(1, "cat"), (2, "Wärmflasche"), (3, "yak")].map(class);
        CocoDataset {
            decoding: Decoding::default(),
            is_annotated: true,
            annotations: "train.json".into(),
            images_root: "images".into(),
            classes: ClassList::new(classes.to_vec()).expect("no id occurs twice"),
            images,
            dropped: Vec::new(),
        }
    }

    fn image(width: u32, height: u32, objects: Vec<GroundTruth>) -> ImageRecord {
        ImageRecord {
            id: ImageId(0),
            file_name: "a.png".into(),
            path: "images/a.png".into(),
            width,
            height,
            objects,
            outlines: Vec::new(),
        }
    }

    fn object(class: u32, width: f32, height: f32) -> GroundTruth {
        GroundTruth {
            bbox: BoundingBox::new(5.0, 5.0, 5.0 + width, 5.0 + height),
            class: ClassId(class),
            crowd: false,
        }
    }

    /// Five images, six boxes, a crowd and an annotation that was left out.
    fn small() -> CocoDataset {
        let crowd = GroundTruth {
            crowd: true,
            ..object(2, 100.0, 100.0)
        };
        let mut dataset = dataset(vec![
            image(640, 480, vec![object(0, 32.0, 32.0), object(0, 96.0, 96.0)]),
            image(
                480,
                640,
                vec![object(0, 10.0, 40.0), object(1, 300.0, 75.0), crowd],
            ),
            image(640, 480, vec![crowd]),
            image(100, 50, vec![]),
            image(640, 480, vec![object(0, 33.0, 32.0), object(0, 2.0, 200.0)]),
        ]);
        dataset.dropped = vec![Dropped {
            annotation: 1,
            image: ImageId(0),
            reason: DropReason::NoBox,
        }];
        dataset
    }

    fn counts(bins: &[Bin]) -> Vec<usize> {
        bins.iter().map(|bin| bin.count).collect()
    }

    #[test]
    fn the_numbers_are_those_worked_by_hand() {
        let stats = DatasetStats::of(&small());
        assert_eq!((stats.images, stats.images_without_boxes), (5, 2));
        assert_eq!((stats.boxes, stats.crowds, stats.dropped), (6, 2, 1));

        // Sides of cats: 20, 20, 32, √1056 and 96.
        let [cat, bottle, yak] = &stats.classes[..] else {
            panic!("three classes: {stats:?}");
        };
        assert_eq!((cat.boxes, cat.images, cat.share), (5, 2 + 1, 5.0 / 6.0));
        assert_eq!(cat.median_side, Some(32.0));
        assert_eq!((bottle.boxes, bottle.images), (1, 1));
        assert_eq!(bottle.median_side, Some(150.0));
        assert_eq!((yak.boxes, yak.images, yak.share), (0, 0, 0.0));
        assert_eq!(yak.median_side, None);

        // 32² is small and 96² is medium yet.
        assert_eq!(counts(&stats.areas), [3, 2, 1]);
        // Sides are 20, 20, 32, √1056, 96 and 150.
        assert_eq!(counts(&stats.sides), [0, 0, 3, 1, 1, 1, 0, 0]);
        assert_eq!(counts(&stats.boxes_per_image), [2, 0, 3, 0, 0, 0, 0, 0]);
        assert_eq!(counts(&stats.aspect_ratios), [0, 1, 0, 3, 0, 1, 1]);

        let sizes = stats.image_sizes.expect("there are images");
        let spread = |it: &Spread| (it.min, it.median, it.max);
        assert_eq!(spread(&sizes.width), (100, 640.0, 640));
        assert_eq!(spread(&sizes.height), (50, 480.0, 640));
        let common: Vec<_> = (sizes.common.iter())
            .map(|size| (size.width, size.height, size.images))
            .collect();
        assert_eq!(common, [(640, 480, 3), (100, 50, 1), (480, 640, 1)]);
    }

    #[test]
    fn bins_begin_where_their_labels_say() {
        let bins = [0, 1, 2, 3, 5, 6, 10, 11, 20, 21, 50, 51, 1000].map(box_count_bin);
        assert_eq!(bins, [0, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]);
        let octaves = [1.0, 11.0, 12.0, 35.0, 36.0, 70.0, 71.0, 141.0, 142.0, 1e9]
            .map(|height| octave(&object(0, 100.0, height).bbox));
        assert_eq!(octaves, [0, 0, 0, 1, 2, 2, 3, 3, 4, 6]);
    }

    #[test]
    fn the_columns_stand_below_each_other() {
        let expected = "\
images                     5
  without boxes            2
boxes                      6
crowds                     2
left out by reading        1

class          boxes   share   images    median √area
cat                5   83.3%        3         32.0 px
Wärmflasche        1   16.7%        1        150.0 px
yak                0    0.0%        0               -

boxes by area (to 32², to 96², above)
small         3  ########################################
medium        2  ###########################
large         1  ##############

boxes by √area in pixels, up to
8           0
16          0
32          3  ########################################
64          1  ##############
128         1  ##############
256         1  ##############
512         0
more        0

images by number of boxes
0            2  ###########################
1            0
2            3  ########################################
3-5          0
6-10         0
11-20        0
21-50        0
51+          0

boxes by height ÷ width, nearest
1/8 or less        0
1/4                1  ##############
1/2                0
1                  3  ########################################
2                  0
4                  1  ##############
8 or more          1  ##############

image size      min   median      max
width           100      640      640
height           50      480      640

most common sizes
640×480        3
100×50         1
480×640        1
";
        assert_eq!(DatasetStats::of(&small()).to_string(), expected);
    }

    #[test]
    fn nothing_is_no_reason_to_stop() {
        let stats = DatasetStats::of(&dataset(Vec::new()));
        assert_eq!((stats.images, stats.image_sizes.as_ref()), (0, None));
        assert!(stats.classes.iter().all(|class| class.share == 0.0));
        assert!(stats.to_string().contains("yak                0    0.0%"));
    }

    #[test]
    fn the_totals_of_bccd_are_those_of_the_file() {
        let Some(folder) = shared_data("bccd") else {
            return;
        };
        let read = CocoDataset::read(&folder.join("train.json"), Path::new("images"));
        let stats = DatasetStats::of(&read.expect("BCCD is COCO"));
        assert_eq!((stats.images, stats.boxes, stats.crowds), (205, 2804, 0));
        assert_eq!((stats.classes.len(), stats.dropped), (3, 0));
        for class in &stats.classes {
            assert!(class.boxes >= class.images && class.images > 0, "{class:?}");
        }
        let json = serde_json::to_value(&stats).expect("plain numbers");
        assert_eq!(json["image_sizes"]["common"][0]["images"], 205);
    }

    proptest! {
        #[test]
        fn every_image_and_box_is_counted_once(
            objects in prop::collection::vec(
                prop::collection::vec((0_u32..3, 0.01_f32..500.0, 0.01_f32..500.0), 0..60),
                0..12,
            ),
        ) {
            let images = objects.iter().map(|objects| {
                let objects = objects.iter().map(|&(class, w, h)| object(class, w, h));
                image(640, 480, objects.collect())
            });
            let stats = DatasetStats::of(&dataset(images.collect()));
            let boxes = objects.iter().map(Vec::len).sum::<usize>();
            let sum = |bins: &[Bin]| counts(bins).iter().sum::<usize>();
            prop_assert_eq!(stats.boxes, boxes);
            prop_assert_eq!(stats.classes.iter().map(|class| class.boxes).sum::<usize>(), boxes);
            prop_assert_eq!(sum(&stats.areas), boxes);
            prop_assert_eq!(sum(&stats.sides), boxes);
            prop_assert_eq!(sum(&stats.aspect_ratios), boxes);
            prop_assert_eq!(sum(&stats.boxes_per_image), objects.len());
            prop_assert_eq!(stats.boxes_per_image[0].count, stats.images_without_boxes);
        }
    }
}
