//! How an experiment's files build on each other: the defaults first, then the preset, then `extends`, then the file,
//! then `--set`.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::config::ExperimentConfig;
use crate::explain::explain;
use crate::keys::{NAMED, TAG, config_keys, in_units_of_length};
use crate::presets::Preset;
use crate::schema::join;

/// The key that names the files that a file builds on, relative to itself.
const EXTENDS: &str = "extends";

/// How many files may build on one another in a row, and how many there may be in all, one that several
/// build on counted each time.
const MOST_FILES: [usize; 2] = [16, 256];

/// Keys of `[train]` that say the same in two ways: the later layer's choice replaces the
/// earlier's.
const LENGTHS: [&str; 2] = ["iterations", "epochs"];

/// What one file or one option says.
struct Layer {
    /// The file, or the option.
    origin: String,
    table: Table,
}

/// Reads an experiment: the preset that it names, the files that `extends` names, in order, then
/// the file itself, then the overrides of the command line: `("train.batch_size", "4")`.
///
/// # Errors
///
/// Returns an error if a file cannot be read or is not TOML, if a key or a value is unknown
/// (naming the nearest right one) or out of range, or if files extend each other in a circle.
pub fn load_config(
    path: &Path,
    overrides: &[(String, String)],
) -> Result<ExperimentConfig, ConfigError> {
    let mut layers = Vec::new();
    read_layers(path, &mut Vec::new(), &mut 0, &mut layers)?;
    // What chooses among kinds comes first, in whatever order the command line has it.
    let mut overrides: Vec<_> = overrides.iter().collect();
    overrides.sort_by_key(|(key, _)| !chooses_a_kind(key));
    for (key, value) in overrides {
        let mut table = override_table(key, value)?;
        rename_tags(&mut table);
        layers.push(Layer {
            origin: format!("--set {key}={value}"),
            table,
        });
    }
    merge_layers(layers)
}

fn chooses_a_kind(key: &str) -> bool {
    let (section, name) = key.rsplit_once('.').unwrap_or_default();
    name == TAG || name == OLD_TAG && NAMED.contains(&section)
}

/// What the tag of some sections was called in 0.1.
const OLD_TAG: &str = "name";

fn rename_tags(table: &mut Table) {
    for section in NAMED {
        let section = table.get_mut(section).and_then(Value::as_table_mut);
        if let Some(section) = section.filter(|section| !section.contains_key(TAG))
            && let Some(kind) = section.remove(OLD_TAG)
        {
            section.insert(TAG.to_owned(), kind);
        }
    }
}

/// The experiment that layers make, the last one winning.
fn merge_layers(layers: Vec<Layer>) -> Result<ExperimentConfig, ConfigError> {
    let mut merged = to_table(&ExperimentConfig::default())?;
    let preset = layers.iter().rev().find(|it| it.table.contains_key(PRESET));
    if let Some(layer) = preset {
        let named = Table::from_iter([(PRESET.to_owned(), layer.table[PRESET].clone())]);
        if let Some(preset) = parse(&named, &layer.origin)?.preset {
            for table in preset_tables(preset)? {
                merge(&mut merged, table);
            }
        }
    }
    let mut config = ExperimentConfig::default();
    for Layer { origin, table } in layers {
        merge(&mut merged, table);
        config = parse(&merged, &origin)?;
    }
    Ok(config)
}

const PRESET: &str = "preset";

fn preset_tables(preset: Preset) -> Result<Vec<Table>, ConfigError> {
    let parsed = preset.toml().iter().map(|text| text.parse());
    let parsed: Result<_, toml::de::Error> = parsed.collect();
    parsed.map_err(|error| ConfigError::Invalid {
        origin: format!("the preset {preset:?}"),
        message: error.to_string(),
    })
}

fn to_table(config: &ExperimentConfig) -> Result<Table, ConfigError> {
    Table::try_from(config).map_err(|error| ConfigError::Invalid {
        origin: "the config".to_owned(),
        message: error.to_string(),
    })
}

/// The whole experiment as TOML, every key written out.
///
/// # Errors
///
/// Returns an error if a value has no TOML form; none of ours.
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
    layers: &mut Vec<Layer>,
) -> Result<(), ConfigError> {
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
    rename_tags(&mut own);
    ancestors.push(path.to_owned());
    let folder = path.parent().unwrap_or(Path::new(""));
    for base in bases {
        read_layers(&normalize(&folder.join(base)), ancestors, files, layers)?;
    }
    ancestors.pop();
    layers.push(Layer { origin, table: own });
    Ok(())
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

/// `a.b = c` as the table that a file with that line would be. A value that is not TOML is a
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
        for key in in_units_of_length() {
            remove(base, &key.path);
        }
    }
    merge_values(base, layer, "");
}

/// Removes a key, by its path.
fn remove(table: &mut Table, path: &str) {
    match path.split_once('.') {
        None => {
            table.remove(path);
        }
        Some((section, rest)) => {
            if let Some(section) = table.get_mut(section).and_then(Value::as_table_mut) {
                remove(section, rest);
            }
        }
    }
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

fn merge_values(base: &mut Table, layer: Table, path: &str) {
    if layer
        .get(TAG)
        .is_some_and(|kind| base.get(TAG) != Some(kind))
    {
        // What belonged to the other kind goes.
        for key in config_keys()
            .iter()
            .filter(|key| key.is_beside_a_kind_of(path))
        {
            base.remove(key.name());
        }
    }
    if LENGTHS.iter().any(|length| layer.contains_key(*length)) {
        for length in LENGTHS {
            base.remove(length);
        }
    }
    for (key, value) in layer {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(layer)) => {
                merge_values(base, layer, &join(path, &key));
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn parse(table: &Table, origin: &str) -> Result<ExperimentConfig, ConfigError> {
    explain(table).map_err(|message| ConfigError::Invalid {
        origin: origin.to_owned(),
        message,
    })
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
mod tests;
