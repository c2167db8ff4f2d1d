use std::fmt::Write;
use std::sync::Arc;

use image::RgbImage;
use rayon::prelude::*;
use retinanet_anchors::{BoxCoder, TargetAssigner};
use retinanet_boxes::GroundTruth;
use retinanet_data::{
    Batch, CocoDataset, DataError, EvalLoader, ImageRecord, TrainLoader, Transform,
};
use retinanet_images::decode_image;
use retinanet_trainer::{config_to_toml, load_config, ExperimentConfig};

use crate::args::{Split, ViewArguments};
use crate::console;
use crate::draw::draw_objects;
use crate::failure::Failure;

pub(crate) fn run(arguments: &ViewArguments) -> Result<(), Failure> {
    let config = load_config(&arguments.config, &arguments.settings.set)?;
    super::set_threads(config.compute.threads);
    let scene = Scene::new(config, arguments.split)?;
    let images = scene.dataset.images.len();
    let chosen: Vec<usize> = super::spread(arguments.images, images).collect();
    let rows: Vec<Row> = chosen
        .par_iter()
        .map(|&index| scene.draw(index, arguments))
        .collect::<Result<_, _>>()?;
    let page = page(&scene, arguments, &rows);
    super::write_over(&arguments.out.join("index.html"), page.as_bytes())?;
    console::result(&format!(
        "drew {} of {images} images; open {}",
        rows.len(),
        arguments.out.join("index.html").display()
    ));
    Ok(())
}

/// A config's images, as they are and as the network sees them.
struct Scene {
    config: ExperimentConfig,
    dataset: Arc<CocoDataset>,
    transform: Transform,
    seen: Seen,
}

/// What makes samples.
enum Seen {
    InTraining(TrainLoader),
    InEvaluation(EvalLoader),
}

/// The pictures of one image, below the page's folder.
struct Row {
    title: String,
    before: String,
    after: Vec<String>,
}

impl Scene {
    fn new(config: ExperimentConfig, split: Split) -> Result<Self, Failure> {
        let data = &config.data;
        let transform = data.transform()?;
        let generator = config.model.anchor_generator()?;
        let loader = data.loader(1, config.seed);
        let (dataset, seen) = match split {
            Split::Train => {
                let dataset = Arc::new(data.read_train()?);
                let matcher = config.criterion.matcher.init().map_err(Failure::usage)?;
                let assigner = TargetAssigner::new(matcher, BoxCoder::default());
                let loader = TrainLoader::new(
                    Arc::clone(&dataset),
                    loader,
                    transform.clone(),
                    generator,
                    assigner,
                );
                (dataset, loader.map(Seen::InTraining))
            }
            Split::Val => {
                let dataset = data.read_to_evaluate(&data.val)?;
                let dataset = Arc::new(dataset);
                let loader = EvalLoader::new(
                    Arc::clone(&dataset),
                    loader,
                    transform.clone(),
                    generator,
                    None,
                );
                (dataset, loader.map(Seen::InEvaluation))
            }
        };
        Ok(Self {
            seen: seen?,
            config,
            dataset,
            transform,
        })
    }

    fn draw(&self, index: usize, arguments: &ViewArguments) -> Result<Row, Failure> {
        let record = &self.dataset.images[index];
        let mut image = decode_image(&record.path, self.dataset.max_pixels)?;
        self.mark(&mut image, &record.objects);
        let name = super::below(&record.file_name);
        let before = format!("before/{}.png", name.display());
        super::write_png(&arguments.out.join(&before), &image)?;

        let mut after = Vec::new();
        for (epoch, batch) in self.samples(index, arguments.epochs).enumerate() {
            let batch = batch?;
            let mut image = batch.picture(0, self.transform.preparation());
            self.mark(&mut image, &batch.items[0].objects);
            let path = format!("after/{}.{epoch}.png", name.display());
            super::write_png(&arguments.out.join(&path), &image)?;
            after.push(path);
        }
        Ok(Row {
            title: title(record),
            before,
            after,
        })
    }

    /// An image as the network sees it: in evaluation always the same.
    fn samples(
        &self,
        index: usize,
        epochs: usize,
    ) -> Box<dyn Iterator<Item = Result<Batch, DataError>> + '_> {
        match &self.seen {
            Seen::InTraining(loader) => {
                Box::new((0..epochs as u64).map(move |epoch| loader.sample(index, epoch)))
            }
            Seen::InEvaluation(loader) => {
                Box::new(std::iter::once_with(move || loader.sample(index)))
            }
        }
    }

    fn mark(&self, image: &mut RgbImage, objects: &[GroundTruth]) {
        draw_objects(image, objects, &self.dataset.classes);
    }
}

fn title(record: &ImageRecord) -> String {
    let ImageRecord {
        id,
        file_name,
        width,
        height,
        objects,
        ..
    } = record;
    let boxes = objects.len();
    format!(
        "{file_name}: image {}, {width}×{height}, {boxes} boxes",
        id.0
    )
}

const STYLE: &str = "\
body { font-family: sans-serif; margin: 1.5em; background: #fafafa; color: #222 }
h2 { font-size: 1em; font-weight: normal; margin: 1.5em 0 0.4em }
figure { display: inline-block; margin: 0 0.8em 0.4em 0; vertical-align: top }
figcaption { font-size: 0.8em; color: #666 }
img { max-width: 30em; max-height: 24em; display: block }
pre { background: #eee; padding: 0.6em; display: inline-block }";

fn page(scene: &Scene, arguments: &ViewArguments, rows: &[Row]) -> String {
    let name = escape(&arguments.config.display().to_string());
    let mut page = format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>{name}</title>\n<style>\n{STYLE}\n\
         </style>\n<h1>{name}</h1>\n<p>{} images of {}. Left as they are, then as the network sees \
         them. Grey boxes are ignored: neither objects nor background.</p>\n",
        rows.len(),
        escape(&scene.dataset.annotations.display().to_string()),
    );
    if let (Seen::InTraining(_), Ok(config)) = (&scene.seen, config_to_toml(&scene.config)) {
        let _ = writeln!(page, "<pre>{}</pre>", escape(&augmentation(&config)));
    }
    for row in rows {
        let _ = writeln!(page, "<h2>{}</h2>", escape(&row.title));
        page.push_str(&figure(&row.before, "as it is"));
        for (epoch, picture) in row.after.iter().enumerate() {
            let caption = match scene.seen {
                Seen::InTraining(_) => format!("epoch {epoch}"),
                Seen::InEvaluation(_) => "in evaluation".to_owned(),
            };
            page.push_str(&figure(picture, &caption));
        }
    }
    page
}

/// What a config says about augmentation.
fn augmentation(config: &str) -> String {
    let mut of_augment = false;
    let lines = config.lines().filter(|line| {
        if line.starts_with('[') {
            of_augment = line.starts_with("[data.augment");
        }
        of_augment && !line.is_empty()
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn figure(picture: &str, caption: &str) -> String {
    let url = escape_url(picture);
    format!(
        "<figure><a href=\"{url}\"><img src=\"{url}\" loading=\"lazy\"></a>\
         <figcaption>{caption}</figcaption></figure>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// What stands for itself in the path of a URL; everything else becomes `%` and its number.
fn escape_url(path: &str) -> String {
    path.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_as_text_and_as_addresses() {
        assert_eq!(escape("a<b>&c"), "a&lt;b&gt;&amp;c");
        assert_eq!(escape_url("a/b c#1?é.png"), "a/b%20c%231%3F%C3%A9.png");
    }
}
