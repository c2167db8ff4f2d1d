//! A study: one config with a few changes each, trained with several seeds.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{anyhow, Context};
use retinanet_evaluation::Metric;
use serde::Deserialize;
use toml::Value;

use crate::failure::Failure;

/// The losses that a table can have besides the numbers of an evaluation.
const LOSSES: [&str; 3] = ["loss", "first_loss", "first_class_loss"];

/// The numbers that a table can have: those of an evaluation, and losses.
fn numbers() -> Vec<&'static str> {
    let of_evaluation = Metric::ALL.iter().map(|metric| metric.name);
    of_evaluation.chain(LOSSES).collect()
}

/// What a study's file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StudyFile {
    title: String,
    /// What it is about, for the table's reader.
    #[serde(default)]
    about: String,
    /// The config that all runs start from, relative to the study.
    base: PathBuf,
    #[serde(default = "one_seed")]
    seeds: Vec<u64>,
    #[serde(default = "default_metrics")]
    metrics: Vec<String>,
    /// Settings of all runs.
    #[serde(default)]
    set: Settings,
    /// Runs one by one.
    #[serde(default)]
    runs: Vec<VariantFile>,
    /// Or all combinations of these.
    #[serde(default)]
    grid: BTreeMap<String, Vec<Value>>,
}

type Settings = BTreeMap<String, Value>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VariantFile {
    name: String,
    #[serde(default)]
    set: Settings,
    /// The paper's numbers, in its units.
    #[serde(default)]
    paper: BTreeMap<String, f64>,
}

/// A study, checked.
#[derive(Debug)]
pub(crate) struct Study {
    pub(crate) title: String,
    pub(crate) about: String,
    pub(crate) base: PathBuf,
    pub(crate) metrics: Vec<String>,
    pub(crate) variants: Vec<Variant>,
}

/// A config of a study, with its runs.
#[derive(Debug)]
pub(crate) struct Variant {
    pub(crate) name: String,
    pub(crate) paper: BTreeMap<String, f64>,
    pub(crate) runs: Vec<StudyRun>,
}

/// One run to train.
#[derive(Clone, Debug)]
pub(crate) struct StudyRun {
    pub(crate) seed: u64,
    pub(crate) directory: PathBuf,
    /// For `--set`.
    pub(crate) set: Vec<(String, String)>,
}

fn one_seed() -> Vec<u64> {
    vec![0]
}

fn default_metrics() -> Vec<String> {
    ["AP", "AP50", "AP75"].map(Into::into).into()
}

impl Study {
    /// Reads a study; its runs go below `out`, and start from another config where there is one.
    pub(crate) fn read(path: &Path, out: &Path, base: Option<&Path>) -> Result<Self, Failure> {
        let read = || -> anyhow::Result<Self> {
            let file: StudyFile = toml::from_str(&retinanet_files::read_text(path)?)?;
            let mut study = Self::new(file, path, out)?;
            if let Some(base) = base {
                base.clone_into(&mut study.base);
            }
            Ok(study)
        };
        read()
            .with_context(|| format!("`{}` is no study", path.display()))
            .map_err(Failure::Usage)
    }

    fn new(file: StudyFile, path: &Path, out: &Path) -> anyhow::Result<Self> {
        if file.seeds.is_empty() || file.metrics.is_empty() {
            return Err(anyhow!("`seeds` and `metrics` must not be empty"));
        }
        let mut seeds = HashSet::new();
        if let Some(seed) = file.seeds.iter().find(|seed| !seeds.insert(**seed)) {
            return Err(anyhow!("`seeds` has {seed} twice"));
        }
        if let Some(metric) = file
            .metrics
            .iter()
            .find(|it| !numbers().contains(&it.as_str()))
        {
            return Err(anyhow!(
                "`metrics` has `{metric}`, and knows {}",
                numbers().join(", ")
            ));
        }
        let mut variants = file.runs;
        if !file.grid.is_empty() {
            variants.extend(combinations(&file.grid));
        }
        if variants.is_empty() {
            return Err(anyhow!("it needs `[[runs]]` or `[grid]`"));
        }
        let mut folders = HashSet::new();
        let variants = variants.into_iter().map(|variant| {
            let folder = folder_name(&variant.name);
            if !folders.insert(folder.clone()) {
                return Err(anyhow!("two runs are called `{}`", variant.name));
            }
            let runs = file.seeds.iter().map(|seed| StudyRun {
                seed: *seed,
                directory: out.join(format!("{folder}-seed-{seed}")),
                set: settings(&[&file.set, &variant.set], *seed),
            });
            Ok(Variant {
                runs: runs.collect(),
                name: variant.name,
                paper: variant.paper,
            })
        });
        Ok(Self {
            variants: variants.collect::<Result<_, _>>()?,
            base: path.parent().unwrap_or(Path::new("")).join(file.base),
            title: file.title,
            about: file.about,
            metrics: file.metrics,
        })
    }

    /// All runs, variant by variant.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &StudyRun> {
        self.variants.iter().flat_map(|variant| &variant.runs)
    }
}

