//! A detector with images, and what it says of them, as files that the other program reads.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use image::RgbImage;
use image::imageops::{self, FilterType};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use retinanet_boxes::{CategoryId, Class, ClassList};
use retinanet_detector::{Detector, DetectorConfig, Predictions, RetinaNet, images_to_device};
use retinanet_images::{
    Decoding, PixelForm, TestTimeAugmentation, TestTimeView, decode_image, prepare_views,
};
use retinanet_onnx::{GraphOutput, OnnxOptions, PixelType, to_onnx};
use retinanet_settings::Whole;

use super::network::lively;

/// A detector of random weights, and images that it detects on.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) config: DetectorConfig,
    pub(super) classes: usize,
    pub(super) batch: usize,
    /// Height and width of the images.
    pub(super) size: [u32; 2],
    /// A folder of photos to detect on, in place of noise.
    pub(super) photos: Option<PathBuf>,
    pub(super) options: OnnxOptions,
    pub(super) seed: u64,
}

impl Case {
    /// The detector and its images, which it does not resize.
    pub(super) fn detector(&self) -> (Detector, Vec<Arc<RgbImage>>) {
        let device = Device::flex();
        let [height, width] = self.size;
        let mut config = self.config.clone();
        config.images.short_side = Whole::literal(u64::from(height.min(width)));
        config.images.long_side = Whole::literal(u64::from(height.max(width)));
        let classes = (0..self.classes)
            .map(|class| Class::new(CategoryId(class as u64), format!("class {class}")));
        let classes = ClassList::new(classes.collect()).unwrap();
        let images: Vec<_> = (0..self.batch as u64)
            .map(|place| {
                Arc::new(picture(
                    self.size,
                    self.photos.as_deref(),
                    self.seed + place,
                ))
            })
            .collect();

        let fresh = config.model.init(self.classes, self.seed, &device).unwrap();
        let detector =
            |model: &RetinaNet| Detector::new(&config, model, classes.clone(), &device).unwrap();
        let look = |model: &RetinaNet| predict(&detector(model), &images[..1], &device);
        let model = lively(fresh, self.seed, look);
        let batch = self.batch;
        let detector = detector(&model)
            .with_test_time_augmentation(TestTimeAugmentation::default(), batch)
            .unwrap();
        (detector, images)
    }

    /// Writes graphs, images, and what the detector says.
    pub(super) fn write(&self, folder: &Path) {
        fs_err::create_dir_all(folder).unwrap();
        fs_err::write(folder.join("case.txt"), format!("{self:#?}")).unwrap();
        let (detector, images) = self.detector();
        for (output, name) in [
            (GraphOutput::Detections, "detections"),
            (GraphOutput::Raw, "raw"),
        ] {
            let options = OnnxOptions {
                output,
                ..self.options
            };
            let graph = to_onnx(&detector, &self.config, options).unwrap();
            fs_err::write(folder.join(format!("{name}.onnx")), graph).unwrap();
        }
        self.write_images(folder, &images);

        let device = Device::flex();
        let predictions = predict(&detector, &images, &device);
        let [batch, anchors, classes] = predictions.logits.dims();
        let deltas = predictions.deltas(&self.config.model);
        let logits: Vec<f32> = predictions.logits.into_data().try_to_vec().unwrap();
        for (name, values, of_each) in [("logits", logits, classes), ("deltas", deltas, 4)] {
            write_floats(folder, name, &values, &[batch, anchors, of_each]);
        }
        let found = detector.detect(&images);
        let rows: Vec<f32> = (found.iter().enumerate())
            .flat_map(|(image, found)| found.detections.iter().map(move |it| (image, it)))
            .flat_map(|(image, it)| {
                let [x1, y1, x2, y2] = it.bbox.to_array();
                [image as f32, it.class.0 as f32, it.score, x1, y1, x2, y2]
            })
            .collect();
        write_floats(folder, "detections", &rows, &[rows.len() / 7, 7]);
        let threshold = self.config.decode.score_threshold.as_f32();
        write_floats(folder, "threshold", &[threshold], &[1]);
    }

    fn write_images(&self, folder: &Path, images: &[Arc<RgbImage>]) {
        let [height, width] = self.size;
        let shape = [images.len(), 3, height as usize, width as usize];
        let mut bytes = Vec::new();
        for image in images {
            for channel in 0..3 {
                bytes.extend(image.pixels().map(|pixel| pixel[channel]));
            }
        }
        match self.options.input {
            PixelType::Uint8 => write_array(folder, "images", "|u1", &bytes, &shape),
            PixelType::Float32 => {
                let floats: Vec<f32> = bytes.into_iter().map(f32::from).collect();
                write_floats(folder, "images", &floats, &shape);
            }
        }
    }
}

fn predict(detector: &Detector, images: &[Arc<RgbImage>], device: &Device) -> Predictions {
    let preparation = detector.preparation();
    let views: Vec<_> = (images.iter())
        .map(|image| {
            let view = TestTimeView::plain(preparation, image.dimensions());
            (Arc::clone(image), view)
        })
        .collect();
    let mut prepared = prepare_views(&views, preparation, PixelForm::Numbers);
    let shape = [images.len(), prepared.height, prepared.width];
    let pixels: Tensor<4> = images_to_device(&mut prepared.pixels, shape, device);
    detector.model().forward(pixels)
}

/// A photo where there are some and they are asked for, else blocks of colours with noise on them.
fn picture([height, width]: [u32; 2], photos: Option<&Path>, seed: u64) -> RgbImage {
    if let Some(folder) = photos {
        let files = fs_err::read_dir(folder).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        let photo = decode_image(&files[seed as usize % files.len()], Decoding::default()).unwrap();
        return imageops::resize(&photo, width, height, FilterType::Triangle);
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let blocks: Vec<[u8; 3]> = (0..64).map(|_| random.random()).collect();
    RgbImage::from_fn(width, height, |x, y| {
        let block = blocks[(x / 24 + 8 * (y / 24)) as usize % 64];
        image::Rgb(block.map(|value| value.saturating_add(random.random_range(0..40))))
    })
}

fn write_floats(folder: &Path, name: &str, values: &[f32], shape: &[usize]) {
    let bytes: Vec<u8> = values.iter().flat_map(|it| it.to_le_bytes()).collect();
    write_array(folder, name, "<f4", &bytes, shape);
}

/// The form of `numpy.save`, version 1.0.
fn write_array(folder: &Path, name: &str, kind: &str, bytes: &[u8], shape: &[usize]) {
    let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let shape = shape.join(",");
    let mut header =
        format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape},), }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(bytes);
    fs_err::write(folder.join(format!("{name}.npy")), file).unwrap();
}
