//! Picture files below a folder.

use std::path::{Path, PathBuf};

use image::ImageFormat;

use super::ConvertError;

/// The pictures of a folder and the folders in it, or of a text file with a path a line; hidden files are
/// none. Paths start from the text file's folder, or from one that is not there any more: darknet's start from where its
/// program was run (`data/obj_train_data/a.jpg`), and go with the data to elsewhere.
///
/// # Errors
///
/// Returns an error if a folder or the file cannot be read.
pub(super) fn below(place: &Path) -> Result<Vec<PathBuf>, ConvertError> {
    let unreadable = |source| ConvertError::Read {
        path: place.into(),
        source,
    };
    if place.is_file() {
        let text = retinanet_files::read_text(place).map_err(unreadable)?;
        let folder = place.parent().unwrap_or(Path::new(""));
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        return Ok(lines.map(|line| listed(folder, line)).collect());
    }
    let mut found = Vec::new();
    let mut folders = vec![place.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let path = entry.path();
            let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            // A link to a folder may lead in a circle.
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            if is_hidden || (is_link && path.is_dir()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if is_picture(&path) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// The file that a line names: the longest end of it that is there, or the whole if none is.
fn listed(folder: &Path, line: &str) -> PathBuf {
    let slashes = line.replace('\\', "/");
    let whole = folder.join(&slashes);
    let starts = slashes.match_indices('/').map(|(at, _)| at + 1);
    let mut ends = starts.map(|start| folder.join(&slashes[start..]));
    if whole.is_file() {
        return whole;
    }
    ends.find(|path| path.is_file()).unwrap_or(whole)
}

/// Whether a file's name is a picture's.
pub(crate) fn is_picture(path: &Path) -> bool {
    ImageFormat::from_path(path).is_ok() || path.extension().is_some_and(|it| it == "jfif")
}
