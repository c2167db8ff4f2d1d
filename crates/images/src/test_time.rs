//! How an image is looked at outside training: once and whole, or in several ways whose findings
//! are then put together.

use std::convert::Infallible;
use std::sync::Arc;

use image::{RgbImage, imageops};
use rayon::prelude::*;
use retinanet_boxes::BoundingBox;
use retinanet_settings::SettingError;

use crate::{PixelForm, Preparation, Prepared, Region, View};

/// A box that ends within so many pixels of a tile's border, in the network's input, may go on
/// behind it.
const BORDER: f32 = 2.0;

/// In which ways an image is looked at. The default is once: whole, and as evaluation sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct TestTimeAugmentation {
    /// Whether each view is repeated with left and right swapped.
    pub flip: bool,
    /// The lengths of the shorter side, in pixels, each of which makes a view; where empty, that of
    /// evaluation alone. The limit on the longer side grows and shrinks along.
    pub short_sides: Vec<u32>,
    /// Where given, larger images are looked at in square tiles of this side too, in pixels of the
    /// original image. Each is resized as an image of its size would be.
    pub tile: Option<u32>,
    /// The share of a tile that its neighbour shows too, in `[0, 1)`, less a pixel at most.
    pub tile_overlap: f64,
}

impl Default for TestTimeAugmentation {
    fn default() -> Self {
        Self {
            flip: false,
            short_sides: Vec::new(),
            tile: None,
            tile_overlap: 0.2,
        }
    }
}

impl TestTimeAugmentation {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// Returns an error with the setting that is out of its range.
    pub fn check(&self) -> Result<(), SettingError> {
        let sides = 1..=65_535;
        if let Some(side) = self.short_sides.iter().find(|it| !sides.contains(*it)) {
            let allowed = "lengths in [1, 65535]";
            return Err(SettingError::new("short_sides", allowed, side));
        }
        if let Some(tile) = self.tile.filter(|tile| !(32..=65_535).contains(tile)) {
            return Err(SettingError::new("tile", "in [32, 65535]", tile));
        }
        // With 0.9 every pixel is looked at a hundred times.
        if !(0.0..=0.9).contains(&self.tile_overlap) {
            let got = self.tile_overlap;
            return Err(SettingError::new("tile_overlap", "in [0, 0.9]", got));
        }
        Ok(())
    }

    /// The views of an image of this width and height.
    pub fn views(&self, preparation: &Preparation, size: (u32, u32)) -> Vec<TestTimeView> {
        let mut views = Vec::new();
        let plain = [preparation.config().short_side.as_u32()];
        let short_sides = match self.short_sides.as_slice() {
            [] => plain.as_slice(),
            short_sides => short_sides,
        };
        for region in self.regions(size) {
            let seen = (region.width as u32, region.height as u32);
            for &short_side in short_sides {
                let view = TestTimeView {
                    region,
                    resized: preparation.scaled_to(seen, short_side),
                    mirrored: false,
                    image: size,
                };
                views.push(view);
                if self.flip {
                    let mirrored = true;
                    views.push(TestTimeView { mirrored, ..view });
                }
            }
        }
        views
    }

    /// The whole image, and its tiles where it is larger than one.
    fn regions(&self, (width, height): (u32, u32)) -> Vec<Region> {
        let mut regions = vec![Region::whole((width, height))];
        let Some(tile) = self.tile.filter(|&tile| width > tile || height > tile) else {
            return regions;
        };
        for y in tile_starts(height, tile, self.tile_overlap) {
            for x in tile_starts(width, tile, self.tile_overlap) {
                regions.push(Region {
                    x: f64::from(x),
                    y: f64::from(y),
                    width: f64::from(tile.min(width)),
                    height: f64::from(tile.min(height)),
                });
            }
        }
        regions
    }
}

/// Where tiles begin along a side: as few as overlap enough, evenly spread.
fn tile_starts(side: u32, tile: u32, overlap: f64) -> Vec<u32> {
    let Some(rest) = side.checked_sub(tile).filter(|&rest| rest > 0) else {
        return vec![0];
    };
    let step = (f64::from(tile) * (1.0 - overlap)).max(1.0);
    let gaps = (f64::from(rest) / step).ceil() as u32;
    (0..=gaps)
        .map(|place| (u64::from(rest) * u64::from(place) / u64::from(gaps)) as u32)
        .collect()
}

/// One way of looking at an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TestTimeView {
    region: Region,
    /// Width and height that the region is resized to.
    resized: (u32, u32),
    mirrored: bool,
    /// Width and height of the upright image.
    image: (u32, u32),
}

impl TestTimeView {
    /// At an image of this width and height: whole, as evaluation sees it.
    pub fn plain(preparation: &Preparation, size: (u32, u32)) -> Self {
        Self {
            region: Region::whole(size),
            resized: preparation.resized_size(size),
            mirrored: false,
            image: size,
        }
    }

