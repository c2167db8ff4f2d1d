use anyhow::Context;
use retinanet_dataset_tools::split;

use crate::args::SplitArguments;
use crate::console;
use crate::failure::Failure;
use crate::outputs::refuse_overlaps;

pub(crate) fn run(arguments: &SplitArguments) -> Result<(), Failure> {
    let parts = arguments.parts.iter();
    refuse_overlaps(
        [("the annotations", arguments.annotations.as_path())],
        parts.map(|(path, _)| ("--part", path.as_path())),
    )?;
    let shares: Vec<f64> = arguments.parts.iter().map(|(_, share)| *share).collect();
    let parts = split(&arguments.annotations, &shares, arguments.seed).map_err(Failure::work)?;
    for ((path, _), part) in arguments.parts.iter().zip(&parts) {
        let text = serde_json::to_string(part)
            .context("cannot write a part")
            .map_err(Failure::work)?;
        super::write_over(path, text.as_bytes())?;
        let count = |key: &str| part[key].as_array().map_or(0, Vec::len);
        console::result(&format!(
            "{}: {} images, {} annotations",
            path.display(),
            count("images"),
            count("annotations")
        ));
    }
    Ok(())
}