/// A variant for each combination of a value for every key, the last key going fastest.
fn combinations(grid: &BTreeMap<String, Vec<Value>>) -> Vec<VariantFile> {
    let mut all = vec![Settings::new()];
    for (key, values) in grid {
        let with = |settings: &Settings, value: &Value| {
            let mut settings = settings.clone();
            settings.insert(key.clone(), value.clone());
            settings
        };
        all = (all.iter())
            .flat_map(|settings| values.iter().map(move |value| with(settings, value)))
            .collect();
    }
    let named = all.into_iter().map(|set| {
        let short = |key: &str| key.rsplit('.').next().unwrap_or(key).to_owned();
        let parts: Vec<_> = (set.iter())
            .map(|(key, value)| format!("{} = {}", short(key), text(value)))
            .collect();
        VariantFile {
            name: parts.join(", "),
            set,
            paper: BTreeMap::new(),
        }
    });
    named.collect()
}

/// Settings for `--set`; of a key that stands several times the last counts.
fn settings(all: &[&Settings], seed: u64) -> Vec<(String, String)> {
    let mut merged = Settings::new();
    for settings in all {
        merged.extend(
            settings
                .iter()
                .map(|(key, value)| (key.clone(), value.clone())),
        );
    }
    let mut set: Vec<_> = (merged.iter())
        .map(|(key, value)| (key.clone(), text(value)))
        .collect();
    set.push(("seed".into(), seed.to_string()));
    set
}

/// As `--set` takes it: strings without quotes.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// A name for a folder: letters, digits and dots stay, all else becomes a dash.
fn folder_name(name: &str) -> String {
    let kept = |character: char| match character {
        _ if character.is_alphanumeric() || character == '.' => character,
        _ => '-',
    };
    let name: String = name.chars().map(kept).collect();
    let parts = name.split('-').filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use retinanet_experiment::{check_settings, load_config};

    use super::*;

    /// What studies start from.
    const BASES: [&str; 5] = [
        "backbone.toml",
        "base.toml",
        "base_bccd.toml",
        "base_harder.toml",
        "base_network.toml",
    ];

    fn read(text: &str) -> anyhow::Result<Study> {
        let file = toml::from_str(text)?;
        Study::new(file, Path::new("studies/a.toml"), Path::new("out"))
    }

    #[test]
    fn runs_have_the_settings_of_all_their_own_and_a_seed() {
        let study = read(
            r#"
            title = "t"
            base = "../quickstart.toml"
            seeds = [0, 7]
            set = { "train.epochs" = 2, "criterion.class.gamma" = 1.0 }
            [[runs]]
            name = "γ = 2"
            set = { "criterion.class.gamma" = 2.0, "criterion.class.kind" = "focal" }
            paper = { AP = 34.0 }
            "#,
        )
        .unwrap();
        assert_eq!(study.base, Path::new("studies/../quickstart.toml"));
        let variant = &study.variants[0];
        assert_eq!(variant.paper["AP"], 34.0);
        assert_eq!(variant.runs.len(), 2);
        let run = &variant.runs[1];
        assert_eq!(run.directory, Path::new("out/γ-2-seed-7"));
        let set: Vec<_> = run.set.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            set,
            [
                "criterion.class.gamma=2.0",
                "criterion.class.kind=focal",
                "train.epochs=2",
                "seed=7"
            ]
        );
    }

    #[test]
    fn a_grid_is_all_combinations() {
        let study = read(
            r#"
            title = "t"
            base = "b.toml"
            [grid]
            "model.anchors.scales_per_octave" = [1, 2]
            "model.anchors.aspect_ratios" = [[1.0], [0.5, 1.0, 2.0]]
            "#,
        )
        .unwrap();
        let names: Vec<_> = study.variants.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "aspect_ratios = [1.0], scales_per_octave = 1",
                "aspect_ratios = [1.0], scales_per_octave = 2",
                "aspect_ratios = [0.5, 1.0, 2.0], scales_per_octave = 1",
                "aspect_ratios = [0.5, 1.0, 2.0], scales_per_octave = 2",
            ]
        );
    }

    #[test]
    fn the_studies_that_come_along_are_sound() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/studies");
        let mut studies = 0;
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let toml = path
                .extension()
                .is_some_and(|extension| extension == "toml");
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !toml || BASES.contains(&&*name) {
                continue;
            }
            studies += 1;
            for base in [None, Some("base_bccd.toml"), Some("base_harder.toml")] {
                let base = base.map(|base| path.with_file_name(base));
                let study = Study::read(&path, Path::new("out"), base.as_deref()).unwrap();
                for run in study.runs() {
                    let config = load_config(&study.base, &run.set).unwrap();
                    check_settings(&config).unwrap();
                }
            }
        }
        assert_eq!(studies, 9);
    }

    #[test]
    fn what_makes_no_study_is_refused() {
        for (text, message) in [
            ("title = \"t\"\nbase = \"b\"", "[[runs]]"),
            ("title = \"t\"\nbase = \"b\"\nseed = 3", "seed"),
            (
                "title = \"t\"\nbase = \"b\"\nseeds = []\n[grid]\na = [1]",
                "seeds",
            ),
            (
                "title = \"t\"\nbase = \"b\"\nseeds = [1, 1]\n[grid]\na = [1]",
                "`seeds` has 1 twice",
            ),
            (
                "title = \"t\"\nbase = \"b\"\nmetrics = [\"APP\"]\n[grid]\na = [1]",
                "`APP`",
            ),
            (
                "title = \"t\"\nbase = \"b\"\n[[runs]]\nname = \"a b\"\n[[runs]]\nname = \"a-b\"",
                "two runs",
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
