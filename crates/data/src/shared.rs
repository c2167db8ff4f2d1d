//! Real data for tests, where there is some.

use std::env;
use std::path::{Path, PathBuf};

/// A folder of the shared data: below `$RETINANET_SHARED`, else below `shared/` beside the
/// repository.
#[expect(clippy::print_stderr, reason = "a skipped test must say so")]
pub(crate) fn shared_data(folder: &str) -> Option<PathBuf> {
    let shared = env::var_os("RETINANET_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let folder = shared.join("data").join(folder);
    if !folder.is_dir() {
        eprintln!("skipped: {} does not exist", folder.display());
        return None;
    }
    Some(folder)
}
