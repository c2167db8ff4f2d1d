use std::collections::HashSet;
use std::path::PathBuf;

use image::{Rgb, RgbImage};
use retinanet_anchors::{AnchorConfig, AssignerConfig, BoxCoder};
use retinanet_boxes::BoundingBox;
use retinanet_images::{
    ChannelMean, ChannelOrder, ChannelStd, Decoding, PaddingConfig, PixelForm, Side, TestTimeView,
    decode_image, prepare_views,
};
use retinanet_settings::{PositiveShare, Share, Whole};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{ShortSides, TransformConfig};

/// Grey levels after a normalisation that changes nothing.
const WHITE: f32 = 255.0;
const GREY: f32 = 100.0;

/// Images of different shapes, each grey with one white rectangle.
struct Fixture {
    folder: TempDir,
    dataset: Arc<CocoDataset>,
}

impl Fixture {
    fn new(images: u32) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let (mut records, mut annotations) = (Vec::new(), Vec::new());
        for id in 0..images {
            let (width, height) = (40 + 6 * (id % 5), 64 - 5 * (id % 4));
            let [x, y, w, h] = [3 + id % 7, 8, 20, 24 + id % 3];
            let name = format!("{id}.png");
            RgbImage::from_fn(width, height, |column, row| {
                let inside = (x..x + w).contains(&column) && (y..y + h).contains(&row);
                Rgb(if inside { [255; 3] } else { [100; 3] })
            })
            .save(folder.path().join(&name))
            .expect("the folder is ours");
            records.push(json!({"id": id, "file_name": name, "width": width, "height": height}));
            annotations
                .push(json!({"id": id, "image_id": id, "category_id": 1, "bbox": [x, y, w, h]}));
        }
        let file = json!({
            "images": records,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "rectangle"}],
        });
        let annotations = folder.path().join("train.json");
        fs_err::write(&annotations, file.to_string()).expect("the folder is ours");
        let dataset = CocoDataset::read(&annotations, folder.path()).expect("the file is sound");
        Self {
            folder,
            dataset: Arc::new(dataset),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn train(&self, config: Loading) -> TrainLoader {
        self.train_as(config, &settings())
            .expect("the settings are in range")
    }

    fn train_as(
        &self,
        (config, batch_size): Loading,
        settings: &TransformConfig,
    ) -> Result<TrainLoader, DataError> {
        let assigner = TargetAssigner::new(&AssignerConfig::default(), BoxCoder::default());
        TrainLoader::new(
            Arc::clone(&self.dataset),
            config,
            Batching::of(batch_size),
            Transform::new(settings, None)?,
            generator(),
            assigner?,
        )
    }

    fn eval(&self, (config, batch_size): Loading) -> EvalLoader {
        EvalLoader::new(
            Arc::clone(&self.dataset),
            config,
            batch_size,
            transform(),
            generator(),
            None,
        )
        .expect("the settings are in range")
    }
}

fn settings() -> TransformConfig {
    let mut config = TransformConfig::default();
    config.resize.short_side = ShortSides::literal(&[48, 64, 80]);
    config.resize.long_side = Side::literal(100);
    config.normalization.mean = [ChannelMean::literal(0.0); 3];
    config.normalization.std = [ChannelStd::literal(1.0); 3];
    config
}

fn padding(shapes: &[[u64; 2]]) -> PaddingConfig {
    let shapes = shapes.iter().map(|shape| shape.map(Side::literal));
    PaddingConfig {
        batch_shapes: shapes.collect(),
        ..PaddingConfig::default()
    }
}

fn transform() -> Transform {
    Transform::new(&settings(), None).expect("the settings are in range")
}

fn generator() -> AnchorGenerator {
    AnchorConfig::default()
        .init(&[8, 16, 32, 64, 128])
        .expect("defaults")
}

/// A loader's settings, and its batch size.
type Loading = (LoaderConfig, Count);

fn config(batch_size: u64, workers: u64) -> Loading {
    let config = LoaderConfig {
        workers: Whole::literal(workers),
        ..LoaderConfig::default()
    };
    (config, Count::literal(batch_size))
}

fn all(batches: BatchIter) -> Vec<Batch> {
    batches
        .collect::<Result<_, _>>()
        .expect("the images are sound")
}

#[test]
fn the_number_of_workers_changes_nothing() {
    let fixture = Fixture::new(5);
    let train = all(fixture.train(config(3, 0)).start(0, 6));
    let eval = all(fixture.eval(config(3, 0)).start());
    for workers in 1..4 {
        let config = config(3, workers);
        assert!(
            all(fixture.train(config).start(0, 6)) == train,
            "{workers} workers"
        );
        assert!(
            all(fixture.eval(config).start()) == eval,
            "{workers} workers"
        );
    }
}

