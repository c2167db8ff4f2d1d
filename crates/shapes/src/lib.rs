//! The built-in data set: circles, rectangles, triangles and stars, drawn in code from a seed.
//!
//! It needs no download, and a small detector learns it from scratch on a CPU in minutes, yet it
//! asks for what a real data set asks for: the colour says nothing about the class, objects come
//! in three size ranges, overlap and stick out of the image, some images hold none, and the
//! background is cluttered. The files are COCO's, so that it goes the way of every other data set.
//!
//! Its hard setting is for what focal loss was made for: small objects in half of the images, all of
//! them full of things that look alike. With two objects at most, more than a thousand anchors are
//! background for each that is not.
//!
//! Its textured setting is for backbones: 48 classes of textured, lit objects, whose features carry over to photos.
//!
//! An image is a function of (seed, split, index) alone: the bytes are the same on every run and
//! with any number of threads.

mod annotations;
mod decoy;
mod outline;
mod paint;
mod scene;
mod textured;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageError, RgbImage};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use retinanet_boxes::{CategoryId, Class, ClassList};
use retinanet_settings::{MOST, Whole};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::annotations::{FileKind, Object, annotations_json, file_kind};
use self::outline::Shape;
use self::paint::paint;
use self::scene::Scene;

/// Settings of the built-in shapes data set.
///
/// # Defaults
///
/// 600 images to train on and 150 to validate on, 160×160 pixels, up to 6 objects each, seed 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ShapesConfig {
    /// What all drawing follows from.
    pub seed: Whole<0, MOST>,
    /// Images in the training split.
    pub train_images: Whole<1, 100_000>,
    /// Images in the validation split.
    pub val_images: Whole<1, 100_000>,
    /// Width of every image in pixels.
    pub width: Whole<64, 4096>,
    /// Height of every image in pixels.
    pub height: Whole<64, 4096>,
    /// The most objects in an image; each count from 1 up is equally likely, except that a crowded image drops the
    /// objects that find no place.
    pub max_objects: Whole<1, 50>,
    /// Whether objects are rare and small, half of the images have none, and the background is full
    /// of things that look alike.
    pub hard: bool,
    /// Whether objects are textured and lit, of 48 classes by form and surface, in front of textured grounds: what a
    /// backbone learns from where no photos can be had.
    pub textured: bool,
}

impl Default for ShapesConfig {
    fn default() -> Self {
        Self {
            seed: Whole::literal(0),
            train_images: Whole::literal(600),
            val_images: Whole::literal(150),
            width: Whole::literal(160),
            height: Whole::literal(160),
            max_objects: Whole::literal(6),
            hard: false,
            textured: false,
        }
    }
}

impl ShapesConfig {
    /// The classes.
    ///
    /// The four shapes' category ids are 1, 2, 4 and 7: the gaps are on purpose, as COCO's own ids have them,
    /// so that code which takes a category id for a class index fails on this data set too.
    ///
    /// # Panics
    ///
    /// Never: no category id occurs twice.
    pub fn classes(&self) -> ClassList {
        let classes = self.named_categories();
        let classes = classes.into_iter().map(|(id, name)| Class::new(id, name));
        ClassList::new(classes.collect()).expect("no category id occurs twice")
    }

    fn named_categories(&self) -> Vec<(CategoryId, String)> {
        if self.textured {
            return textured::classes();
        }
        let named = |shape: Shape| (shape.category(), shape.name().to_owned());
        Shape::ALL.map(named).into()
    }

    /// Draws the data set into a folder, which is made where it is missing.
    ///
    /// ```text
    /// root/images/train_00000.png …    root/train.json
    /// root/images/val_00000.png …      root/val.json
    /// ```
    ///
    /// The JSON files come last, so that a folder which has both is complete. A shapes data set of
    /// another config is replaced; its surplus images stay, and no JSON file names them.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder holds a `train.json` or
    /// `val.json` of another data set, or when a file cannot be written.
    pub fn write(&self, root: &Path) -> Result<ShapesSummary, ShapesError> {
        self.write_with(root, || ())
    }

