//! The file of the weights that training starts from, wherever they are: a place is what the config names.
//!
//! | place | what |
//! |---|---|
//! | `builtin:retinanet_resnet18` | the detector that ships with the program |
//! | `builtin:resnet18` | its backbone |
//! | `torchvision:resnet50` | a file that torchvision publishes, by the name of its function |
//! | `hf:timm/resnet50.tv_in1k`, `hf:OWNER/NAME/FILE` | a file on the Hugging Face Hub |
//! | `https://HOST/FILE#sha256=DIGITS` | any file, with the checksum that it must have |
//! | `runs/other`, `runs/other/checkpoints/last` | the best weights of a run, or those of a checkpoint |
//! | `weights/r50.pth` | a file |
//!
//! What is fetched is kept in a [`Cache`], and fetched once.
//!
//! ```
//! use retinanet_pretrained::{Cache, weights_file};
//!
//! # fn main() -> Result<(), retinanet_pretrained::PretrainedError> {
//! let file = weights_file("weights/r50.pth", &Cache::of_user(), &mut |_done, _total| {})?;
//! assert_eq!(file.to_str(), Some("weights/r50.pth"));
//! # Ok(())
//! # }
//! ```

mod builtin;
mod cache;
mod checksum;
mod fetch;
mod packed;
mod place;
mod torchvision;

use std::path::{Path, PathBuf};

use retinanet_checkpoint::{AVERAGE_FILE, Checkpoints, MODEL_FILE, is_checkpoint};

pub use builtin::{BUILTIN, BUILTIN_BACKBONE};
pub use cache::Cache;
pub use checksum::Checksum;
pub use fetch::FetchError;

use place::Place;

/// The file of the weights at a place; see the [crate](self) for what a place can be.
///
/// `progress` is told how many bytes of how many have come, if they are fetched.
///
/// # Errors
///
/// Returns an error if the place names nothing, or if its file can neither be found in the cache nor be fetched; it says
/// which file to put where.
pub fn weights_file(
    place: &str,
    cache: &Cache,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<PathBuf, PretrainedError> {
    match Place::parse(place)? {
        Place::Builtin(weights) => weights.file(cache),
        Place::Remote(remote) => remote.file(cache, progress),
        Place::Local(path) => Ok(local_file(path)),
    }
}

/// A file as it is; of a run the best weights, and of a checkpoint those that it evaluates with.
fn local_file(path: PathBuf) -> PathBuf {
    let checkpoints = Checkpoints::of(&path);
    let folders = [path.clone(), checkpoints.best(), checkpoints.last()];
    let checkpoint = folders.iter().find(|folder| is_checkpoint(folder));
    checkpoint.map_or(path, |folder| weights_of(folder))
}

fn weights_of(checkpoint: &Path) -> PathBuf {
    let files = [AVERAGE_FILE, MODEL_FILE].map(|name| checkpoint.join(name));
    let [_, model] = &files;
    files
        .iter()
        .find(|file| file.is_file())
        .unwrap_or(model)
        .clone()
}

/// Why there are no weights to start from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PretrainedError {
    /// The place names nothing.
    #[error("`{place}` names no weights: {reason}")]
    Place {
        /// What was given.
        place: String,
        /// What it should be.
        reason: String,
    },
    /// A file could not be fetched.
    #[error(
        "cannot fetch {url}; to go on without a network, put that file at `{}`, or give the path where it is",
        target.display()
    )]
    Fetch {
        /// Where it is.
        url: String,
        /// Where the cache has it.
        target: PathBuf,
        /// What went wrong.
        source: FetchError,
    },
    /// A file is not the one that was asked for.
    #[error("`{}` has the SHA-256 {found}, and {wanted} is asked for: it is another file, or damaged; remove it", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// What it should have.
        wanted: Checksum,
        /// What it has.
        found: String,
    },
    /// What ships with the program could not be unpacked into the cache.
    #[error(
        "cannot unpack the weights that ship with the program to `{}`; RETINANET_CACHE names another folder",
        path.display()
    )]
    Unpack {
        /// Where they go.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The cache could not be read or written; the message names the file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_progress() -> impl FnMut(u64, Option<u64>) {
        |_, _| {}
    }

    #[test]
    fn of_a_run_the_best_checkpoint_is_taken_and_of_that_the_average() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("cache"));
        let run = folder.path().join("run");
        let file = |place: &Path| {
            weights_file(place.to_str().unwrap(), &cache, &mut no_progress()).unwrap()
        };
        // No run yet: the path as it is, which reading refuses by name.
        assert_eq!(file(&run), run);

        let checkpoint = |name: &str, files: &[&str]| {
            let folder = run.join("checkpoints").join(name);
            fs_err::create_dir_all(&folder).unwrap();
            for file in files {
                fs_err::write(folder.join(file), "").unwrap();
            }
            folder
        };
        let last = checkpoint("last", &["state.json", MODEL_FILE]);
        assert_eq!(file(&run), last.join(MODEL_FILE));
        let best = checkpoint("best", &["state.json", MODEL_FILE, AVERAGE_FILE]);
        assert_eq!(file(&run), best.join(AVERAGE_FILE));
        assert_eq!(file(&last), last.join(MODEL_FILE));
    }
}
