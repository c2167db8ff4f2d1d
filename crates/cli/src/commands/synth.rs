use retinanet_shapes::ShapesConfig;

use crate::args::SynthArguments;
use crate::console;
use crate::failure::Failure;

pub(crate) fn run(arguments: &SynthArguments) -> Result<(), Failure> {
    let default = ShapesConfig::default();
    let shapes = ShapesConfig {
        seed: arguments.seed.unwrap_or(default.seed),
        train_images: arguments.train_images.unwrap_or(default.train_images),
        val_images: arguments.val_images.unwrap_or(default.val_images),
        width: arguments.width.unwrap_or(default.width),
        height: arguments.height.unwrap_or(default.height),
        max_objects: arguments.max_objects.unwrap_or(default.max_objects),
        hard: arguments.hard,
        textured: arguments.textured,
    };
    let bar = console::work_bar(
        "drawing shapes",
        shapes.train_images.as_usize() + shapes.val_images.as_usize(),
    );
    let summary = shapes
        .write_with(&arguments.out, || bar.inc(1))
        .map_err(Failure::work)?;
    bar.finish_and_clear();
    console::result(&format!(
        "drew {} + {} images with {} + {} objects into {}: train.json, val.json and images/",
        summary.train.images,
        summary.val.images,
        summary.train.objects,
        summary.val.objects,
        arguments.out.display()
    ));
    Ok(())
}
