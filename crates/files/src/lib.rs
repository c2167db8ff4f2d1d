//! Files that a person points the program at. An output is written whole or not at all, to wherever it
//! leads: a path, a link, a device, a pipe, or `-` for stdout. An input is a regular file, or refused
//! before it is opened: a pipe or a device would be waited for, or never end.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fs_err::{File, OpenOptions};
use tempfile::{Builder, NamedTempFile};

/// Links that are followed before they count as a circle, as Linux does.
const MOST_LINKS: usize = 40;

/// Writes to a file so that it holds all of `content` or stays as it was, whatever happens, and is on
/// the disk when this returns. Missing folders are made; links are followed; the file's permissions
/// stay.
///
/// `-` is stdout. A device, a pipe or a descriptor such as `/dev/stdout` is written to as it is.
///
/// # Errors
///
/// Returns an error if the target is a folder, or cannot be written. No other file is left behind.
pub fn write(target: impl AsRef<Path>, content: impl AsRef<[u8]>) -> io::Result<()> {
    write_to(target.as_ref(), content.as_ref(), true)
}

/// [`write()`], without waiting for the disk: for many files that can be made again. After a power cut
/// the file may be empty.
///
/// # Errors
///
/// As [`write()`].
pub fn write_cached(target: impl AsRef<Path>, content: impl AsRef<[u8]>) -> io::Result<()> {
    write_to(target.as_ref(), content.as_ref(), false)
}

/// The file that a target stands for, as one path however it is written, whether the file exists or
/// not; nothing if it is not a file. Two outputs with the same one would write over each other.
pub fn file_of(target: impl AsRef<Path>) -> Option<PathBuf> {
    match place(target.as_ref()).ok()? {
        Place::File(path) => {
            let folder = folder_of(&path).canonicalize().ok()?;
            Some(folder.join(path.file_name()?))
        }
        Place::Stdout | Place::Open(_) => None,
    }
}

/// The content of a regular file.
///
/// # Errors
///
/// Returns an error if the file cannot be read, as [`require_file`] if there is none.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let path = path.as_ref();
    require_file(path)?;
    fs_err::read(path)
}

/// The text of a regular file, without a byte-order mark; UTF-16 with one, as some editors and shells
/// on Windows write, is taken too.
///
/// # Errors
///
/// As [`read`], and if the file is neither UTF-8 nor UTF-16.
pub fn read_text(path: impl AsRef<Path>) -> io::Result<String> {
    let path = path.as_ref();
    String::from_utf8(read_utf8(path)?).map_err(|_| no_text(path))
}

/// [`read_text`], where a parser follows that looks whether it is UTF-8 by itself.
///
/// # Errors
///
/// As [`read`], and if the file is marked as UTF-16 and is none.
pub fn read_utf8(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let path = path.as_ref();
    in_utf8(read(path)?).ok_or_else(|| no_text(path))
}

fn no_text(path: &Path) -> io::Error {
    let message = format!("`{}` is not text in UTF-8", path.display());
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Bytes without a mark, those of UTF-16 as UTF-8.
fn in_utf8(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = (bytes.chunks(2))
            .map(|pair| Some(unit(pair.try_into().ok()?)))
            .collect::<Option<_>>()?;
        Some(String::from_utf16(&units).ok()?.into_bytes())
    };
    match bytes.as_slice() {
        [0xFF, 0xFE, text @ ..] => utf16(text, u16::from_le_bytes),
        [0xFE, 0xFF, text @ ..] => utf16(text, u16::from_be_bytes),
        [0xEF, 0xBB, 0xBF, ..] => {
            bytes.drain(..3);
            Some(bytes)
        }
        _ => Some(bytes),
    }
}

/// Refuses what is not a regular file, with a message that names the path and says what it is.
///
/// # Errors
///
/// Returns an error if nothing is there, or a folder, a pipe, a socket or a device.
pub fn require_file(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    let metadata = path.metadata().map_err(|error| {
        let message = match error.kind() {
            io::ErrorKind::NotFound => format!("there is no `{}`", path.display()),
            _ => format!("`{}`: {error}", path.display()),
        };
        io::Error::new(error.kind(), message)
    })?;
    if metadata.is_file() {
        return Ok(());
    }
    let (kind, found) = if metadata.is_dir() {
        (io::ErrorKind::IsADirectory, "a folder")
    } else {
        (io::ErrorKind::InvalidInput, "a pipe or a device")
    };
    let message = format!("`{}` is {found}, not a file", path.display());
    Err(io::Error::new(kind, message))
}