/// Everything that training images can be done to.
fn varied() -> TransformConfig {
    let mut config = settings();
    let augment = &mut config.augment;
    augment.vertical_flip = Share::literal(0.5);
    augment.crop.probability = Share::literal(0.5);
    augment.jitter.probability = Share::literal(0.3);
    augment.jitter.size = [96, 64].map(Side::literal);
    augment.photometric.probability = Share::literal(0.5);
    augment.mosaic.probability = Share::literal(0.3);
    augment.mixup.probability = Share::literal(0.3);
    config
}

#[test]
fn neither_workers_nor_a_cache_change_varied_batches() -> Result<(), DataError> {
    let fixture = Fixture::new(6);
    let load = |workers, cache_mib| {
        let (mut config, batch_size) = config(4, workers);
        config.cache_mib = Whole::literal(cache_mib);
        let config = (config, batch_size);
        Ok::<_, DataError>(all(fixture.train_as(config, &varied())?.start(0, 20)))
    };
    let alone = load(0, 0)?;
    // An image takes 40 · 64 · 3 bytes or so: the second cache holds a few, the third all.
    for (workers, cache_mib) in [(1, 0), (2, 1), (8, 1000)] {
        assert!(load(workers, cache_mib)? == alone, "{workers} workers");
    }
    Ok(())
}

#[test]
fn a_single_sample_is_the_one_that_training_sees() -> Result<(), DataError> {
    let fixture = Fixture::new(6);
    let loader = fixture.train_as(config(1, 2), &varied())?;
    for (iteration, batch) in (0..12).zip(all(loader.start(0, 12))) {
        let again = loader.sample(batch.items[0].index, iteration / 6)?;
        assert!(again == batch, "{iteration}");
    }
    Ok(())
}

#[test]
fn batches_have_the_shapes_that_are_given() -> Result<(), DataError> {
    let fixture = Fixture::new(6);
    let mut settings = settings();
    settings.padding = padding(&[[128, 128], [64, 64], [96, 96]]);
    let mut seen = HashSet::new();
    for batch in all(fixture.train_as(config(1, 2), &settings)?.start(0, 20)) {
        assert!(
            (settings.padding.batch_shapes)
                .contains(&[batch.width, batch.height].map(|side| Side::literal(side as u64)))
        );
        seen.insert((batch.width, batch.height));
    }
    assert!(seen.len() > 1, "{seen:?}");
    settings.padding = padding(&[[96, 96]]);
    let error = fixture
        .train_as(config(2, 2), &settings)
        .expect_err("the longer side is 100");
    assert!(error.to_string().starts_with("`batch_shapes`"), "{error}");
    Ok(())
}

/// Undoing the normalisation gives the pixels back; what is shown of an image that was neither
/// resized nor mirrored is the file.
#[test]
fn a_picture_of_a_batch_is_what_the_network_sees() -> Result<(), DataError> {
    let fixture = Fixture::new(1);
    let mut config = TransformConfig::default();
    config.resize.short_side = ShortSides::literal(&[40]);
    config.normalization.channels = ChannelOrder::Bgr;
    let transform = Transform::new(&config, None)?;
    let preparation = transform.preparation().clone();
    let dataset = Arc::clone(&fixture.dataset);
    let (config, batch_size) = self::config(1, 0);
    let batch =
        EvalLoader::new(dataset, config, batch_size, transform, generator(), None)?.sample(0)?;
    let file = image::open(fixture.path("0.png"))
        .expect("it is sound")
        .into_rgb8();
    assert_eq!(batch.picture(0, &preparation), file);
    Ok(())
}

#[test]
fn resuming_gives_the_tail() {
    let fixture = Fixture::new(5);
    let loader = fixture.train(config(3, 2));
    let whole = all(loader.start(0, 8));
    for first in [1, 4, 8] {
        let tail = all(loader.start(first, 8));
        assert!(tail == whole[first as usize..], "from {first}");
    }
}

#[test]
fn batches_are_full_even_beyond_the_data_set() {
    let fixture = Fixture::new(3);
    let batches = all(fixture.train(config(7, 1)).start(0, 3));
    for epoch in batches
        .iter()
        .flat_map(|batch| &batch.items)
        .collect::<Vec<_>>()
        .chunks_exact(3)
    {
        let mut indices: Vec<_> = epoch.iter().map(|item| item.index).collect();
        indices.sort_unstable();
        assert_eq!(indices, [0, 1, 2]);
    }
    assert!(batches.iter().all(|batch| batch.items.len() == 7));
}

