use std::path::Path;

use anyhow::{anyhow, Context};
use retinanet_data::doctor::{check, fix, Anchors, CheckRequest, Report, Split};
use retinanet_data::ResizeConfig;
use retinanet_trainer::{load_config, ExperimentConfig, SplitConfig};

use crate::args::CheckArguments;
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
    if let (Some(annotations), Some(out)) = (&arguments.annotations, &arguments.fix) {
        return mend(annotations, out);
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
    let anchors = anchors(&config)?;
    let split = |split: &SplitConfig| {
        let root = &config.data.root;
        Split::new(root.join(&split.annotations), root.join(&split.images))
    };
    let (train, val) = (split(&config.data.train), split(&config.data.val));
    Ok(vec![
        CheckRequest {
            other: Some(val.clone()),
            anchors: Some(anchors),
            ..CheckRequest::new(train)
        },
        CheckRequest::new(val),
    ])
}

fn anchors(config: &ExperimentConfig) -> Result<Anchors, Failure> {
    Ok(Anchors {
        generator: config.model.anchor_generator()?,
        resize: ResizeConfig {
            short_side: config.data.short_side.clone(),
            long_side: config.data.long_side,
            ..ResizeConfig::default()
        },
        foreground: config.criterion.matcher.foreground,
    })
}

fn look_over(request: &CheckRequest) -> Result<Report, Failure> {
    let bar = console::work_bar("looking over", 0);
    let report = check(request, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    report.map_err(Failure::work)
}

fn mend(annotations: &Path, out: &Path) -> Result<(), Failure> {
    let fixed = fix(annotations).map_err(Failure::work)?;
    let text = serde_json::to_string(&fixed.json)
        .context("cannot write the mended annotations")
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
    Ok(())
}