/// What a path leads to.
enum Place {
    Stdout,
    /// A device, a pipe or a descriptor: nothing that could be renamed over.
    Open(PathBuf),
    /// A regular file, or none yet.
    File(PathBuf),
}

fn place(target: &Path) -> io::Result<Place> {
    if target == Path::new("-") {
        return Ok(Place::Stdout);
    }
    let mut path = target.to_owned();
    for _ in 0..MOST_LINKS {
        let kind = match path.symlink_metadata() {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::File(path)),
            Err(error) => return Err(error),
        };
        if kind.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if kind.is_file() {
            return Ok(Place::File(path));
        }
        if !kind.is_symlink() || is_descriptor(&path) {
            return Ok(Place::Open(path));
        }
        path = folder_of(&path).join(fs_err::read_link(&path)?);
    }
    Err(io::Error::other("too many links, one to another"))
}

/// Whether a link stands for one of the process's open files, such as `/proc/self/fd/1`. What such a
/// link reads as is not a path to follow.
fn is_descriptor(link: &Path) -> bool {
    let folder = folder_of(link).canonicalize().unwrap_or_default();
    folder.starts_with("/proc") && folder.ends_with("fd")
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn write_to(target: &Path, content: &[u8], sync: bool) -> io::Result<()> {
    match place(target)? {
        Place::Stdout => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(content)?;
            stdout.flush()
        }
        // Appending, because a descriptor may be a file that others have written to.
        Place::Open(path) => OpenOptions::new()
            .append(true)
            .open(path)?
            .write_all(content),
        Place::File(path) => replace(&path, content, sync),
    }
}

