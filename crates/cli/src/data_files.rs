//! Whether the data lies where a config says, and what lies there instead.

use std::path::Path;

use anyhow::anyhow;
use retinanet_trainer::ExperimentConfig;

use crate::args::Split;
use crate::failure::Failure;

/// Refuses data that is not where the config says, with what is there instead.
pub(crate) fn require_data(config: &ExperimentConfig, splits: &[Split]) -> Result<(), Failure> {
    let data = &config.data;
    if data.synth.is_some() {
        return Ok(());
    }
    if !data.root.is_dir() {
        let here = std::path::absolute(".").unwrap_or_default();
        return Err(Failure::work(anyhow!(
            "`data.root` is `{}`, which is no folder; it starts from where the program is started, {}, where \
             there lie {}; `--set data.root=DIR` names another",
            data.root.display(),
            here.display(),
            what_lies_in(&here)
        )));
    }
    for split in splits {
        let (key, split) = match split {
            Split::Train => ("train", &data.train),
            Split::Val => ("val", &data.val),
        };
        let path = data.root.join(&split.annotations);
        if !path.exists() {
            return Err(Failure::work(anyhow!(
                "`data.{key}.annotations` is `{}`, and there is no such file; in `{}` lie {}",
                split.annotations.display(),
                data.root.display(),
                what_lies_in(path.parent().filter(|it| it.is_dir()).unwrap_or(&data.root))
            )));
        }
    }
    Ok(())
}

/// A folder's first files and folders by name.
pub(crate) fn what_lies_in(folder: &Path) -> String {
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
