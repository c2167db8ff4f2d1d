//! The weights that training starts from, fetched with a bar.

use std::path::PathBuf;

use retinanet_pretrained::{weights_file, Cache, PretrainedError};

use crate::console;
use crate::failure::Failure;

/// The file of the weights at a place; see `retinanet_pretrained`.
pub(crate) fn file(place: &str) -> Result<PathBuf, Failure> {
    let mut bar = None;
    let file = weights_file(place, &Cache::of_user(), &mut |done, total| {
        let bar = bar.get_or_insert_with(|| console::download_bar(place));
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    file.map_err(|error| match error {
        PretrainedError::Place { .. } => {
            Failure::usage(anyhow::anyhow!("`model.pretrained`: {error}"))
        }
        error => Failure::work(error),
    })
}