    /// As [`write`](Self::write), and calls `on_image` after each image, from any thread.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn write_with(
        &self,
        root: &Path,
        on_image: impl Fn() + Sync,
    ) -> Result<ShapesSummary, ShapesError> {
        let [train_file, val_file] = Split::ALL.map(|split| split.annotations_path(root));
        for path in [&train_file, &val_file] {
            match file_kind(path)? {
                FileKind::Missing => {}
                FileKind::Shapes(config) if config.as_ref() == Some(self) => {}
                // Once the first image is replaced, the old files no longer tell the truth.
                FileKind::Shapes(_) => fs_err::remove_file(path)?,
                FileKind::Foreign => return Err(ShapesError::Foreign { path: path.clone() }),
            }
        }

        fs_err::create_dir_all(root.join(IMAGES_FOLDER))?;
        let train = self.write_images(root, Split::Train, &on_image)?;
        let val = self.write_images(root, Split::Val, &on_image)?;
        retinanet_files::write_cached(&train_file, annotations_json(self, Split::Train, &train)?)?;
        retinanet_files::write_cached(&val_file, annotations_json(self, Split::Val, &val)?)?;
        let categories = self.named_categories();
        Ok(ShapesSummary {
            train: SplitSummary::new(&train, &categories),
            val: SplitSummary::new(&val, &categories),
        })
    }

    /// Whether a folder holds the whole data set of this config.
    pub fn is_written_at(&self, root: &Path) -> bool {
        Split::ALL.into_iter().all(|split| {
            matches!(
                file_kind(&split.annotations_path(root)),
                Ok(FileKind::Shapes(Some(config))) if config == *self
            )
        })
    }

    /// Writes the images of a split and returns what they show, in the order of their indices.
    fn write_images(
        &self,
        root: &Path,
        split: Split,
        on_image: &(impl Fn() + Sync),
    ) -> Result<Vec<Vec<Object>>, ShapesError> {
        let folder = root.join(IMAGES_FOLDER);
        (0..self.image_count(split))
            .into_par_iter()
            .map(|index| {
                let (image, objects) = self.draw(split, index);
                let path = folder.join(split.image_name(index));
                write_png(&path, &image)?;
                on_image();
                Ok(objects)
            })
            .collect()
    }

    fn draw(&self, split: Split, index: usize) -> (RgbImage, Vec<Object>) {
        let mut rng = image_rng(self.seed.get(), split, index);
        if self.textured {
            return textured::render(self, &mut rng);
        }
        let scene = Scene::draw(self, &mut rng);
        let image = paint(&scene, &mut rng);
        let objects = scene.figures.into_iter().map(|figure| Object {
            category: figure.shape.category(),
            outline: figure.outline,
        });
        (image, objects.collect())
    }

    const fn image_count(&self, split: Split) -> usize {
        match split {
            Split::Train => self.train_images.as_usize(),
            Split::Val => self.val_images.as_usize(),
        }
    }
}

/// What [`ShapesConfig::write`] drew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShapesSummary {
    /// The training split.
    pub train: SplitSummary,
    /// The validation split.
    pub val: SplitSummary,
}

/// What [`ShapesConfig::write`] drew for one split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SplitSummary {
    /// All images.
    pub images: usize,
    /// Images without an object.
    pub background_images: usize,
    /// All objects.
    pub objects: usize,
    /// Objects by the name of their class.
    pub objects_by_class: BTreeMap<String, usize>,
}

impl SplitSummary {
    fn new(images: &[Vec<Object>], categories: &[(CategoryId, String)]) -> Self {
        let objects = || images.iter().flatten();
        let count = |id: CategoryId| objects().filter(|object| object.category == id).count();
        Self {
            images: images.len(),
            background_images: images.iter().filter(|objects| objects.is_empty()).count(),
            objects: objects().count(),
            objects_by_class: categories
                .iter()
                .map(|(id, name)| (name.clone(), count(*id)))
                .collect(),
        }
    }
}

