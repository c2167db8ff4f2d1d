//! Where drawn images go, and what a folder that is there already holds besides.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, Context};
use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage};

use crate::commands::below;
use crate::console;
use crate::failure::Failure;

/// JPEG's quality, of 100: lines and letters stay sharp.
const QUALITY: u8 = 95;

/// The files of drawings in a folder, one for each image's name.
///
/// A JPEG file's drawing is one too, under the same name, and so is a PNG file's; every other one becomes a
/// PNG file, whose name keeps the old extension, so that `a.bmp` and `a.gif` do not meet.
pub(crate) fn files(folder: &Path, names: impl Iterator<Item = String>) -> Vec<PathBuf> {
    let mut taken = HashSet::new();
    let file = |name: String| {
        let mut file = folder.join(below(name));
        if !is_jpeg(&file) && !has_extension(&file, &["png"]) {
            append_png(&mut file);
        }
        while !taken.insert(file.clone()) {
            append_png(&mut file);
        }
        file
    };
    names.map(file).collect()
}

fn append_png(file: &mut PathBuf) {
    file.as_mut_os_string().push(".png");
}

fn is_jpeg(file: &Path) -> bool {
    has_extension(file, &["jpg", "jpeg", "jpe", "jfif"])
}

fn has_extension(file: &Path, extensions: &[&str]) -> bool {
    let extension = file.extension().and_then(OsStr::to_str);
    extension.is_some_and(|it| {
        extensions
            .iter()
            .any(|other| it.eq_ignore_ascii_case(other))
    })
}

/// Asks before drawings are mixed with other files: with those of another call, or of another program.
pub(crate) fn ask_before_mixing(folder: &Path, drawings: &[PathBuf]) -> Result<(), Failure> {
    let drawn = drawings.iter().cloned().collect();
    let holds = match count_others(folder, &drawn) {
        0 => return Ok(()),
        1 => "a file that is none of these drawings".to_owned(),
        others => format!("{others} files that are none of these drawings"),
    };
    let about = format!("`{}` holds {holds}", folder.display());
    if console::confirmed(&format!("{about}; draw into it nevertheless?")) {
        return Ok(());
    }
    Err(Failure::usage(anyhow!(
        "{about}, and nothing was drawn: choose another --out, or --yes draws into it nevertheless"
    )))
}

/// How many files are there besides, hidden ones aside.
fn count_others(folder: &Path, drawn: &HashSet<PathBuf>) -> usize {
    let entries = fs_err::read_dir(folder).into_iter().flatten().flatten();
    let count = |entry: fs_err::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => count_others(&entry.path(), drawn),
        _ => usize::from(!is_hidden(&entry.file_name()) && !drawn.contains(&entry.path())),
    };
    entries.map(count).sum()
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Writes a drawing whole, or leaves what is there.
pub(crate) fn write(path: &Path, image: &RgbImage) -> Result<(), Failure> {
    let mut file = Cursor::new(Vec::new());
    let encoded = if is_jpeg(path) {
        image.write_with_encoder(JpegEncoder::new_with_quality(&mut file, QUALITY))
    } else {
        image.write_to(&mut file, ImageFormat::Png)
    };
    encoded
        .map_err(anyhow::Error::new)
        .and_then(|()| Ok(retinanet_files::write_cached(path, file.into_inner())?))
        .with_context(|| format!("cannot write `{}`", path.display()))
        .map_err(Failure::Work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_keeps_its_images_format_where_it_can() {
        for (names, expected) in [
            (&["a.jpg", "b/c.JPEG"][..], &["a.jpg", "b/c.JPEG"][..]),
            (&["d.png", "d.bmp", "e"], &["d.png", "d.bmp.png", "e.png"]),
            (&["d.bmp", "d.bmp.png"], &["d.bmp.png", "d.bmp.png.png"]),
            (&["../f.gif"], &["f.gif.png"]),
        ] {
            let found = files(Path::new("out"), names.iter().map(|it| (*it).to_owned()));
            let expected: Vec<_> = expected
                .iter()
                .map(|it| Path::new("out").join(it))
                .collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_jpeg_is_written_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let image = RgbImage::new(20, 10);
        for (name, format) in [("a.JPG", ImageFormat::Jpeg), ("a.png", ImageFormat::Png)] {
            let path = folder.path().join(name);
            write(&path, &image).unwrap();
            let bytes = fs_err::read(&path).unwrap();
            assert_eq!(image::guess_format(&bytes).unwrap(), format, "{name}");
        }
    }
}
