//! Whether the data is located where a config says, and what is there instead.

use std::path::{Path, PathBuf};

use crate::config::DataConfig;

/// A half of a config's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataSplit {
    /// What is trained on, `[data.train]`.
    Train,
    /// What is evaluated on, `[data.val]`.
    Val,
}

/// The data is not located where the config says.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MissingData {
    /// There is no such folder.
    #[error(
        "`data.root` is `{}`, which is not a folder; it starts from where the program is started, {}, which holds \
         {found}; `--set data.root=DIR` names another",
        root.display(),
        here.display()
    )]
    Root {
        /// What the config says.
        root: PathBuf,
        /// Where the program was started.
        here: PathBuf,
        /// What is there.
        found: String,
    },
    /// There is no such file.
    #[error(
        "`data.{split}.annotations` is `{}`, and there is no such file; `{}` holds {found}",
        annotations.display(),
        root.display()
    )]
    Annotations {
        /// `train` or `val`.
        split: &'static str,
        /// What the config says.
        annotations: PathBuf,
        /// The data's root.
        root: PathBuf,
        /// What is there.
        found: String,
    },
}

/// Refuses data that is not located where the config says, with what is there instead. The built-in data set
/// may be yet to be rendered.
///
/// # Errors
///
/// Returns an error if the root is not a folder, or a split's annotations are not there.
pub fn require_data(data: &DataConfig, splits: &[DataSplit]) -> Result<(), MissingData> {
    if data.synth.is_some() {
        return Ok(());
    }
    if !data.root.is_dir() {
        let here = std::path::absolute(".").unwrap_or_default();
        return Err(MissingData::Root {
            root: data.root.clone(),
            found: what_lies_in(&here),
            here,
        });
    }
    for split in splits {
        let (name, split) = match split {
            DataSplit::Train => ("train", &data.train),
            DataSplit::Val => ("val", &data.val),
        };
        let path = data.root.join(&split.annotations);
        if !path.exists() {
            let folder = path.parent().filter(|it| it.is_dir()).unwrap_or(&data.root);
            return Err(MissingData::Annotations {
                split: name,
                annotations: split.annotations.clone(),
                root: data.root.clone(),
                found: what_lies_in(folder),
            });
        }
    }
    Ok(())
}

/// A folder's first files and folders by name, for a message.
pub fn what_lies_in(folder: &Path) -> String {
    const SHOWN: usize = 8;
    let entries = fs_err::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = (entries.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.truncate(SHOWN);
    if names.is_empty() {
        "no files".to_owned()
    } else {
        format!("{}{more}", names.join(", "))
    }
}
