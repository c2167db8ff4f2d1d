//! How an experiment's files build on each other: the preset first, then `extends`, then the file,
//! then `--set`.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::config::ExperimentConfig;
use crate::presets::Preset;

/// The key that names the files that a file builds on, relative to itself.
const EXTENDS: &str = "extends";

/// How many files may build on one another in a row, and how many there may be in all, one that several
/// build on counted each time.
const MOST_FILES: [usize; 2] = [16, 256];

/// Keys of `[train]` that say the same in two ways: the later layer's choice replaces the
/// earlier's.
const LENGTHS: [&str; 2] = ["iterations", "epochs"];

/// What is counted in the unit of [`LENGTHS`], and so means nothing in the other.
const IN_UNITS_OF_LENGTH: [(&str, &str); 4] = [
    ("schedule", "milestones"),
    ("train", "eval_every"),
    ("train", "checkpoint_every"),
    ("train", "unfreeze_at"),
];

/// Reads an experiment: the preset that it names, the files that `extends` names, in order, then
/// the file itself, then the overrides of the command line: `("train.batch_size", "4")`.
///
/// # Errors
///
/// Returns an error where a file cannot be read or is no TOML, where a key or a value is unknown
/// (naming the nearest right one), or where files extend each other in a circle.
pub fn load_config(
    path: &Path,
    overrides: &[(String, String)],
) -> Result<ExperimentConfig, ConfigError> {
    let mut merged = read_layers(path, &mut Vec::new(), &mut 0)?;
    for (key, value) in overrides {
        let layer = override_table(key, value)?;
        let origin = format!("--set {key}={value}");
        parse(&layer, &origin)?;
        merge(&mut merged, layer);
    }
    let origin = path.display().to_string();
    if let Some(preset) = parse(&merged, &origin)?.preset {
        let mut base = preset_table(preset)?;
        merge(&mut base, merged);
        merged = base;
    }
    parse(&merged, &origin)
}

fn preset_table(preset: Preset) -> Result<Table, ConfigError> {
    let parsed = preset.toml().parse();
    parsed.map_err(|error: toml::de::Error| ConfigError::Invalid {
        origin: format!("the preset {preset:?}"),
        message: error.to_string(),
    })
}

/// The whole experiment as TOML, every key written out.
///
/// # Errors
///
/// Returns an error where a value has no TOML form; none of ours.
pub fn config_to_toml(config: &ExperimentConfig) -> Result<String, ConfigError> {
    toml::to_string(config).map_err(|error| ConfigError::Invalid {
        origin: "the config".to_owned(),
        message: error.to_string(),
    })
}

fn read_layers(
    path: &Path,
    ancestors: &mut Vec<PathBuf>,
    files: &mut usize,
) -> Result<Table, ConfigError> {
    if ancestors.iter().any(|ancestor| ancestor == path) {
        return Err(ConfigError::Circle {
            path: path.to_owned(),
        });
    }
    *files += 1;
    if ancestors.len() >= MOST_FILES[0] || *files > MOST_FILES[1] {
        return Err(ConfigError::TooManyFiles {
            path: path.to_owned(),
        });
    }
    let text = retinanet_files::read_text(path).map_err(ConfigError::Read)?;
    let origin = path.display().to_string();
    let mut own: Table = text
        .parse()
        .map_err(|error: toml::de::Error| ConfigError::Invalid {
            origin: origin.clone(),
            message: error.to_string().trim_end().to_owned(),
        })?;
    let bases = extended_files(own.remove(EXTENDS), &origin)?;
    parse(&own, &origin)?;

    ancestors.push(path.to_owned());
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut merged = Table::new();
    for base in bases {
        let base = read_layers(&normalize(&folder.join(base)), ancestors, files)?;
        merge(&mut merged, base);
    }
    ancestors.pop();
    merge(&mut merged, own);
    Ok(merged)
}

