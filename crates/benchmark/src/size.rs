use std::fmt;
use std::str::FromStr;

/// The longest side in pixels.
const MAX_SIDE: usize = 65_536;

/// Height and width of an image in pixels, written `512` or `800x1333`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSize {
    /// In pixels.
    pub height: usize,
    /// In pixels.
    pub width: usize,
}

impl ImageSize {
    pub(crate) const fn width_and_height(self) -> (u32, u32) {
        (self.width as u32, self.height as u32)
    }
}

impl FromStr for ImageSize {
    type Err = ImageSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let side = |text: &str| {
            let side = text.parse().ok().filter(|it| (1..=MAX_SIDE).contains(it));
            side.ok_or_else(|| ImageSizeError(text.to_owned()))
        };
        let (height, width) = text.split_once('x').unwrap_or((text, text));
        Ok(Self {
            height: side(height)?,
            width: side(width)?,
        })
    }
}

impl fmt::Display for ImageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

/// A side that is not one of an image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a whole number from 1 to {MAX_SIDE}")]
pub struct ImageSizeError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_size_is_one_side_or_height_and_width() {
        let size = |text: &str| text.parse::<ImageSize>();
        let square = ImageSize {
            height: 512,
            width: 512,
        };
        assert_eq!(size("512"), Ok(square));
        assert_eq!(size("800x1333").map(|size| size.width), Ok(1333));
        assert_eq!(
            size("800x1333").map(|size| size.to_string()),
            Ok("800x1333".to_owned())
        );
        for text in ["", "0", "x", "512x", "0x512", "1x2x3", "-1"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
