//! The image files.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::panic;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{ImageError, ImageReader};
use rayon::prelude::*;
use retinanet_images::{ImagesError, decode_image};

use crate::doctor::lenient::{Coco, Image};
use crate::doctor::report::Findings;
use crate::doctor::{Kind, Split};

/// Decodes the files of a split, and reads those of the other to tell which are the same.
pub(super) fn check(
    (split, coco): (&Split, &Coco),
    other: Option<(&Split, &Coco)>,
    progress: &(dyn Fn(usize, usize) + Sync),
    findings: &mut Findings,
) {
    let images = coco.images.records();
    let other_images = other.map_or(&[][..], |(_, coco)| coco.images.records());
    let total = images.len() + other_images.len();
    let done = AtomicUsize::new(0);
    let step = || progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);

    let looks: Vec<_> = (images.par_iter())
        .map(|image| {
            let look = Look::at(split, image);
            step();
            look
        })
        .collect();
    let other_prints: Vec<_> = (other_images.par_iter())
        .map(|image| {
            let print = other.and_then(|(split, _)| fingerprint(split, image));
            step();
            print
        })
        .collect();

    for (image, look) in images.iter().zip(&looks) {
        if let Some((kind, detail)) = &look.fault {
            findings.add(*kind, image.id, Some(&image.file_name), || detail.clone());
        }
    }
    let prints: Vec<_> = looks.iter().map(|look| look.fingerprint).collect();
    repeated(images, &prints, findings);
    shared((images, &prints), (other_images, &other_prints), findings);
}

/// Finds copies within a split.
fn repeated(images: &[Image], prints: &[Option<Fingerprint>], findings: &mut Findings) {
    let mut first = HashMap::new();
    for (image, print) in images.iter().zip(prints) {
        let Some(print) = print else { continue };
        let earlier: &Image = first.entry(print).or_insert(image);
        // The same name twice is a finding of its own.
        if earlier.file_name != image.file_name {
            findings.add(
                Kind::RepeatedImage,
                image.id,
                Some(&image.file_name),
                || format!("the same bytes as `{}`", earlier.file_name),
            );
        }
    }
}

/// Finds what is in both splits.
fn shared(
    (images, prints): (&[Image], &[Option<Fingerprint>]),
    (other_images, other_prints): (&[Image], &[Option<Fingerprint>]),
    findings: &mut Findings,
) {
    let others: HashMap<_, _> = (other_prints.iter().zip(other_images))
        .filter_map(|(print, image)| Some((print.as_ref()?, image)))
        .collect();
    for (image, print) in images.iter().zip(prints) {
        let other = print.as_ref().and_then(|print| others.get(print));
        if let Some(other) = other {
            findings.add(Kind::SharedImage, image.id, Some(&image.file_name), || {
                format!("`{}` of the other split", other.file_name)
            });
        }
    }
}

/// What can be told from a file.
struct Look {
    fingerprint: Option<Fingerprint>,
    fault: Option<(Kind, String)>,
}

impl Look {
    fn at(split: &Split, image: &Image) -> Self {
        // What has no name is reported as that.
        if image.file_name.trim().is_empty() {
            return Self {
                fingerprint: None,
                fault: None,
            };
        }
        let path = split.images_root.join(&image.file_name);
        Self {
            fingerprint: fingerprint(split, image),
            fault: fault(&path, image.size.as_ref().ok().copied()),
        }
    }
}

/// The length of a file and a hash of its bytes.
type Fingerprint = (usize, u64);

fn fingerprint(split: &Split, image: &Image) -> Option<Fingerprint> {
    let bytes = fs_err::read(split.images_root.join(&image.file_name)).ok()?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    Some((bytes.len(), hasher.finish()))
}

/// What is wrong with a file that should hold an image of this size, if that is known.
fn fault(path: &Path, expected: Option<(u32, u32)>) -> Option<(Kind, String)> {
    if !path.is_file() {
        return Some((Kind::MissingFile, format!("no file `{}`", path.display())));
    }
    // A decoder that panics is as bad as one that fails, and there are more images to look at.
    let found = match panic::catch_unwind(|| decode_image(path)) {
        Ok(Ok(image)) => image.dimensions(),
        Ok(Err(error)) => return Some(decode_fault(&error)),
        Err(_) => return Some((Kind::UndecodableFile, "the decoder panicked".into())),
    };
    let expected = expected.filter(|&expected| expected != found)?;
    let sizes = format!(
        "{}×{} in the file, {}×{} in the annotations",
        found.0, found.1, expected.0, expected.1
    );
    // Before the orientation is applied it is what the annotations say.
    let rotated = expected == (found.1, found.0) && stored_size(path) == Some(expected);
    Some(if rotated {
        (
            Kind::RotatedSize,
            format!("{sizes}: the EXIF orientation swaps the sides"),
        )
    } else {
        (Kind::SizeMismatch, sizes)
    })
}

fn decode_fault(error: &ImagesError) -> (Kind, String) {
    match error {
        ImagesError::Truncated { .. } => (Kind::TruncatedFile, "its end marker is missing".into()),
        ImagesError::Decode {
            source: ImageError::IoError(error),
            ..
        } if error.kind() == io::ErrorKind::UnexpectedEof => {
            (Kind::TruncatedFile, "it ends too early".into())
        }
        ImagesError::Decode { source, .. } => (Kind::UndecodableFile, source.to_string()),
        ImagesError::Read { source, .. } => (Kind::UndecodableFile, source.to_string()),
        other => (Kind::UndecodableFile, other.to_string()),
    }
}

/// Width and height of the pixels as stored, before any orientation.
fn stored_size(path: &Path) -> Option<(u32, u32)> {
    let reader = ImageReader::open(path).ok()?.with_guessed_format().ok()?;
    reader.into_dimensions().ok()
}