/// The shapes data set could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShapesError {
    /// The folder belongs to another data set.
    #[error(
        "`{}` belongs to another data set and is left alone: choose another folder for the shapes",
        path.display()
    )]
    Foreign {
        /// The file in the way.
        path: PathBuf,
    },
    /// An image could not be encoded.
    #[error("failed to encode the image for `{}`", path.display())]
    Encode {
        /// The file to be.
        path: PathBuf,
        /// What the encoder says.
        source: ImageError,
    },
    /// The annotations could not be turned into JSON.
    #[error("failed to encode the annotations")]
    Annotations(#[source] serde_json::Error),
    /// A file could not be read or written; the message names it.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A part of the data set with images of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Split {
    Train,
    Val,
}

impl Split {
    const ALL: [Self; 2] = [Self::Train, Self::Val];

    const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }

    fn annotations_path(self, root: &Path) -> PathBuf {
        root.join(format!("{}.json", self.name()))
    }

    fn image_name(self, index: usize) -> String {
        format!("{}_{index:05}.png", self.name())
    }
}

/// The random numbers of one image: no other image draws from them, so neither the order of the
/// images nor their number matters.
fn image_rng(seed: u64, split: Split, index: usize) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(split as u64).to_le_bytes());
    key[16..24].copy_from_slice(&(index as u64).to_le_bytes());
    key[24..].copy_from_slice(b"shapes 1");
    ChaCha8Rng::from_seed(key)
}

fn write_png(path: &Path, image: &RgbImage) -> Result<(), ShapesError> {
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(
            image.as_raw(),
            image.width(),
            image.height(),
            ExtendedColorType::Rgb8,
        )
        .map_err(|source| ShapesError::Encode {
            path: path.to_owned(),
            source,
        })?;
    Ok(retinanet_files::write_cached(path, bytes)?)
}