/// `extends = "a.toml"` or `extends = ["a.toml", "b.toml"]`.
fn extended_files(value: Option<Value>, origin: &str) -> Result<Vec<String>, ConfigError> {
    let invalid = || ConfigError::Invalid {
        origin: origin.to_owned(),
        message: format!("`{EXTENDS}` must be a file name or a list of file names"),
    };
    match value {
        None => Ok(Vec::new()),
        Some(Value::String(file)) => Ok(vec![file]),
        Some(Value::Array(files)) => files
            .into_iter()
            .map(|file| file.as_str().map(str::to_owned).ok_or_else(invalid))
            .collect(),
        Some(_) => Err(invalid()),
    }
}

/// `a/../b` as `b`, so that a file is recognised under every way to it.
fn normalize(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::ParentDir
                if normal
                    .components()
                    .next_back()
                    .is_some_and(|last| matches!(last, std::path::Component::Normal(_))) =>
            {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

/// `a.b = c` as the table that a file with that line would be. A value that is no TOML is a
/// string, so that `--set model.backbone=resnet34` needs no quotes.
fn override_table(key: &str, value: &str) -> Result<Table, ConfigError> {
    let value = format!("value = {value}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(value.to_owned()));
    if key.split('.').any(str::is_empty) {
        return Err(ConfigError::Invalid {
            origin: format!("--set {key}"),
            message: "a key looks like `train.batch_size`".to_owned(),
        });
    }
    let mut segments = key.rsplit('.');
    let last = segments.next().unwrap_or(key);
    let mut table = Table::from_iter([(last.to_owned(), value)]);
    for segment in segments {
        table = Table::from_iter([(segment.to_owned(), Value::Table(table))]);
    }
    Ok(table)
}

/// Puts a layer over those before it.
fn merge(base: &mut Table, layer: Table) {
    if counts_otherwise(base, &layer) {
        for (section, key) in IN_UNITS_OF_LENGTH {
            if let Some(section) = base.get_mut(section).and_then(Value::as_table_mut) {
                section.remove(key);
            }
        }
    }
    merge_values(base, layer);
}

/// Whether a layer counts the length of training in the other unit than those before it.
fn counts_otherwise(base: &Table, layer: &Table) -> bool {
    let unit = |table: &Table| {
        let train = table.get("train")?.as_table()?;
        LENGTHS
            .into_iter()
            .find(|length| train.contains_key(*length))
    };
    unit(layer).is_some() && unit(base).is_some() && unit(layer) != unit(base)
}

fn merge_values(base: &mut Table, layer: Table) {
    for (key, value) in layer {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(layer)) => {
                if LENGTHS.iter().any(|length| layer.contains_key(*length)) {
                    for length in LENGTHS {
                        base.remove(length);
                    }
                }
                merge_values(base, layer);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Reads a table as an experiment. Every layer is one by itself, since every key has a default;
/// so a fault is told with the file that it stands in.
fn parse(table: &Table, origin: &str) -> Result<ExperimentConfig, ConfigError> {
    let value = Value::Table(table.clone());
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let message = error.inner().message().to_owned();
        ConfigError::Invalid {
            origin: origin.to_owned(),
            message: explain(&path, &message),
        }
    })
}

/// Turns serde's "unknown field `a`, expected one of `b`, `c`" into a sentence with the nearest
/// right name.
fn explain(path: &str, message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (what, allowed) = if message.starts_with("unknown field") {
        ("key", "here are")
    } else if message.starts_with("unknown variant") {
        ("value", "it allows")
    } else {
        return format!("`{path}`: {message}");
    };
    let got = quoted.next().unwrap_or_default();
    let known: Vec<&str> = quoted.collect();
    let place = match what {
        "value" => format!("`{path}`: unknown value `{got}`"),
        // The path ends in the unknown key itself.
        _ => format!("unknown key `{path}`"),
    };
    let nearest = known
        .iter()
        .map(|known| (strsim::jaro_winkler(got, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(similarity, _)| *similarity > 0.6);
    match nearest {
        Some((_, nearest)) => format!("{place}, did you mean `{nearest}`?"),
        None => format!("{place}; {allowed} `{}`", known.join("`, `")),
    }
}

/// The config cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file cannot be read; the text names it.
    #[error("cannot read the config")]
    Read(#[source] std::io::Error),
    /// A file or an override says something that it cannot.
    #[error("{origin}: {message}")]
    Invalid {
        /// The file or the option.
        origin: String,
        /// What is wrong with it.
        message: String,
    },
    /// More files build on one another than anyone means.
    #[error(
        "too many files build on one another by `extends`, {} in a row or {} in all at most; the one too \
         many is `{}`",
        MOST_FILES[0], MOST_FILES[1], path.display()
    )]
    TooManyFiles {
        /// The file that is one too many.
        path: PathBuf,
    },
    /// Files extend each other in a circle.
    #[error("`{}` extends itself", path.display())]
    Circle {
        /// The file that is reached twice.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use retinanet_detector::{Architecture, P6Source};

    use super::*;

    fn write(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
        let path = folder.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, text).unwrap();
        path
    }

    fn set(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn refusal(text: &str, overrides: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = write(&folder, "run.toml", text);
        let error = load_config(&path, &set(overrides)).unwrap_err().to_string();
        error.replace(&path.display().to_string(), "run.toml")
    }

    #[test]
    fn chains_and_doublings_of_files_end() {
        let folder = tempfile::tempdir().unwrap();
        let bases = |index: usize, times: usize| {
            let base = format!("\"{}.toml\"", index + 1);
            format!("extends = [{}]", vec![base; times].join(", "))
        };
        for times in [1, 2] {
            for index in 0..30 {
                write(&folder, &format!("{index}.toml"), &bases(index, times));
            }
            write(&folder, "30.toml", "seed = 1");
            let error = load_config(&folder.path().join("0.toml"), &[]).unwrap_err();
            assert!(error.to_string().contains("too many files"), "{error}");
            let near = load_config(&folder.path().join("28.toml"), &[]).unwrap();
            assert_eq!(near.seed, 1);
        }
    }

    #[test]
    fn what_counts_in_the_other_unit_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let text = "[train]\nepochs = 20\nunfreeze_at = 5\neval_every = 2";
        write(&folder, "base.toml", text);
        let set = [("train.iterations".to_owned(), "40".to_owned())];
        let config = load_config(&folder.path().join("base.toml"), &set).unwrap();
        assert_eq!(config.train.unfreeze_at, None);
        assert_eq!(config.train.eval_every, None);
    }

    #[test]
    fn extends_comes_first_then_the_file_then_set() {
        let folder = tempfile::tempdir().unwrap();
        write(
            &folder,
            "parts/base.toml",
            "seed = 1\n[train]\nbatch_size = 2\niterations = 10\n[optimizer]\nlr = 0.5",
        );
        write(&folder, "parts/data.toml", "[data]\nroot = \"somewhere\"");
        let path = write(
            &folder,
            "runs/run.toml",
            "extends = [\"../parts/data.toml\", \"../parts/base.toml\"]\n\
             [train]\nbatch_size = 3\nepochs = 2\n[data]\nshort_side = 64",
        );
        let overrides = [
            ("model.backbone", "resnet34"),
            ("data.short_side", "[1, 2]"),
        ];
        let config = load_config(&path, &set(&overrides)).unwrap();
        assert_eq!(config.seed, 1);
        assert_eq!(config.optimizer.lr, 0.5);
        assert_eq!(config.train.batch_size.images(), 3);
        assert_eq!(
            (config.train.iterations, config.train.epochs),
            (None, Some(2))
        );
        assert_eq!(config.data.root, Path::new("somewhere"));
        assert_eq!(config.data.short_side, [1, 2]);
        assert_eq!(config.model.backbone, Architecture::Resnet34);
    }

    #[test]
    fn a_preset_lies_below_everything_wherever_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder, "base.toml", "[eval]\ndetections = 7");
        let text = "extends = \"base.toml\"\npreset = \"torchvision\"\n[model]\np6_from = \"c5\"";
        let path = write(&folder, "run.toml", text);
        let config = load_config(&path, &[]).unwrap();
        assert_eq!(config.eval.detections, 7);
        assert_eq!(config.model.p6_from, P6Source::C5);
        assert!(config.eval.clip_before_nms);

        let other = load_config(&path, &set(&[("preset", "detectron2")])).unwrap();
        assert!(!other.eval.clip_before_nms);
        assert_eq!(other.data.normalization.std, [1.0; 3]);
    }

    #[test]
    fn every_preset_is_a_config() {
        for preset in Preset::ALL {
            parse(&preset_table(preset).unwrap(), "preset").unwrap();
        }
        assert_eq!(
            refusal("preset = \"torchvison\"", &[]),
            "run.toml: `preset`: unknown value `torchvison`, did you mean `torchvision`?"
        );
    }

    #[test]
    fn what_was_counted_in_epochs_does_not_stay_for_iterations() {
        let config = |train: &str| {
            let folder = tempfile::tempdir().unwrap();
            let text = format!("preset = \"mmdetection\"\n[train]\n{train}");
            load_config(&write(&folder, "run.toml", &text), &[]).unwrap()
        };
        let default = ExperimentConfig::default().schedule.milestones;
        assert_eq!(config("iterations = 500").schedule.milestones, default);
        assert_eq!(config("epochs = 24").schedule.milestones, [8, 11]);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_right_one() {
        assert_eq!(
            refusal("[model]\nbackbon = \"resnet18\"", &[]),
            "run.toml: unknown key `model.backbon`, did you mean `backbone`?"
        );
        assert_eq!(
            refusal("[criterion.class]\ngama = 2.0", &[]),
            "run.toml: unknown key `criterion.class.gama`, did you mean `gamma`?"
        );
        assert_eq!(
            refusal("", &[("tarin.batch_size", "4")]),
            "--set tarin.batch_size=4: unknown key `tarin`, did you mean `train`?"
        );
    }

    #[test]
    fn an_unknown_value_is_refused_with_the_nearest_right_one() {
        assert_eq!(
            refusal("[model]\nbackbone = \"resnet5\"", &[]),
            "run.toml: `model.backbone`: unknown value `resnet5`, did you mean `resnet50`?"
        );
        let error = refusal("[train]\nbatch_size = \"many\"", &[]);
        assert!(
            error.starts_with("run.toml: `train.batch_size`: invalid type"),
            "{error}"
        );
    }

    #[test]
    fn a_fault_in_an_extended_file_names_that_file() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder, "base.toml", "[train]\nbatchsize = 2");
        let path = write(&folder, "run.toml", "extends = \"base.toml\"");
        let error = load_config(&path, &[]).unwrap_err().to_string();
        assert!(
            error.contains("base.toml: unknown key `train.batchsize`"),
            "{error}"
        );
    }

    #[test]
    fn files_that_extend_each_other_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder, "a.toml", "extends = \"b.toml\"");
        let path = write(&folder, "b.toml", "extends = \"./a.toml\"");
        let error = load_config(&path, &[]).unwrap_err();
        assert!(matches!(error, ConfigError::Circle { .. }), "{error}");
    }

    #[test]
    fn what_is_written_out_reads_back_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = ExperimentConfig::default();
        config.optimizer.clip_norm = Some(0.1);
        config.train.epochs = Some(3);
        let path = write(&folder, "whole.toml", &config_to_toml(&config).unwrap());
        assert_eq!(load_config(&path, &[]).unwrap(), config);
    }

    #[test]
    fn no_toml_and_no_file_are_told_with_the_name() {
        assert!(refusal("[train", &[]).starts_with("run.toml: "));
        let missing = Path::new("no/such/run.toml");
        let error = load_config(missing, &[]).unwrap_err();
        let ConfigError::Read(source) = error else {
            panic!("{error}");
        };
        assert!(source.to_string().contains("no/such/run.toml"));
    }
}
