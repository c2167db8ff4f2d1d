//! Detectors that have not learned what they are asked about: each is trained on all images but a part.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, Context};
use retinanet_dataset_tools::split;
use retinanet_experiment::{load_config, ExperimentConfig};
use serde_json::Value;

use crate::args::ErrorsArguments;
use crate::commands::children::{run_to_end, Training};
use crate::commands::study::{has_ended, require_unchanged};
use crate::console;
use crate::failure::Failure;
use crate::signals;

/// A detector, and the images that it has not learned from.
pub(super) struct Fold {
    /// Where its run is.
    pub(super) run: PathBuf,
    /// The images' ids.
    pub(super) images: HashSet<u64>,
}

/// Trains the folds of a run's images below a folder, or goes on with them.
pub(super) fn train(
    arguments: &ErrorsArguments,
    config: &ExperimentConfig,
    annotations: &Path,
    (out, count): (&Path, usize),
) -> Result<Vec<Fold>, Failure> {
    // Children get the signal too, finish their step and write a checkpoint.
    signals::catch()
        .context("cannot watch for Ctrl-C")
        .map_err(Failure::Work)?;
    let shares = vec![1.0 / count as f64; count];
    let parts = split(annotations, &shares, config.seed.get()).map_err(Failure::work)?;
    let mut folds = Vec::with_capacity(count);
    for place in 0..count {
        let folder = out.join("folds").join((place + 1).to_string());
        let [learned, held_out] = [folder.join("train.json"), folder.join("val.json")];
        write_once(&learned, &all_but(&parts, place))?;
        write_once(&held_out, &parts[place])?;
        let fold = Fold {
            run: folder.join("run"),
            images: ids(&parts[place]),
        };
        let number = format!("{} of {count}", place + 1);
        train_one(
            arguments,
            config,
            (&number, &fold.run),
            [&learned, &held_out],
        )?;
        folds.push(fold);
    }
    Ok(folds)
}

fn train_one(
    arguments: &ErrorsArguments,
    config: &ExperimentConfig,
    (number, run): (&str, &Path),
    [learned, held_out]: [&Path; 2],
) -> Result<(), Failure> {
    let images = config.data.root.join(&config.data.train.images);
    let set = [
        ("data.train.annotations", learned),
        ("data.train.images", &images),
        ("data.val.annotations", held_out),
        ("data.val.images", &images),
    ];
    let of_fold = set.into_iter().map(|(key, path)| {
        let path = serde_json::to_string(&std::path::absolute(path)?)?;
        Ok((key.to_owned(), path))
    });
    // The fold's own come last, so that nothing else is learned from.
    let mut set = arguments.settings.set.clone();
    set.extend(
        of_fold
            .collect::<anyhow::Result<Vec<_>>>()
            .map_err(Failure::Work)?,
    );
    let config = arguments.run.join("config.toml");
    if has_ended(run)? {
        return require_unchanged(&load_config(&config, &set)?, run);
    }
    console::note(&format!("fold {number}: {}", run.display()));
    let training = Training {
        config: &config,
        run,
        set,
        device: arguments.device.as_deref(),
    };
    let status = run_to_end(training.command().map_err(Failure::work)?)?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::work(anyhow!(
        "`{}` was not trained to its end ({status}); what it said is above",
        run.display()
    )))
}

/// Writes a fold's annotations; they stay what its run has learned from.
fn write_once(path: &Path, content: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string(content).map_err(Failure::work)?;
    match fs_err::read_to_string(path) {
        Ok(before) if before == text => Ok(()),
        Ok(_) => Err(Failure::usage(anyhow!(
            "`{}` is of other labels, or of another number of folds: choose another --out",
            path.display()
        ))),
        Err(_) => {
            if let Some(folder) = path.parent() {
                fs_err::create_dir_all(folder).map_err(Failure::work)?;
            }
            super::write_over(path, text.as_bytes())
        }
    }
}

fn all_but(parts: &[Value], place: usize) -> Value {
    let mut all = parts[place].clone();
    for key in ["images", "annotations"] {
        let others = parts.iter().enumerate().filter(|(part, _)| *part != place);
        let lists = others.filter_map(|(_, part)| part[key].as_array());
        all[key] = lists.flatten().cloned().collect();
    }
    all
}

fn ids(part: &Value) -> HashSet<u64> {
    let images = part["images"].as_array().into_iter().flatten();
    // pandas writes whole numbers as floats.
    let id = |image: &Value| {
        image["id"]
            .as_u64()
            .or_else(|| Some(image["id"].as_f64()? as u64))
    };
    images.filter_map(id).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fold_learns_all_but_its_part() {
        let part = |id: u64| json!({ "images": [{ "id": id }], "annotations": [{ "image_id": id }], "categories": ["a"] });
        let parts = [part(1), part(2), part(3)];
        assert_eq!(
            all_but(&parts, 1),
            json!({
                "images": [{ "id": 1 }, { "id": 3 }],
                "annotations": [{ "image_id": 1 }, { "image_id": 3 }],
                "categories": ["a"],
            })
        );
        assert_eq!(ids(&parts[1]), HashSet::from([2]));
        let floats = json!({ "images": [{ "id": 7.0 }] });
        assert_eq!(ids(&floats), HashSet::from([7]));
    }

    #[test]
    fn annotations_of_other_labels_are_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1/train.json");
        write_once(&path, &json!([1])).unwrap();
        write_once(&path, &json!([1])).unwrap();
        assert!(write_once(&path, &json!([2])).is_err());
        assert_eq!(fs_err::read_to_string(&path).unwrap(), "[1]");
    }
}
