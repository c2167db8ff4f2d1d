//! Which files are for training and which for validation, by their names.

use std::path::{Path, PathBuf};

use super::DiscoverError;

/// What a name says that a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Train,
    Val,
    Test,
}

impl Half {
    const WORDS: [(&'static str, Self); 9] = [
        ("train", Self::Train),
        ("training", Self::Train),
        ("val", Self::Val),
        ("valid", Self::Val),
        ("validation", Self::Val),
        ("eval", Self::Val),
        ("dev", Self::Val),
        ("test", Self::Test),
        ("testing", Self::Test),
    ];

    /// What the path of a file or folder below a folder says: its own name first, then that of the folder around it, and of
    /// several words the last.
    pub(super) fn of(folder: &Path, path: &Path) -> Option<Self> {
        let relative = path.strip_prefix(folder).unwrap_or(path);
        let names = relative.components().rev();
        let mut said = names.filter_map(|name| {
            let text = name.as_os_str().to_string_lossy().to_lowercase();
            let mut words = text.rsplit(|it: char| !it.is_alphabetic());
            words.find_map(|word| {
                let known = Self::WORDS.iter().find(|(it, _)| *it == word);
                known.map(|(_, half)| *half)
            })
        });
        said.next()
    }
}

/// Whether a file is called as a half is.
pub(super) fn is_half(folder: &Path, path: &Path) -> bool {
    matches!(Half::of(folder, path), Some(Half::Train | Half::Val))
}

/// The files, or folders, of a data set's halves.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Halves {
    pub(super) train: PathBuf,
    pub(super) val: Option<PathBuf>,
}

/// Tells the halves by the words in the files' paths; nothing if there are no files.
pub(super) fn choose(folder: &Path, files: &[PathBuf]) -> Result<Option<Halves>, DiscoverError> {
    let relative = |path: &PathBuf| path.strip_prefix(folder).unwrap_or(path).to_owned();
    let of = |half: Option<Half>| -> Vec<&PathBuf> {
        let fitting = files.iter().filter(|path| Half::of(folder, path) == half);
        let mut fitting: Vec<_> = fitting.collect();
        // Of several the shortest name first: `train.json`, not `train_raw.json`.
        fitting.sort_by_key(|path| (relative(path).as_os_str().len(), relative(path)));
        fitting
    };
    let (train, val, test, other) = (
        of(Some(Half::Train)),
        of(Some(Half::Val)),
        of(Some(Half::Test)),
        of(None),
    );
    let evaluated = val.first().or(test.first()).map(|path| (*path).clone());
    // One file that no word names is what is trained on.
    match (&train[..], &other[..]) {
        ([train, ..], _) | ([], [train]) => Ok(Some(Halves {
            train: (*train).clone(),
            val: evaluated,
        })),
        ([], []) if files.is_empty() => Ok(None),
        _ if files.len() == 1 => Ok(Some(Halves {
            train: files[0].clone(),
            val: None,
        })),
        _ => Err(several(folder, files)),
    }
}

pub(super) fn several(folder: &Path, files: &[PathBuf]) -> DiscoverError {
    let relative = |path: &PathBuf| {
        let path = path.strip_prefix(folder).unwrap_or(path);
        if path.as_os_str().is_empty() {
            ".".to_owned()
        } else {
            path.display().to_string()
        }
    };
    DiscoverError::Several {
        folder: folder.to_owned(),
        files: files.iter().map(relative).collect(),
    }
}
