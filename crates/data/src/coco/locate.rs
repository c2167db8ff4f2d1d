use std::path::{Path, PathBuf};

/// Where an image's file lies. If there is none of the name as the annotations write it, forms that other
/// systems and tools write for the same file are tried: `\\` between folders, `%20` for a space, and a
/// path that leads through the images' own folder, as in `C:\\photos\\images\\1.png` or `images/1.png`.
pub fn locate(root: &Path, name: &str) -> PathBuf {
    let plain = root.join(name);
    // Looking at each of a million files takes seconds.
    let is_plain = !name.contains(['\\', '%']) && below_root(root, name).is_none();
    if is_plain || plain.is_file() {
        return plain;
    }
    let slashes = name.replace('\\', "/");
    let decoded = percent_decoded(&slashes);
    let candidates = [Some(slashes.as_str()), decoded.as_deref()];
    (candidates.into_iter().flatten())
        .flat_map(|name| [Some(name), below_root(root, name)])
        .flatten()
        .map(|name| root.join(name))
        .find(|path| path.is_file())
        .unwrap_or(plain)
}

/// What follows the folder that is named as the root is.
fn below_root<'a>(root: &Path, name: &'a str) -> Option<&'a str> {
    let folder = format!("{}/", root.file_name()?.to_str()?);
    if let Some(rest) = name.strip_prefix(&folder) {
        return Some(rest);
    }
    let folder = format!("/{folder}");
    (name.rfind(&folder)).map(|start| &name[start + folder.len()..])
}

/// The name with `%20` and the like as the bytes that they stand for, if there are any.
fn percent_decoded(name: &str) -> Option<String> {
    let mut parts = name.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    let mut decoded = false;
    for part in parts {
        let byte = part
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let rest = if let Some(byte) = byte {
            decoded = true;
            bytes.push(byte);
            &part[2..]
        } else {
            bytes.push(b'%');
            part
        };
        bytes.extend_from_slice(rest.as_bytes());
    }
    if decoded {
        String::from_utf8(bytes).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_however_its_name_is_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().join("images");
        fs_err::create_dir_all(root.join("day 1")).expect("the folder is ours");
        let file = root.join("day 1/a.png");
        fs_err::write(&file, "").expect("the folder is ours");
        for name in [
            "day 1/a.png",
            "day 1\\a.png",
            "day%201/a.png",
            "images/day 1/a.png",
            "images\\day%201\\a.png",
            "C:\\photos\\images\\day 1\\a.png",
            "/elsewhere/images/day 1/a.png",
        ] {
            assert_eq!(locate(&root, name), file, "{name}");
        }
        // The name as it is written comes first, and is what is missed.
        fs_err::write(root.join("day%201"), "").expect("the folder is ours");
        assert_eq!(locate(&root, "day%201"), root.join("day%201"));
        assert_eq!(locate(&root, "b\\a.png"), root.join("b\\a.png"));
        assert_eq!(locate(Path::new(""), "a.png"), Path::new("a.png"));
    }

    #[test]
    fn what_stands_for_no_byte_stays() {
        assert_eq!(percent_decoded("100%.png"), None);
        assert_eq!(percent_decoded("%é"), None);
        assert_eq!(percent_decoded("%E5%90%8D%x").as_deref(), Some("名%x"));
        assert_eq!(percent_decoded("%FF"), None);
    }
}