    /// Height and width of a batch with room for it, in pixels: views go into one batch
    /// where this is the same, and nothing of it depends on its neighbours then.
    pub fn padded_size(&self, preparation: &Preparation) -> (usize, usize) {
        preparation.padded_size([self.resized])
    }

    /// Maps a box from the resized region to the image, and clips it to that.
    #[must_use]
    pub fn to_original(&self, bbox: BoundingBox) -> BoundingBox {
        let Region { x, y, .. } = self.region;
        let (width, height) = (self.region.width as f32, self.region.height as f32);
        let (resized_width, resized_height) = (self.resized.0 as f32, self.resized.1 as f32);
        let bbox = if self.mirrored {
            bbox.flip_horizontally(resized_width)
        } else {
            bbox
        };
        bbox.scale(width / resized_width, height / resized_height)
            .clip(width, height)
            .translate(x as f32, y as f32)
    }

    /// Whether an object with this box in the image may go on where this view ends.
    pub fn cuts(&self, bbox: &BoundingBox) -> bool {
        let Region { x, y, .. } = self.region;
        let (left, top) = (x as f32, y as f32);
        let right = (x + self.region.width) as f32;
        let bottom = (y + self.region.height) as f32;
        let (width, height) = (self.image.0 as f32, self.image.1 as f32);
        let border_x = BORDER * (right - left) / self.resized.0 as f32;
        let border_y = BORDER * (bottom - top) / self.resized.1 as f32;
        (left > 0.0 && bbox.x1 < left + border_x)
            || (top > 0.0 && bbox.y1 < top + border_y)
            || (right < width && bbox.x2 > right - border_x)
            || (bottom < height && bbox.y2 > bottom - border_y)
    }

    /// How the region is seen once it is an image of its own: so a tile is seen as an image of its
    /// pixels would be, to the bit.
    fn view(&self) -> View {
        let size = (self.region.width as u32, self.region.height as u32);
        let mut view = View::of(0, Region::whole(size), self.resized);
        if self.mirrored {
            view.mirror();
        }
        view
    }

    /// The region's pixels.
    fn cut_out(&self, image: &Arc<RgbImage>) -> Arc<RgbImage> {
        let Region {
            x,
            y,
            width,
            height,
        } = self.region;
        if self.region == Region::whole(image.dimensions()) {
            return Arc::clone(image);
        }
        let [x, y, width, height] = [x, y, width, height].map(|edge| edge as u32);
        Arc::new(imageops::crop_imm(&**image, x, y, width, height).to_image())
    }
}

