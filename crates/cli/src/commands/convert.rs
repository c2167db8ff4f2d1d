use retinanet_dataset_tools::{convert, Destination, Source};

use crate::args::ConvertArguments;
use crate::console;
use crate::failure::Failure;
use crate::outputs::refuse_overlaps;

pub(crate) fn run(arguments: &ConvertArguments) -> Result<(), Failure> {
    let source = arguments.source.as_path();
    refuse_overlaps(
        [("the source", source)],
        [("--out", arguments.out.as_path())],
    )?;
    let converted = convert(
        Source {
            format: arguments.from.into(),
            path: source,
            images: arguments.images.as_deref(),
            split: arguments.split.as_deref(),
        },
        Destination {
            format: arguments.to.into(),
            path: &arguments.out,
        },
    )
    .map_err(Failure::work)?;
    let left_out = match converted.left_out {
        0 => String::new(),
        count => format!("; {count} annotations have no place in that format"),
    };
    console::result(&format!(
        "{}: {} images, {} annotations{left_out}",
        arguments.out.display(),
        converted.images,
        converted.annotations
    ));
    Ok(())
}
