//! A study: one config with a few changes each, trained with several seeds.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use retinanet_evaluation::Metric;
use serde::Deserialize;
use toml::Value;

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
pub struct Study {
    /// The table's heading.
    pub title: String,
    /// What it is about; may be empty.
    pub about: String,
    /// The config that all runs start from.
    pub base: PathBuf,
    /// The numbers of the table, by name.
    pub metrics: Vec<String>,
    /// The table's rows.
    pub variants: Vec<Variant>,
}

/// A config of a study, with its runs.
#[derive(Debug)]
pub struct Variant {
    /// The name of the row.
    pub name: String,
    /// The paper's numbers, in its units.
    pub paper: BTreeMap<String, f64>,
    /// A run for each seed.
    pub runs: Vec<StudyRun>,
}

/// One run to train.
#[derive(Clone, Debug)]
pub struct StudyRun {
    /// The seed, which is among the settings too.
    pub seed: u64,
    /// The run directory.
    pub directory: PathBuf,
    /// Keys and values, as `--set` takes them.
    pub set: Vec<(String, String)>,
}

/// A file that is not a study.
#[derive(Debug, thiserror::Error)]
#[error("`{}` is not a study", path.display())]
pub struct StudyError {
    path: PathBuf,
    source: Flaw,
}

/// What a study's file has wrong.
#[derive(Debug, thiserror::Error)]
enum Flaw {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error(transparent)]
    Toml(#[from] toml::de::Error),
    #[error("`seeds` and `metrics` must not be empty")]
    Empty,
    #[error("`seeds` has {0} twice")]
    SeedTwice(u64),
    #[error("`metrics` has `{metric}`, and knows {known}")]
    Metric { metric: String, known: String },
    #[error("it needs `[[runs]]` or `[grid]`")]
    NoRuns,
    #[error("two runs are called `{0}`")]
    SameName(String),
}

fn one_seed() -> Vec<u64> {
    vec![0]
}

fn default_metrics() -> Vec<String> {
    ["AP", "AP50", "AP75"].map(Into::into).into()
}

impl Study {
    /// Reads a study; its runs go below `out`, and start from another config where there is one.
    ///
    /// # Errors
    /// If the file cannot be read, is not a study, or names a metric that there is not.
    pub fn read(path: &Path, out: &Path, base: Option<&Path>) -> Result<Self, StudyError> {
        let read = || {
            let file: StudyFile = toml::from_str(&retinanet_files::read_text(path)?)?;
            Self::new(file, path, out)
        };
        let mut study = read().map_err(|source| StudyError {
            path: path.to_owned(),
            source,
        })?;
        if let Some(base) = base {
            base.clone_into(&mut study.base);
        }
        Ok(study)
    }

    fn new(file: StudyFile, path: &Path, out: &Path) -> Result<Self, Flaw> {
        file.check()?;
        let mut variants = file.runs;
        if !file.grid.is_empty() {
            variants.extend(combinations(&file.grid));
        }
        if variants.is_empty() {
            return Err(Flaw::NoRuns);
        }
        let mut folders = HashSet::new();
        let variants = variants.into_iter().map(|variant| {
            let folder = folder_name(&variant.name);
            if !folders.insert(folder.clone()) {
                return Err(Flaw::SameName(variant.name));
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
    pub fn runs(&self) -> impl Iterator<Item = &StudyRun> {
        self.variants.iter().flat_map(|variant| &variant.runs)
    }
}

impl StudyFile {
    fn check(&self) -> Result<(), Flaw> {
        if self.seeds.is_empty() || self.metrics.is_empty() {
            return Err(Flaw::Empty);
        }
        let mut seeds = HashSet::new();
        if let Some(seed) = self.seeds.iter().find(|seed| !seeds.insert(**seed)) {
            return Err(Flaw::SeedTwice(*seed));
        }
        let known = numbers();
        match self.metrics.iter().find(|it| !known.contains(&it.as_str())) {
            Some(metric) => Err(Flaw::Metric {
                metric: metric.clone(),
                known: known.join(", "),
            }),
            None => Ok(()),
        }
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

/// Settings for `--set`; of a key that occurs several times the last counts.
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
    const BASES: [&str; 7] = [
        "backbone.toml",
        "base.toml",
        "base_bccd.toml",
        "base_harder.toml",
        "base_network.toml",
        "base_overlap.toml",
        "base_small_data.toml",
    ];

    fn read(text: &str) -> Result<Study, Flaw> {
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
        assert_eq!(studies, 12);
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
