use std::path::Path;

use anyhow::{anyhow, Context};
use retinanet_dataset_tools::doctor::{check, fix, CheckRequest, Report, Split};
use retinanet_experiment::{
    check_requests, check_settings, load_config, require_data, DataSplit, ExperimentConfig,
};

use crate::args::{self, CheckArguments};
use crate::console;
use crate::failure::Failure;
use crate::outputs::{given, refuse_overlaps};

pub(crate) fn run(arguments: &CheckArguments) -> Result<(), Failure> {
    refuse_to_write_over_inputs(arguments)?;
    let mut requests = requests(arguments)?;
    for request in &mut requests {
        request.open_images = !arguments.annotations_only;
    }
    let reports: Vec<Report> = requests.iter().map(look_over).collect::<Result<_, _>>()?;
    for report in &reports {
        console::result(&report.to_string());
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&reports)
            .context("cannot write what was found")
            .map_err(Failure::work)?;
        super::write_over(path, text.as_bytes())?;
    }
    if let (Some(request), Some(out)) = (requests.first(), &arguments.fix) {
        return repair(&request.split, out);
    }
    let bad: Vec<&str> = (reports.iter())
        .filter(|report| report.fails())
        .map(|report| report.file.as_str())
        .collect();
    if bad.is_empty() {
        Ok(())
    } else {
        Err(Failure::work(anyhow!(
            "training on `{}` would fail or lie; see above",
            bad.join("` and `")
        )))
    }
}

fn refuse_to_write_over_inputs(arguments: &CheckArguments) -> Result<(), Failure> {
    let read = [
        given("CONFIG", arguments.config.as_ref()),
        given("--annotations", arguments.annotations.as_ref()),
    ];
    let written = [
        given("--json", arguments.json.as_ref()),
        given("--fix", arguments.fix.as_ref()),
    ];
    refuse_overlaps(read.into_iter().flatten(), written.into_iter().flatten())
}

/// Both splits of a config, or the one that is named.
fn requests(arguments: &CheckArguments) -> Result<Vec<CheckRequest>, Failure> {
    if let (Some(annotations), Some(images)) = (&arguments.annotations, &arguments.images) {
        return Ok(vec![CheckRequest::new(Split::new(annotations, images))]);
    }
    let Some(config) = &arguments.config else {
        return Err(Failure::usage(anyhow!("which data? give a config")));
    };
    let config = load_config(config, &arguments.settings.set)?;
    check_settings(&config)?;
    config.data.transform()?;
    require_data(&config.data, &[DataSplit::Train, DataSplit::Val])?;
    Ok(check_requests(&config)?.into())
}

/// Looks over one split of a config, with all examples; its image files only if they are to be opened.
pub(crate) fn split_of(
    config: &ExperimentConfig,
    split: args::Split,
    open_images: bool,
) -> Result<Report, Failure> {
    let [train, val] = check_requests(config)?;
    look_over(&CheckRequest {
        open_images,
        examples: usize::MAX,
        ..match split {
            args::Split::Train => train,
            args::Split::Val => val,
        }
    })
}

/// Checks a split, with a bar.
pub(crate) fn look_over(request: &CheckRequest) -> Result<Report, Failure> {
    let bar = console::work_bar("looking over", 0);
    let report = check(request, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    report.map_err(Failure::work)
}

fn repair(split: &Split, out: &Path) -> Result<(), Failure> {
    let fixed = fix(split).map_err(Failure::work)?;
    let text = serde_json::to_string(&fixed.json)
        .context("cannot write the repaired annotations")
        .map_err(Failure::work)?;
    super::write_over(out, text.as_bytes())?;
    for change in &fixed.changes {
        console::result(change);
    }
    console::result(&format!(
        "wrote {} with {} changes",
        out.display(),
        fixed.changes.len()
    ));
    let left = fixed.check(out).map_err(Failure::work)?;
    let titles: Vec<_> = left.errors().map(|it| it.kind.title()).collect();
    if titles.is_empty() {
        return Ok(());
    }
    Err(Failure::work(anyhow!(
        "`{}` still has what only a person can repair: {}",
        out.display(),
        titles.join("; ")
    )))
}