/// Folder of the images, under the root.
const IMAGES_FOLDER: &str = "images";

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::Value;

    use super::*;

    fn small() -> ShapesConfig {
        ShapesConfig {
            train_images: Whole::literal(5),
            val_images: Whole::literal(3),
            width: Whole::literal(96),
            height: Whole::literal(80),
            ..ShapesConfig::default()
        }
    }

    fn json(path: &Path) -> Value {
        serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap()
    }

    fn all_bytes(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        [root.to_owned(), root.join("images")]
            .iter()
            .flat_map(|folder| fs_err::read_dir(folder).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .map(|path| {
                let bytes = fs_err::read(&path).unwrap();
                (path.strip_prefix(root).unwrap().to_owned(), bytes)
            })
            .collect()
    }

    #[test]
    fn the_same_bytes_come_with_one_thread_and_with_many() {
        let (one, many) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (root, threads) in [(&one, 1), (&many, 4)] {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap()
                .install(|| small().write(root.path()).unwrap());
        }
        let files = all_bytes(one.path());
        assert_eq!(files.len(), 5 + 3 + 2);
        assert!(files == all_bytes(many.path()));
    }

    #[test]
    fn seeds_splits_and_indices_give_different_images() {
        let config = small();
        let other = ShapesConfig {
            seed: Whole::literal(1),
            ..small()
        };
        let (first, _) = config.draw(Split::Train, 0);
        let hard = ShapesConfig {
            hard: true,
            ..small()
        };
        for (image, _) in [
            hard.draw(Split::Train, 0),
            config.draw(Split::Train, 1),
            config.draw(Split::Val, 0),
            other.draw(Split::Train, 0),
        ] {
            assert!(first != image);
        }
    }

    #[test]
    fn more_images_leave_the_first_ones_as_they_were() {
        let (few, more) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        small().write(few.path()).unwrap();
        let config = ShapesConfig {
            train_images: Whole::literal(9),
            ..small()
        };
        config.write(more.path()).unwrap();
        let name = "images/train_00004.png";
        assert_eq!(
            fs_err::read(few.path().join(name)).unwrap(),
            fs_err::read(more.path().join(name)).unwrap()
        );
    }

    #[test]
    fn the_files_are_coco_instances() {
        let root = tempfile::tempdir().unwrap();
        let drawn = AtomicUsize::new(0);
        let summary = small()
            .write_with(root.path(), || {
                drawn.fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
        assert_eq!(drawn.into_inner(), 8);

        let train = json(&root.path().join("train.json"));
        let categories: Vec<_> = train["categories"]
            .as_array()
            .unwrap()
            .iter()
            .map(|category| {
                (
                    category["id"].as_u64().unwrap(),
                    category["name"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            categories,
            [
                (1, "circle"),
                (2, "rectangle"),
                (4, "triangle"),
                (7, "star")
            ]
        );

        let images = train["images"].as_array().unwrap();
        assert_eq!(images.len(), 5);
        for image in images {
            let path = root
                .path()
                .join("images")
                .join(image["file_name"].as_str().unwrap());
            let (width, height) = image::image_dimensions(path).unwrap();
            assert_eq!((width, height), (96, 80));
            assert_eq!(
                (image["width"].as_u64(), image["height"].as_u64()),
                (Some(96), Some(80))
            );
        }

        let annotations = train["annotations"].as_array().unwrap();
        assert_eq!(annotations.len(), summary.train.objects);
        assert_eq!(
            summary.train.objects,
            summary.train.objects_by_class.values().sum::<usize>()
        );
        for (index, annotation) in annotations.iter().enumerate() {
            assert_eq!(annotation["id"], index as u64 + 1);
            assert_eq!(annotation["iscrowd"], 0);
            let [x, y, width, height] =
                serde_json::from_value::<[f64; 4]>(annotation["bbox"].clone()).unwrap();
            assert!(x >= 0.0 && y >= 0.0 && x + width <= 96.0 && y + height <= 80.0);
            let area = annotation["area"].as_f64().unwrap();
            assert!(area > 0.0 && area <= width * height, "{annotation}");
        }
    }

    #[test]
    fn a_written_data_set_is_recognised_by_its_config() {
        let root = tempfile::tempdir().unwrap();
        let config = small();
        assert!(!config.is_written_at(root.path()));
        config.write(root.path()).unwrap();
        assert!(config.is_written_at(root.path()));

        let other = ShapesConfig {
            seed: Whole::literal(1),
            ..small()
        };
        assert!(!other.is_written_at(root.path()));
        other.write(root.path()).unwrap();
        assert!(other.is_written_at(root.path()));

        fs_err::remove_file(root.path().join("val.json")).unwrap();
        assert!(!other.is_written_at(root.path()));
    }

    #[test]
    fn another_data_set_is_left_alone() {
        for content in [
            r#"{"info": {"description": "COCO 2017"}, "images": []}"#,
            "{}",
            "no json",
        ] {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join("val.json");
            fs_err::write(&path, content).unwrap();
            let error = small().write(root.path()).unwrap_err();
            assert!(matches!(error, ShapesError::Foreign { .. }), "{error}");
            assert!(error.to_string().contains("val.json"), "{error}");
            assert_eq!(fs_err::read_to_string(&path).unwrap(), content);
            assert!(!root.path().join("images").exists());
        }
    }

    #[test]
    fn unknown_settings_are_refused_and_missing_ones_filled() {
        let config: ShapesConfig = serde_json::from_str(r#"{"seed": 7}"#).unwrap();
        assert_eq!(
            config,
            ShapesConfig {
                seed: Whole::literal(7),
                ..ShapesConfig::default()
            }
        );
        assert!(serde_json::from_str::<ShapesConfig>(r#"{"sed": 7}"#).is_err());
    }
}