/// Prepares views of decoded, upright images, in one batch; pixels are in the form that was asked for where they can
/// be.
pub fn prepare_views(
    views: &[(Arc<RgbImage>, TestTimeView)],
    preparation: &Preparation,
    form: PixelForm,
) -> Prepared {
    let render = |(image, view): &(Arc<RgbImage>, TestTimeView)| {
        let image = view.cut_out(image);
        let decoded = |_| Ok::<_, Infallible>(Arc::clone(&image));
        let Ok(rendered) = view.view().render(preparation, decoded);
        rendered
    };
    let rendered: Vec<_> = views.par_iter().map(render).collect();
    Prepared::new(&rendered, preparation, form)
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use proptest::prelude::*;

    use super::*;
    use crate::{Interpolation, PreparationConfig, Side};

    fn preparation(short_side: u32, long_side: u32) -> Preparation {
        preparation_with(Interpolation::Antialiased, short_side, long_side)
    }

    fn preparation_with(
        interpolation: Interpolation,
        short_side: u32,
        long_side: u32,
    ) -> Preparation {
        let config = PreparationConfig {
            short_side: Side::literal(short_side.into()),
            long_side: Side::literal(long_side.into()),
            interpolation,
            ..PreparationConfig::default()
        };
        Preparation::new(&config).unwrap()
    }

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            Rgb([(x * 7 + y) as u8, (x ^ y) as u8, (y * 5) as u8])
        })
    }

    #[test]
    fn the_plain_look_is_the_whole_image() {
        let preparation = preparation(64, 128);
        let views = TestTimeAugmentation::default().views(&preparation, (90, 60));
        assert_eq!(views, [TestTimeView::plain(&preparation, (90, 60))]);
        let prepared = prepare_views(
            &[(Arc::new(picture(90, 60)), views[0])],
            &preparation,
            PixelForm::Numbers,
        );
        assert_eq!(prepared.sizes, [(96, 64)]);
        assert_eq!((prepared.height, prepared.width), (64, 96));
        assert_eq!(prepared.pixels.numbers().len(), 3 * 64 * 96);
        // 90 / 96 = 60 / 64 = 0.9375, and the image ends at 90.
        let original = views[0].to_original(BoundingBox::new(10.0, 16.0, 200.0, 32.0));
        assert_eq!(original, BoundingBox::new(9.375, 15.0, 90.0, 30.0));
        assert!(!views[0].cuts(&original));
    }

    #[test]
    fn a_tile_shows_what_an_image_of_its_pixels_would() {
        for interpolation in [Interpolation::Antialiased, Interpolation::Bilinear] {
            for side in [40, 64, 24] {
                compare_tile(&preparation_with(interpolation, side, 2 * side));
            }
        }
    }

    fn compare_tile(preparation: &Preparation) {
        let whole = picture(100, 80);
        let config = TestTimeAugmentation {
            tile: Some(40),
            tile_overlap: 0.0,
            ..TestTimeAugmentation::default()
        };
        let views = config.views(preparation, (100, 80));
        // All of it, then three columns with starts 0, 30 and 60, and two rows.
        assert_eq!(views.len(), 1 + 3 * 2);
        let part = imageops::crop_imm(&whole, 30, 40, 40, 40).to_image();
        let alone = TestTimeAugmentation::default().views(preparation, (40, 40))[0];
        let prepared = |image: RgbImage, view| {
            prepare_views(&[(Arc::new(image), view)], preparation, PixelForm::Numbers)
        };
        assert_eq!(prepared(whole, views[5]), prepared(part, alone));
    }

    #[test]
    fn a_look_in_a_mirror_sees_the_mirrored_image() {
        let image = picture(50, 40);
        let mirrored = imageops::flip_horizontal(&image);
        let preparation = preparation(40, 80);
        let config = TestTimeAugmentation {
            flip: true,
            short_sides: vec![40, 80],
            ..TestTimeAugmentation::default()
        };
        let views = config.views(&preparation, (50, 40));
        assert_eq!(views.len(), 4);
        assert_eq!(views[2].resized, (100, 80));
        let prepared = |image: &RgbImage, view| {
            prepare_views(
                &[(Arc::new(image.clone()), view)],
                &preparation,
                PixelForm::Numbers,
            )
        };
        assert_eq!(prepared(&image, views[1]), prepared(&mirrored, views[0]));
    }

    #[test]
    fn objects_that_reach_an_inner_border_are_cut() {
        let preparation = preparation(40, 80);
        let config = TestTimeAugmentation {
            tile: Some(60),
            ..TestTimeAugmentation::default()
        };
        let views = config.views(&preparation, (100, 60));
        let left = views[1];
        assert!(left.cuts(&BoundingBox::new(30.0, 10.0, 59.5, 20.0)));
        // The image ends here too.
        assert!(!left.cuts(&BoundingBox::new(0.0, 0.0, 30.0, 60.0)));
        assert!(!views[0].cuts(&BoundingBox::new(0.0, 0.0, 100.0, 60.0)));
    }

    #[test]
    fn settings_are_checked() {
        let config = TestTimeAugmentation {
            tile_overlap: 1.0,
            ..TestTimeAugmentation::default()
        };
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains("tile_overlap"), "{error}");
    }

    proptest! {
        #[test]
        fn tiles_cover_an_image_and_overlap_enough(
            side in 1_u32..5000,
            tile in 64_u32..1000,
            overlap in 0.0..0.9_f64,
        ) {
            let starts = tile_starts(side, tile, overlap);
            prop_assert_eq!(starts[0], 0);
            prop_assert!(starts[starts.len() - 1] + tile >= side);
            for pair in starts.windows(2) {
                let common = f64::from(pair[0] + tile) - f64::from(pair[1]);
                prop_assert!(pair[1] > pair[0]);
                // Starts are whole pixels.
                prop_assert!(common >= overlap * f64::from(tile) - 1.0);
            }
        }

        #[test]
        fn boxes_find_their_way_back(
            (width, height) in (20_u32..400, 20_u32..400),
            tile in 64_u32..300,
            flip: bool,
            unit in [0.0..1.0_f32, 0.0..1.0, 0.0..1.0, 0.0..1.0],
        ) {
            let config = TestTimeAugmentation { flip, tile: Some(tile), ..TestTimeAugmentation::default() };
            for view in config.views(&preparation(100, 200), (width, height)) {
                let Region { x, y, width, height } = view.region;
                let at = |start: f64, length: f64, share: f32| (start + length * f64::from(share)) as f32;
                let bbox = BoundingBox::new(
                    at(x, width, unit[0].min(unit[2])),
                    at(y, height, unit[1].min(unit[3])),
                    at(x, width, unit[0].max(unit[2])),
                    at(y, height, unit[1].max(unit[3])),
                );
                let moved = bbox.translate(-x as f32, -y as f32);
                let back = view.to_original(view.view().pieces[0].place_box(moved));
                for (found, expected) in back.to_array().into_iter().zip(bbox.to_array()) {
                    prop_assert!((found - expected).abs() < 1e-3, "{found}, not {expected}");
                }
            }
        }
    }
}
