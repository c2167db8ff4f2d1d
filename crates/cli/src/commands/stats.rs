use std::path::Path;

use anyhow::Context;
use retinanet_data::CocoDataset;
use retinanet_dataset_tools::DatasetStats;

use crate::args::StatsArguments;
use crate::console;
use crate::failure::Failure;
use crate::outputs::{given, refuse_overlaps};

pub(crate) fn run(arguments: &StatsArguments) -> Result<(), Failure> {
    refuse_overlaps(
        [("the annotations", arguments.annotations.as_path())],
        given("--json", arguments.json.as_ref()),
    )?;
    let dataset =
        CocoDataset::read(&arguments.annotations, Path::new("")).map_err(Failure::work)?;
    let stats = DatasetStats::of(&dataset);
    console::result(stats.to_string().trim_end());
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&stats)
            .context("cannot write the numbers")
            .map_err(Failure::work)?;
        super::write_over(path, text.as_bytes())?;
    }
    Ok(())
}
