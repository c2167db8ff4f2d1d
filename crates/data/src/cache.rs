use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use image::RgbImage;

use crate::DataError;

/// Decoded images in memory, up to a limit. Those that come first stay: each image comes at least
/// once an epoch, so that throwing one out for another gains little.
#[derive(Debug, Default)]
pub(crate) struct ImageCache {
    /// Bytes of pixels.
    limit: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: u64,
    images: HashMap<usize, Arc<RgbImage>>,
}

impl ImageCache {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            kept: Mutex::default(),
        }
    }

    /// The image of this place in the data set; decoded unless it is kept.
    pub(crate) fn get(
        &self,
        index: usize,
        decode: impl FnOnce() -> Result<RgbImage, DataError>,
    ) -> Result<Arc<RgbImage>, DataError> {
        if self.limit == 0 {
            return decode().map(Arc::new);
        }
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = kept().images.get(&index) {
            return Ok(Arc::clone(image));
        }
        // Outside the lock: two threads may decode the same image, but none waits.
        let image = Arc::new(decode()?);
        let bytes = image.as_raw().len() as u64;
        let mut kept = kept();
        if kept.bytes + bytes <= self.limit && !kept.images.contains_key(&index) {
            kept.bytes += bytes;
            kept.images.insert(index, Arc::clone(&image));
        }
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use retinanet_images::ImagesError;

    use super::*;

    /// How often 4 images of 48 bytes are decoded in three rounds.
    fn decoded(limit: u64) -> u32 {
        let cache = ImageCache::new(limit);
        let count = Cell::new(0);
        for _ in 0..3 {
            for index in 0..4 {
                let image = cache.get(index, || {
                    count.set(count.get() + 1);
                    Ok(RgbImage::from_pixel(4, 4, image::Rgb([index as u8; 3])))
                });
                let image = image.expect("it is painted here");
                assert_eq!(image.get_pixel(0, 0).0, [index as u8; 3]);
            }
        }
        count.get()
    }

    #[test]
    fn what_fits_is_decoded_once() {
        assert_eq!(decoded(0), 12);
        assert_eq!(decoded(47), 12);
        // Two fit; the others are decoded in every round.
        assert_eq!(decoded(2 * 48 + 47), 2 + 3 * 2);
        assert_eq!(decoded(4 * 48), 4);
    }

    #[test]
    fn an_image_that_fails_is_not_kept() {
        let cache = ImageCache::new(1000);
        let broken = || Err(ImagesError::Truncated { path: "a".into() }.into());
        assert!(cache.get(0, broken).is_err());
        assert!(cache.get(0, || Ok(RgbImage::new(1, 1))).is_ok());
        assert!(cache.get(0, broken).is_ok());
    }
}