#[test]
fn batches_are_of_one_orientation() {
    let fixture = Fixture::new(12);
    let mut wide = HashSet::new();
    for batch in all(fixture.train(config(3, 2)).start(0, 8)) {
        let shapes: HashSet<_> = (batch.items.iter())
            .map(|item| &fixture.dataset.images[item.index])
            .map(|image| image.width > image.height)
            .collect();
        assert_eq!(shapes.len(), 1);
        wide.extend(shapes);
    }
    assert_eq!(wide.len(), 2);
}

#[test]
fn repeats_of_an_image_vary() {
    let mut fixture = Fixture::new(4);
    let mut dataset = CocoDataset::clone(&fixture.dataset);
    for image in &mut dataset.images[1..] {
        image.objects.clear();
    }
    fixture.dataset = Arc::new(dataset);
    let (mut config, batch_size) = config(1, 0);
    config.group_by_aspect = false;
    config.repeat_threshold = Some(PositiveShare::literal(1.0));
    let loader = fixture.train((config, batch_size));
    // One image of four has the class: sqrt(1 / 0.25) = 2 for it, and 1 for the others.
    assert_eq!(loader.samples_per_epoch(), 5);
    let mut varied = false;
    for epoch in all(loader.start(0, 40)).chunks_exact(5) {
        let views: Vec<_> = (epoch.iter())
            .map(|batch| &batch.items[0])
            .filter(|item| item.index == 0)
            .map(|item| (item.objects.clone(), item.resized_size))
            .collect();
        assert_eq!(views.len(), 2);
        varied |= views[0] != views[1];
    }
    assert!(varied);
}

/// The white rectangle must be where the box says, whatever was done to the image, and nothing but
/// 0 beyond the image.
#[test]
fn boxes_stay_on_their_objects_and_padding_is_zero() {
    let fixture = Fixture::new(6);
    let mut views = HashSet::new();
    for batch in all(fixture.train(config(4, 2)).start(0, 12)) {
        let plane = batch.height * batch.width;
        assert_eq!((batch.height % 32, batch.width % 32), (0, 0));
        let numbers = batch.images.numbers();
        assert_eq!(numbers.len(), batch.items.len() * 3 * plane);
        for (item, planes) in batch.items.iter().zip(numbers.chunks_exact(3 * plane)) {
            let (width, height) = item.resized_size;
            let bbox = item.objects[0].bbox;
            // Every rectangle stands left of the middle, unless mirrored.
            views.insert((bbox.x1 + bbox.x2 > width as f32, width.min(height)));
            for (place, &value) in planes.iter().enumerate() {
                let (row, column) = (place % plane / batch.width, place % batch.width);
                let (x, y) = (column as f32 + 0.5, row as f32 + 0.5);
                if column >= width as usize || row >= height as usize {
                    assert_eq!(value.to_bits(), 0, "padding at {x}, {y}: {value}");
                } else if inset(&bbox, x, y) > 2.0 {
                    assert!(
                        (value - WHITE).abs() < 0.5,
                        "{value} inside, {x}, {y}, {bbox:?}"
                    );
                } else if inset(&bbox, x, y) < -2.0 {
                    assert!(
                        (value - GREY).abs() < 0.5,
                        "{value} outside, {x}, {y}, {bbox:?}"
                    );
                }
            }
        }
    }
    assert!(views.len() >= 6, "flips and sizes vary: {views:?}");
}

/// How far inside the box a point lies; negative outside.
fn inset(bbox: &BoundingBox, x: f32, y: f32) -> f32 {
    (x - bbox.x1)
        .min(bbox.x2 - x)
        .min(y - bbox.y1)
        .min(bbox.y2 - y)
}

#[test]
fn training_has_targets_for_every_anchor_of_the_padded_size() {
    let fixture = Fixture::new(4);
    for batch in all(fixture.train(config(2, 1)).start(0, 2)) {
        assert_eq!(
            *batch.anchors,
            generator().generate(batch.height, batch.width)
        );
        assert_eq!(batch.targets.len(), 2);
        for targets in &batch.targets {
            assert_eq!(targets.labels.len(), batch.anchors.len());
            assert!(!targets.positives.is_empty());
        }
    }
}

