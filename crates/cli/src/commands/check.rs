use std::path::Path;

use anyhow::{anyhow, Context};
use retinanet_data::doctor::{check, fix, Anchors, CheckRequest, Report, Role, Severity, Split};
use retinanet_trainer::{load_config, ExperimentConfig, SplitConfig};

use crate::args::{self, CheckArguments};
use crate::console;
use crate::data_files::require_data;
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
        return mend(&request.split, out);
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
    require_data(&config, &[args::Split::Train, args::Split::Val])?;
    Ok(of_config(&config)?.into())
}

/// Both splits of a config.
fn of_config(config: &ExperimentConfig) -> Result<[CheckRequest; 2], Failure> {
    let anchors = anchors(config)?;
    let split = |split: &SplitConfig| {
        let root = &config.data.root;
        Split::new(root.join(&split.annotations), root.join(&split.images))
    };
    let decoding = config.data.decoding();
    let (train, val) = (split(&config.data.train), split(&config.data.val));
    Ok([
        CheckRequest {
            other: Some(val.clone()),
            anchors: Some(anchors),
            decoding,
            ..CheckRequest::new(train)
        },
        CheckRequest {
            role: Role::Validation,
            decoding,
            ..CheckRequest::new(val)
        },
    ])
}

/// Looks over one split of a config, with all examples; its image files only if they are to be opened.
pub(crate) fn split_of(
    config: &ExperimentConfig,
    split: args::Split,
    open_images: bool,
) -> Result<Report, Failure> {
    let [train, val] = of_config(config)?;
    look_over(&CheckRequest {
        open_images,
        examples: usize::MAX,
        ..match split {
            args::Split::Train => train,
            args::Split::Val => val,
        }
    })
}

/// Looks a config's annotations over before it is trained on; its images have their own checks.
pub(crate) fn before_training(config: &ExperimentConfig) -> Result<(), Failure> {
    let (mut warnings, mut errors) = (0, Vec::new());
    for request in of_config(config)? {
        // The built-in data set may be yet to be rendered; what else is missing is told by name soon.
        let files = [Some(&request.split), request.other.as_ref()];
        if (files.into_iter().flatten()).any(|split| !split.annotations.exists()) {
            continue;
        }
        let request = CheckRequest {
            open_images: false,
            ..request
        };
        let report = check(&request, &|_, _| {}).map_err(Failure::work)?;
        let findings = report.findings.iter();
        warnings += findings
            .filter(|it| it.severity == Severity::Warning)
            .count();
        for finding in report.errors() {
            console::note(format!("{}: {finding}", report.file).trim_end());
            errors.push(format!("`{}`: {}", report.file, finding.kind.title()));
        }
    }
    if !errors.is_empty() {
        return Err(Failure::work(anyhow!(
            "training would fail or lie: {}; `retinanet dataset check` shows all, `--no-check` trains \
             nevertheless",
            errors.join(", ")
        )));
    }
    if warnings > 0 {
        console::note(&format!(
            "the annotations have {warnings} kinds of warnings; `retinanet dataset check` shows them"
        ));
    }
    Ok(())
}

fn anchors(config: &ExperimentConfig) -> Result<Anchors, Failure> {
    Ok(Anchors {
        generator: config.model.anchor_generator()?,
        resize: config.data.resize(),
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

fn mend(split: &Split, out: &Path) -> Result<(), Failure> {
    let fixed = fix(split).map_err(Failure::work)?;
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
    let left = fixed.check(out).map_err(Failure::work)?;
    let titles: Vec<_> = left.errors().map(|it| it.kind.title()).collect();
    if titles.is_empty() {
        return Ok(());
    }
    Err(Failure::work(anyhow!(
        "`{}` still has what only a person can mend: {}",
        out.display(),
        titles.join("; ")
    )))
}
