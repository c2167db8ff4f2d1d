use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::seals::SealError;

/// Makes a folder beside `folder`, complete and on disk, by what `write` puts into it; returns where. The caller
/// [`replace`]s the folder by it. Where that fails, nothing is left of it.
///
/// # Errors
///
/// Returns an error if `write` does, or if the folder cannot be made.
pub fn write_beside<E: From<SealError>>(
    folder: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<PathBuf, E> {
    let beside = fresh_beside(folder).map_err(SealError::Io)?;
    let written = write(&beside).and_then(|()| Ok(sync_folder(&beside).map_err(SealError::Io)?));
    if written.is_err() {
        // What there is of it takes room, on a disk that may be full.
        let _ = fs_err::remove_dir_all(&beside);
    }
    written.map(|()| beside)
}

/// Copies a whole checkpoint to `folder`, beside first and then renamed over what is there.
///
/// # Errors
///
/// Returns an error that names the file that cannot be read or written; what was there stays.
pub fn copy(from: &Path, folder: &Path) -> io::Result<()> {
    let beside = fresh_beside(folder)?;
    let copied = copy_files(from, &beside);
    if copied.is_err() {
        let _ = fs_err::remove_dir_all(&beside);
    }
    copied?;
    replace(&beside, folder)
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(from)? {
        let entry = entry?;
        let content = fs_err::read(entry.path())?;
        write_to_disk(&to.join(entry.file_name()), &content)?;
    }
    Ok(())
}

fn fresh_beside(folder: &Path) -> io::Result<PathBuf> {
    let beside = folder.with_extension("tmp");
    if beside.exists() {
        fs_err::remove_dir_all(&beside)?;
    }
    fs_err::create_dir_all(&beside)?;
    Ok(beside)
}

/// Renames `beside` to `folder`. A folder cannot be renamed over another, so the old one steps
/// aside for a moment; a kill in that moment leaves both whole under other names, and
/// [`recover`] puts the old one back.
///
/// # Errors
///
/// Returns an error if a folder cannot be renamed.
pub fn replace(beside: &Path, folder: &Path) -> io::Result<()> {
    let aside = aside(folder);
    if folder.exists() {
        if aside.exists() {
            fs_err::remove_dir_all(&aside)?;
        }
        fs_err::rename(folder, &aside)?;
    }
    fs_err::rename(beside, folder)?;
    if let Some(parent) = folder.parent() {
        sync_folder(parent)?;
    }
    if aside.exists() {
        fs_err::remove_dir_all(&aside)?;
    }
    Ok(())
}

/// Puts back what stepped aside in a [`replace`] that did not end.
///
/// # Errors
///
/// Returns an error if the folder cannot be renamed.
pub fn recover(folder: &Path) -> io::Result<()> {
    let aside = aside(folder);
    if !folder.exists() && aside.exists() {
        fs_err::rename(aside, folder)?;
    }
    Ok(())
}

/// Where a folder steps aside to.
pub fn aside(folder: &Path) -> PathBuf {
    folder.with_extension("old")
}

/// Puts the names in a folder on disk, where the system lets folders be synced.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = fs_err::File::open(folder)?;
        folder.sync_all()?;
    }
    Ok(())
}

/// Writes a file of a checkpoint, and puts it on disk.
///
/// # Errors
///
/// Returns an error that names the file if it cannot be written.
pub fn write_to_disk(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = fs_err::File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(folder: &Path, content: &str) -> PathBuf {
        let written = write_beside(folder, |beside| {
            let file = beside.join("state.json");
            write_to_disk(&file, content.as_bytes()).map_err(SealError::Io)
        });
        written.unwrap()
    }

    fn content(folder: &Path) -> String {
        fs_err::read_to_string(folder.join("state.json")).unwrap()
    }

    #[test]
    fn a_folder_is_replaced_whole_and_what_failed_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let last = root.path().join("last");
        for text in ["first", "second"] {
            replace(&make(&last, text), &last).unwrap();
            assert_eq!(content(&last), text);
        }
        let failed = write_beside(&last, |beside| {
            fs_err::write(beside.join("state.json"), "half").map_err(SealError::Io)?;
            Err(SealError::Io(io::Error::other("the disk is full")))
        });
        assert!(failed.is_err());
        assert_eq!(content(&last), "second");
        assert_eq!(fs_err::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_stepped_aside_comes_back() {
        let root = tempfile::tempdir().unwrap();
        let last = root.path().join("last");
        replace(&make(&last, "first"), &last).unwrap();
        // Killed between the two renamings.
        fs_err::rename(&last, aside(&last)).unwrap();
        recover(&last).unwrap();
        assert_eq!(content(&last), "first");
        recover(&last).unwrap();

        let best = root.path().join("best");
        copy(&last, &best).unwrap();
        assert_eq!(content(&best), "first");
    }
}