#[test]
fn evaluation_takes_each_image_once_as_prediction_does() {
    let fixture = Fixture::new(5);
    let loader = fixture.eval(config(2, 2));
    let batches = all(loader.start());
    assert_eq!(batches.len(), loader.batches());
    assert_eq!(batches[2].items.len(), 1);
    let ids: Vec<_> = batches
        .iter()
        .flat_map(|batch| &batch.items)
        .map(|item| item.image_id.0)
        .collect();
    assert_eq!(ids, [0, 1, 2, 3, 4]);
    assert!(batches.iter().all(|batch| batch.targets.is_empty()));

    let transform = transform();
    let file = decode_image(&fixture.path("4.png"), Decoding::default()).expect("it is sound");
    let view = TestTimeView::plain(transform.preparation(), file.dimensions());
    let last = prepare_views(
        &[(Arc::new(file), view)],
        transform.preparation(),
        PixelForm::Numbers,
    );
    assert!(last.pixels == batches[2].images);
    assert_eq!(last.height, batches[2].height);
    assert_eq!(last.width, batches[2].width);

    let item = &batches[2].items[0];
    assert_eq!(last.sizes, [item.resized_size]);
    let bbox = item.objects[0].bbox;
    assert_eq!(item.to_original(bbox), view.to_original(bbox));
    let back = item.to_original(bbox).to_array();
    let written = fixture.dataset.images[4].objects[0].bbox.to_array();
    assert!((back.iter().zip(written)).all(|(edge, written)| (edge - written).abs() < 1e-3));
}

#[test]
fn an_endless_stream_can_be_dropped() {
    let fixture = Fixture::new(3);
    for workers in 0..3 {
        let mut batches = fixture.train(config(2, workers)).start(0, u64::MAX);
        assert!(batches.next().is_some_and(|batch| batch.is_ok()));
        drop(batches);
    }
    drop(fixture.train(config(2, 2)).start(0, u64::MAX));
}

#[test]
fn a_broken_image_comes_out_in_its_place_and_ends_the_stream_in_training_alone() {
    let fixture = Fixture::new(6);
    fs_err::write(fixture.path("3.png"), "no picture").expect("the folder is ours");
    for workers in 0..3 {
        let mut batches = fixture.eval(config(1, workers)).start();
        for _ in 0..3 {
            assert!(batches.next().is_some_and(|batch| batch.is_ok()));
        }
        let error = batches.next().expect("a batch").expect_err("3 is broken");
        assert!(error.to_string().contains("3.png"), "{error}");
        assert_eq!(
            batches.map(|batch| batch.is_ok()).collect::<Vec<_>>(),
            [true; 2]
        );

        let batches = fixture.train(config(1, workers)).start(0, 100);
        let sound: Vec<_> = batches.map(|batch| batch.is_ok()).collect();
        assert!((1..=6).contains(&sound.len()));
        assert_eq!(sound.iter().position(|is_ok| !is_ok), Some(sound.len() - 1));
    }
}

#[test]
fn an_image_of_another_size_is_an_error() {
    let fixture = Fixture::new(1);
    let turned = fixture.dataset.images[0].height;
    let path = fixture.path("0.png");
    RgbImage::new(turned, fixture.dataset.images[0].width)
        .save(&path)
        .expect("the folder is ours");
    let error = (fixture.eval(config(1, 0)).start().next().expect("a batch"))
        .expect_err("width and height are swapped");
    let message = error.to_string();
    assert!(
        message.contains("0.png` is 64×40 pixels, but the annotations say 40×64"),
        "{message}"
    );
    assert!(
        message.ends_with("are width and height swapped?"),
        "{message}"
    );
}

#[test]
fn uneven_parts_and_empty_data_sets_are_refused() {
    let fixture = Fixture::new(1);
    let mut empty = CocoDataset::clone(&fixture.dataset);
    empty.images.clear();
    let (config, batch_size) = config(1, 1);
    let error = EvalLoader::new(
        Arc::new(empty),
        config,
        batch_size,
        transform(),
        generator(),
        None,
    );
    let error = error.expect_err("this loads nothing").to_string();
    assert!(error.contains("train.json` lists no images"), "{error}");

    let assigner = TargetAssigner::new(&AssignerConfig::default(), BoxCoder::default());
    let error = TrainLoader::new(
        Arc::clone(&fixture.dataset),
        config,
        Batching {
            micro_batches: Count::literal(2),
            ..Batching::of(Count::literal(3))
        },
        transform(),
        generator(),
        assigner.expect("defaults"),
    );
    let error = error.expect_err("2 does not divide 3").to_string();
    assert!(
        error.contains("3 images cannot be split into 2 micro-batches"),
        "{error}"
    );
}

#[test]
fn loaders_can_cross_threads() {
    fn check<T: Send + Sync>() {}
    check::<TrainLoader>();
    check::<EvalLoader>();
    check::<DataError>();
}