fn replace(path: &Path, content: &[u8], sync: bool) -> io::Result<()> {
    let folder = folder_of(path);
    fs_err::create_dir_all(folder)?;
    let mut beside = new_beside(folder)?;
    beside.write_all(content)?;
    if let Ok(metadata) = path.metadata() {
        beside.as_file().set_permissions(metadata.permissions())?;
    }
    if sync {
        beside.as_file().sync_all()?;
    }
    beside.persist(path).map_err(|failed| failed.error)?;
    if sync && cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// A file of a name that nobody has, which goes away unless it is renamed.
fn new_beside(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(".retinanet-").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file's: the process's mask is taken off.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = folder.read_dir().unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("new/found.json");
        write(&target, "first").unwrap();
        // What programs of old called the file beside it may be a person's own.
        let own = folder.path().join("new/found.json.tmp");
        fs_err::write(&own, "mine").unwrap();
        write(&target, "second").unwrap();
        assert_eq!(fs_err::read_to_string(&target).unwrap(), "second");
        assert_eq!(fs_err::read_to_string(&own).unwrap(), "mine");
        assert_eq!(
            names(target.parent().unwrap()),
            ["found.json", "found.json.tmp"]
        );
    }

    #[test]
    fn text_is_read_whatever_marks_its_encoding() {
        let text = "{\"名\": \"é\"}";
        let units: Vec<u16> = text.encode_utf16().collect();
        let little = (units.iter()).flat_map(|unit| unit.to_le_bytes());
        let big = (units.iter()).flat_map(|unit| unit.to_be_bytes());
        for bytes in [
            text.as_bytes().to_vec(),
            [b"\xEF\xBB\xBF", text.as_bytes()].concat(),
            [0xFF, 0xFE].into_iter().chain(little).collect(),
            [0xFE, 0xFF].into_iter().chain(big).collect(),
        ] {
            assert_eq!(in_utf8(bytes).as_deref(), Some(text.as_bytes()));
        }
        for bytes in [&b"\xFF\xFEa"[..], b"\xFF\xFE\x00\xD8"] {
            assert_eq!(in_utf8(bytes.into()), None);
        }
        let folder = tempfile::tempdir().unwrap();
        let latin = folder.path().join("latin");
        fs_err::write(&latin, b"\xE9").unwrap();
        let message = read_text(&latin).unwrap_err().to_string();
        assert!(
            message.ends_with("latin` is not text in UTF-8"),
            "{message}"
        );
    }

    #[test]
    fn what_is_no_file_is_refused_before_it_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let message = read(folder.path()).unwrap_err().to_string();
        assert!(message.ends_with("is a folder, not a file"), "{message}");
        let absent = read(folder.path().join("absent")).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        assert!(absent.to_string().contains("absent"), "{absent}");
    }

    #[test]
    fn a_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = write(folder.path(), "text").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn one_file_is_the_same_however_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let roundabout = folder.path().join("./sub/../a.json");
        fs_err::create_dir(folder.path().join("sub")).unwrap();
        assert_eq!(file_of(&path), file_of(&roundabout));
        fs_err::write(&path, "").unwrap();
        assert_eq!(file_of(&path), file_of(roundabout));
        assert_ne!(file_of(path), file_of(folder.path().join("b.json")));
        assert_eq!(file_of("-"), None);
    }

    #[cfg(unix)]
    mod unix {
        use std::os::unix::fs::{PermissionsExt, symlink};
        use std::process::Command;

        use super::*;

        #[test]
        fn a_pipe_is_not_waited_for() {
            let folder = tempfile::tempdir().unwrap();
            let pipe = folder.path().join("pipe");
            assert!(
                Command::new("mkfifo")
                    .arg(&pipe)
                    .status()
                    .unwrap()
                    .success()
            );
            for path in [&pipe, Path::new("/dev/zero")] {
                let message = read(path).unwrap_err().to_string();
                assert!(message.contains("is a pipe or a device"), "{message}");
            }
        }

        #[test]
        fn permissions_stay() {
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("secret");
            fs_err::write(&target, "").unwrap();
            for mode in [0o600, 0o640, 0o666] {
                fs_err::set_permissions(&target, std::fs::Permissions::from_mode(mode)).unwrap();
                write(&target, "text").unwrap();
                let kept = target.metadata().unwrap().permissions().mode();
                assert_eq!(kept & 0o777, mode);
            }
        }

        #[test]
        fn a_new_file_has_the_permissions_of_any_other() {
            let folder = tempfile::tempdir().unwrap();
            let [ours, plain] = ["ours", "plain"].map(|name| folder.path().join(name));
            write(&ours, "").unwrap();
            fs_err::write(&plain, "").unwrap();
            let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
            assert_eq!(mode(&ours), mode(&plain));
        }

        #[test]
        fn links_are_followed_also_to_files_that_are_not_there() {
            let folder = tempfile::tempdir().unwrap();
            fs_err::create_dir(folder.path().join("elsewhere")).unwrap();
            let target = folder.path().join("elsewhere/file");
            let [link, further] = ["link", "further"].map(|name| folder.path().join(name));
            symlink("elsewhere/file", &link).unwrap();
            symlink(&link, &further).unwrap();
            for text in ["new", "replaced"] {
                write(&further, text).unwrap();
                assert_eq!(fs_err::read_to_string(&target).unwrap(), text);
            }
            assert!(link.is_symlink() && further.is_symlink());
            assert_eq!(file_of(further), file_of(target));
        }

        #[test]
        fn links_in_a_circle_are_an_error() {
            let folder = tempfile::tempdir().unwrap();
            let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
            symlink(&one, &other).unwrap();
            symlink(&other, &one).unwrap();
            assert!(write(&one, "text").is_err());
        }

        #[test]
        fn a_pipe_is_written_to() {
            let folder = tempfile::tempdir().unwrap();
            let pipe = folder.path().join("pipe");
            assert!(
                Command::new("mkfifo")
                    .arg(&pipe)
                    .status()
                    .unwrap()
                    .success()
            );
            let reader = std::thread::spawn({
                let pipe = pipe.clone();
                move || fs_err::read_to_string(pipe).unwrap()
            });
            write(&pipe, "through").unwrap();
            assert_eq!(reader.join().unwrap(), "through");
            assert_eq!(file_of(&pipe), None);
            assert_eq!(names(folder.path()), ["pipe"]);
        }
    }
}
