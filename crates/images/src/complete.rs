//! Whether a file has its end.

use image::ImageFormat;

/// Whether a file has its end. The decoders of JPEG and PNG take what they get: they fill the rest of a file
/// that was cut short with grey, or stop at the last pixel. A model must not learn from grey.
pub(crate) fn is_complete(bytes: &[u8], format: ImageFormat) -> bool {
    match format {
        ImageFormat::Jpeg => jpeg_is_complete(bytes),
        ImageFormat::Png => png_is_complete(bytes),
        _ => true,
    }
}

/// Whether the chunks of a PNG follow one another up to `IEND`.
fn png_is_complete(bytes: &[u8]) -> bool {
    const SIGNATURE: usize = 8;
    const LENGTH_TYPE_AND_CHECKSUM: usize = 12;
    let mut rest = bytes.get(SIGNATURE..).unwrap_or_default();
    while let &[a, b, c, d, ref tail @ ..] = rest {
        if tail.starts_with(b"IEND") {
            return true;
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        rest = rest
            .get(length.saturating_add(LENGTH_TYPE_AND_CHECKSUM)..)
            .unwrap_or_default();
    }
    false
}

/// Whether the segments and scans of a JPEG follow one another up to the end marker.
///
/// Searching for the marker's bytes would not do: an embedded thumbnail has one of its own.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    const START_OF_IMAGE: u8 = 0xD8;
    const END_OF_IMAGE: u8 = 0xD9;
    /// In a scan: an escaped `0xFF`, restarts, fill bytes. Outside: `TEM`, which is as bare.
    const BARE: [u8; 11] = [
        0x00,
        0x01,
        0xD0,
        0xD1,
        0xD2,
        0xD3,
        0xD4,
        0xD5,
        0xD6,
        0xD7,
        START_OF_IMAGE,
    ];
    let mut rest = bytes;
    // Between segments nothing but markers should stand, so that skipping to the next `0xFF`
    // crosses the data of a scan, and whatever junk a camera left, in the same way.
    while let Some(next) = rest.iter().position(|&byte| byte == 0xFF) {
        rest = &rest[next + 1..];
        match rest {
            [END_OF_IMAGE, ..] => return true,
            // A fill byte: the marker may begin at the next one.
            [0xFF, ..] => {}
            [marker, tail @ ..] if BARE.contains(marker) => rest = tail,
            &[_, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([high, low]));
                rest = rest.get(1 + length..).unwrap_or_default();
            }
            _ => return false,
        }
    }
    false
}
