//! The names of the classes, and which pictures are of which split.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hotcoco::Category;

use super::super::yaml::Yaml;
use super::{failed, read_text};
use crate::convert::{ConvertError, pictures};

const SPLITS: [&str; 4] = ["train", "val", "valid", "test"];

/// The splits that the `data.yaml` of a source lists, or else darknet's text files beside the names of its classes.
///
/// # Errors
///
/// Returns an error if there are no names of classes.
pub(in crate::convert) fn splits(source: &Path) -> Result<Vec<String>, ConvertError> {
    let is_list = source.is_file()
        && source
            .extension()
            .is_none_or(|it| it != "yaml" && it != "yml");
    let folder = source.parent().filter(|_| is_list);
    let classes = Classes::find(folder.unwrap_or(source))?;
    let Some(Yaml::Table(entries)) = &classes.yaml else {
        let listed = SPLITS.iter().filter(|name| classes.list(name).is_some());
        return Ok(listed.map(|name| (*name).to_owned()).collect());
    };
    // `val:` with nothing behind it lists nothing.
    let is_listed = |value: &Yaml| value.as_text().is_none_or(|text| !text.trim().is_empty());
    let splits =
        (entries.iter()).filter(|(key, value)| SPLITS.contains(&key.as_str()) && is_listed(value));
    splits
        .map(|(name, _)| match name.as_str() {
            // What is not trained on may be elsewhere.
            "test" => Ok(classes.split(name, source).is_ok().then(|| name.clone())),
            _ => classes.split(name, source).map(|_| Some(name.clone())),
        })
        .filter_map(Result::transpose)
        .collect()
}

/// The names of the classes, and the splits.
pub(super) struct Classes {
    names: BTreeMap<usize, String>,
    /// The `data.yaml`, if there is one.
    yaml: Option<Yaml>,
    /// The folder of the file that names them.
    folder: PathBuf,
}

impl Classes {
    /// Looks for a `data.yaml`, else for a list of names, in the source and up to two folders above.
    pub(super) fn find(source: &Path) -> Result<Self, ConvertError> {
        const YAML: [&str; 3] = ["data.yaml", "data.yml", "dataset.yaml"];
        const LISTS: [&str; 3] = ["classes.txt", "obj.names", "_darknet.labels"];
        if source.is_file() {
            return Self::of_yaml(source);
        }
        let folders: Vec<_> = source.ancestors().take(3).collect();
        let find = |names: &[&str]| {
            let paths = folders
                .iter()
                .flat_map(|folder| names.iter().map(|name| folder.join(name)));
            paths.into_iter().find(|path| path.is_file())
        };
        if let Some(path) = find(&YAML) {
            return Self::of_yaml(&path);
        }
        let Some(path) = find(&LISTS) else {
            return Err(failed(
                source,
                "there is no `data.yaml` and no `classes.txt` that names the classes",
            ));
        };
        let text = read_text(&path)?;
        let names = text.lines().map(|name| name.trim().to_owned());
        Ok(Self {
            names: (0..).zip(names.filter(|name| !name.is_empty())).collect(),
            yaml: None,
            folder: folder_of(&path),
        })
    }

    fn of_yaml(path: &Path) -> Result<Self, ConvertError> {
        let text = read_text(path)?;
        let yaml = Yaml::parse(&text).map_err(|error| failed(path, &error))?;
        let names = (yaml.get("names").and_then(names_of))
            .ok_or_else(|| failed(path, "its `names` are neither a list nor a table of names"))?;
        Ok(Self {
            names,
            yaml: Some(yaml),
            folder: folder_of(path),
        })
    }

    /// Whether labels are boxes with keypoints.
    pub(super) fn has_keypoints(&self) -> bool {
        let yaml = self.yaml.as_ref();
        yaml.is_some_and(|yaml| yaml.get("kpt_shape").is_some())
    }

    pub(super) fn categories(&self) -> Vec<Category> {
        let category = |(index, name): (&usize, &String)| Category {
            id: *index as u64 + 1,
            name: name.clone(),
            ..Category::default()
        };
        self.names.iter().map(category).collect()
    }

    /// Darknet's list of the pictures of a split, if there is one: a label file may have its name too.
    fn list(&self, split: &str) -> Option<PathBuf> {
        let path = self.folder.join(split).with_extension("txt");
        let text = retinanet_files::read_text(&path).ok()?;
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let first = lines.next()?.trim();
        pictures::is_picture(Path::new(first)).then_some(path)
    }

    /// The folders, or lists of pictures, of a split.
    pub(super) fn split(&self, split: &str, source: &Path) -> Result<Vec<PathBuf>, ConvertError> {
        let none = || {
            let list = match self.yaml {
                Some(_) => "data.yaml",
                None => &format!("{split}.txt"),
            };
            failed(source, &format!("no `{list}` lists a split `{split}`"))
        };
        let Some(yaml) = &self.yaml else {
            return self.list(split).map(|list| vec![list]).ok_or_else(none);
        };
        let folder = &self.folder;
        let base = match yaml.get("path").and_then(Yaml::as_text) {
            Some(path) if folder.join(path).is_dir() => folder.join(path),
            _ => folder.clone(),
        };
        let entries = match yaml.get(split) {
            Some(Yaml::Text(one)) => vec![one.as_str()],
            Some(Yaml::List(many)) => many.iter().filter_map(Yaml::as_text).collect(),
            Some(Yaml::Table(_)) | None => return Err(none()),
        };
        let place = |entry: &str| {
            // Roboflow writes `../train/images` for what is beside the file.
            let beside = entry.trim_start_matches("../");
            [base.join(entry), base.join(beside), folder.join(beside)]
                .into_iter()
                .find(|path| path.exists())
                .ok_or_else(|| {
                    failed(
                        source,
                        &format!("`{entry}` of the split `{split}` is not there"),
                    )
                })
        };
        entries.into_iter().map(place).collect()
    }
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

fn names_of(names: &Yaml) -> Option<BTreeMap<usize, String>> {
    let name = |value: &Yaml| Some(value.as_text()?.trim().to_owned());
    match names {
        Yaml::List(names) => (0..)
            .zip(names)
            .map(|(index, it)| Some((index, name(it)?)))
            .collect(),
        Yaml::Table(names) => (names.iter())
            .map(|(index, it)| Some((index.parse().ok()?, name(it)?)))
            .collect(),
        Yaml::Text(_) => None,
    }
}
