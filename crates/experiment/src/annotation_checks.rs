//! Looks a config's data over, as before training.

use retinanet_data::DataError;
use retinanet_dataset_tools::doctor::{Anchors, CheckRequest, Role, Severity, Split, check};

use crate::config::{ExperimentConfig, SplitConfig};
use crate::error::ExperimentError;
use crate::observer::Observer;

/// What there is to check of a config's data: what is trained on, and what is evaluated on.
///
/// # Errors
///
/// Returns an error if settings of the anchors or the assigner do not fit each other.
pub fn check_requests(config: &ExperimentConfig) -> Result<[CheckRequest; 2], ExperimentError> {
    let split = |split: &SplitConfig| {
        let root = &config.data.root;
        Split::new(root.join(&split.annotations), root.join(&split.images))
    };
    let assigner = config.target_assigner()?;
    let anchors = Anchors {
        generator: config.anchor_generator()?,
        resize: config.data.transform.resize.clone(),
        foreground: assigner.assigner().foreground(),
    };
    let needs_fitting_anchors = assigner.assigner().needs_fitting_anchors();
    let decoding = config.data.decoding();
    let (train, val) = (split(&config.data.train), split(&config.data.val));
    Ok([
        CheckRequest {
            other: Some(val.clone()),
            anchors: needs_fitting_anchors.then_some(anchors),
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

/// What is wrong with annotations that are to be trained on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnnotationsCheckError {
    /// Training would fail on them, or report what is not true.
    #[error(
        "training would fail or report wrong numbers: {}; `retinanet dataset check` shows all, `--no-check` trains nevertheless",
        errors.join(", ")
    )]
    Faults {
        /// Each file with what is wrong with it.
        errors: Vec<String>,
    },
    /// They cannot be checked.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A setting is out of range.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
}

/// Looks a config's annotations over before they are trained on; the images have their own checks.
///
/// # Errors
///
/// Returns an error if training would fail on them, or report what is not true.
pub fn check_annotations(
    config: &ExperimentConfig,
    observer: &mut dyn Observer,
) -> Result<(), AnnotationsCheckError> {
    let (mut warnings, mut errors) = (0, Vec::new());
    for request in check_requests(config)? {
        // The built-in data set may be yet to be rendered; what else is missing is told by name soon.
        let files = [Some(&request.split), request.other.as_ref()];
        if (files.into_iter().flatten()).any(|split| !split.annotations.exists()) {
            continue;
        }
        let request = CheckRequest {
            open_images: false,
            ..request
        };
        let report = check(&request, &|_, _| {})?;
        let findings = report.findings.iter();
        warnings += findings
            .filter(|it| it.severity == Severity::Warning)
            .count();
        for finding in report.errors() {
            observer.message(format!("{}: {finding}", report.file).trim_end());
            errors.push(format!("`{}`: {}", report.file, finding.kind.title()));
        }
    }
    if !errors.is_empty() {
        return Err(AnnotationsCheckError::Faults { errors });
    }
    if warnings > 0 {
        observer.message(&format!(
            "the annotations have {warnings} kinds of warnings; `retinanet dataset check` shows them"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::load_config;

    /// With ATSS no box is out of reach because of its shape, and a warning would be wrong.
    #[test]
    fn boxes_are_held_against_anchors_only_where_these_have_to_fit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        for (preset, is_checked) in [
            ("torchvision", true),
            ("atss", false),
            ("small_data", false),
        ] {
            fs_err::write(&path, format!("preset = \"{preset}\"")).unwrap();
            let config = load_config(&path, &[]).unwrap();
            let [train, val] = check_requests(&config).unwrap();
            assert_eq!(train.anchors.is_some(), is_checked, "{preset}");
            assert!(val.anchors.is_none());
        }
    }
}
