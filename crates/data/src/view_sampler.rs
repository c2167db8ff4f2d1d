//! How a training sample looks: which part of which images it shows, by the augmentation's probabilities.

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution};
use retinanet_boxes::{BoundingBox, GroundTruth};
use retinanet_images::{ColorShift, CutOut, Piece, Region, Side, View};
use retinanet_settings::Share;

use crate::augment::{CopyPasteConfig, JitterConfig, MixupConfig, PhotometricConfig};
use crate::{ImageRecord, Transform};

/// How much of an object's side is shown around it where it is pasted.
const AROUND: f64 = 0.1;

impl Transform {
    /// Samples how a training sample that shows this image looks.
    pub(crate) fn sample(
        &self,
        image: usize,
        images: &[ImageRecord],
        rng: &mut ChaCha8Rng,
    ) -> View {
        ViewSampler {
            transform: self,
            images,
            rng,
        }
        .sample(image)
    }
}

/// Samples what a training sample shows, from the sizes and boxes in the annotations.
pub(crate) struct ViewSampler<'a> {
    pub(crate) transform: &'a Transform,
    pub(crate) images: &'a [ImageRecord],
    pub(crate) rng: &'a mut ChaCha8Rng,
}

impl ViewSampler<'_> {
    /// A sample that shows this image of the data set, and perhaps others.
    pub(crate) fn sample(&mut self, image: usize) -> View {
        let augment = self.transform.augment();
        let MixupConfig { probability, alpha } = augment.mixup;
        let mut view = self.unmixed(image);
        if self.happens(probability) {
            let other = self.any_image();
            let other = self.unmixed(other);
            let share =
                Beta::new(alpha.as_f32(), alpha.as_f32()).map_or(0.5, |beta| beta.sample(self.rng));
            view = view.mix(other, share);
        }
        if self.happens(augment.copy_paste.probability) {
            self.paste(&mut view);
        }
        view
    }

    /// Pastes some objects of an image.
    fn paste(&mut self, view: &mut View) {
        let image = self.any_image();
        let record = &self.images[image];
        let (width, height) = record.size();
        let objects = record.objects.iter().enumerate();
        let objects = objects.filter(|(_, object)| !object.crowd);
        let boxes = objects.map(|(place, object)| {
            let outline = record.outlines.get(place).cloned().flatten();
            let cut_out = outline.map(|outline| CutOut {
                object: place,
                outline,
            });
            (object.bbox.clip(width as f32, height as f32), cut_out)
        });
        let mut boxes: Vec<(BoundingBox, Option<CutOut>)> =
            boxes.filter(|(bbox, _)| bbox.is_proper()).collect();
        let most = self.transform.augment().copy_paste.most.as_usize();
        let most = most.min(boxes.len());
        if most == 0 {
            return;
        }
        boxes.shuffle(self.rng);
        boxes.truncate(self.rng.random_range(1..=most as u64) as usize);
        let short_side = self.short_side();
        let usual = self.resized_to((width, height), short_side).0;
        let usual = f64::from(usual) / f64::from(width);
        for (bbox, cut_out) in boxes {
            let piece = self.pasted(image, &bbox, usual, view.size);
            view.pieces.push(Piece { cut_out, ..piece });
        }
    }

    /// A box of an image with some of what is around it, somewhere on a sample of this size.
    fn pasted(
        &mut self,
        image: usize,
        bbox: &BoundingBox,
        usual_scale: f64,
        sample: (u32, u32),
    ) -> Piece {
        let CopyPasteConfig {
            min_scale,
            max_scale,
            ..
        } = self.transform.augment().copy_paste;
        let (width, height) = self.images[image].size();
        let along = |low: f32, high: f32, side: u32| {
            let border = AROUND * f64::from(high - low);
            let start = (f64::from(low) - border).max(0.0);
            let end = (f64::from(high) + border).min(f64::from(side));
            let borders = [f64::from(low) - start, end - f64::from(high)];
            (start, end - start, borders)
        };
        let (x, shown_width, across) = along(bbox.x1, bbox.x2, width);
        let (y, shown_height, down) = along(bbox.y1, bbox.y2, height);
        let factor = self.log_uniform(min_scale.get(), max_scale.get());
        // Nothing that is larger than the sample.
        let scale = (usual_scale * factor)
            .min(f64::from(sample.0) / shown_width)
            .min(f64::from(sample.1) / shown_height);
        let pixels = |length: f64, most: u32| ((length * scale).round() as u32).clamp(1, most);
        let size = (
            pixels(shown_width, sample.0),
            pixels(shown_height, sample.1),
        );
        let border = |length: f64| (length * scale).round() as u32;
        let mirrored = self.happens(self.transform.augment().horizontal_flip);
        let upside_down = self.happens(self.transform.augment().vertical_flip);
        let turned = |[before, behind]: [f64; 2], turned| {
            let borders = [border(before), border(behind)];
            if turned {
                [borders[1], borders[0]]
            } else {
                borders
            }
        };
        let [left, right] = turned(across, mirrored);
        let [up, low] = turned(down, upside_down);
        let source = Region {
            x,
            y,
            width: shown_width,
            height: shown_height,
        };
        Piece {
            corner: (
                self.rng.random_range(0..=sample.0 - size.0),
                self.rng.random_range(0..=sample.1 - size.1),
            ),
            mirrored,
            upside_down,
            colors: self.colors(),
            pasted: Some([left, up, right, low]),
            ..View::of(image, source, size).pieces.remove(0)
        }
    }

    /// Doubling is as likely at any scale.
    fn log_uniform(&mut self, low: f64, high: f64) -> f64 {
        self.rng.random_range(low.ln()..=high.ln()).exp()
    }

    fn unmixed(&mut self, image: usize) -> View {
        let augment = self.transform.augment();
        let short_side = self.short_side();
        let mirrored = self.happens(augment.horizontal_flip);
        let upside_down = self.happens(augment.vertical_flip);
        let mut view = if self.happens(augment.mosaic.probability) {
            self.mosaic(image, short_side)
        } else {
            self.single(image, short_side)
        };
        if mirrored {
            view.mirror();
        }
        if upside_down {
            view.turn_upside_down();
        }
        for piece in &mut view.pieces {
            piece.colors = self.colors();
        }
        view
    }

    fn single(&mut self, image: usize, short_side: u32) -> View {
        let augment = self.transform.augment();
        let source = if self.happens(augment.crop.probability) {
            self.crop(&self.images[image], augment.crop.min_side.as_f32())
        } else {
            Region::whole(self.images[image].size())
        };
        if self.happens(augment.jitter.probability) {
            return self.jitter(image, source);
        }
        let shown = (source.width as u32, source.height as u32);
        View::of(image, source, self.resized_to(shown, short_side))
    }

    /// A part of the image, in whole pixels, with an object that counts if there is one.
    fn crop(&mut self, record: &ImageRecord, min_side: f32) -> Region {
        const TRIES: usize = 10;
        let (width, height) = record.size();
        let min_kept = self.transform.augment().min_kept_area.as_f32();
        let objects = || record.objects.iter().filter(|object| !object.crowd);
        for _ in 0..TRIES {
            let (x, shown_width) = self.part(width, min_side);
            let (y, shown_height) = self.part(height, min_side);
            let region = Region {
                x: f64::from(x),
                y: f64::from(y),
                width: f64::from(shown_width),
                height: f64::from(shown_height),
            };
            let counts = |object: &GroundTruth| {
                let kept = region.kept(&object.bbox, (width, height));
                kept > 0.0 && kept >= min_kept
            };
            if objects().next().is_none() || objects().any(counts) {
                return region;
            }
        }
        Region::whole((width, height))
    }

    /// Start and length of a part of a side.
    fn part(&mut self, side: u32, min_share: f32) -> (u32, u32) {
        let share = self.rng.random_range(min_share..=1.0);
        let length = ((side as f32 * share).round() as u32).clamp(1, side);
        (self.rng.random_range(0..=side - length), length)
    }

    fn jitter(&mut self, image: usize, source: Region) -> View {
        let JitterConfig {
            size,
            min_scale,
            max_scale,
            ..
        } = self.transform.augment().jitter;
        let factor = f64::from(
            self.rng
                .random_range(min_scale.as_f32()..=max_scale.as_f32()),
        );
        let size = size.map(Side::as_u32);
        let [width, height] = size.map(f64::from);
        let scale = (factor * width / source.width).min(factor * height / source.height);
        let mut along = |side: f64, limit: u32| {
            let resized = ((side * scale).round() as u32).max(1);
            let shown = resized.min(limit);
            let start = self.rng.random_range(0..=resized - shown);
            if shown == resized {
                return (0.0, side, shown);
            }
            let unit = side / f64::from(resized);
            (f64::from(start) * unit, f64::from(shown) * unit, shown)
        };
        let (x, width, shown_width) = along(source.width, size[0]);
        let (y, height, shown_height) = along(source.height, size[1]);
        let region = Region {
            x: source.x + x,
            y: source.y + y,
            width,
            height,
        };
        View {
            size: size.into(),
            ..View::of(image, region, (shown_width, shown_height))
        }
    }

    fn mosaic(&mut self, image: usize, short_side: u32) -> View {
        let mut images = [image, self.any_image(), self.any_image(), self.any_image()];
        images.rotate_right(self.rng.random_range(0..4));
        let (width, height) = self.resized_to(self.images[image].size(), short_side);
        let (x, y) = (self.middle(width), self.middle(height));
        let corners = [
            ((0, 0), (x, y)),
            ((x, 0), (width - x, y)),
            ((0, y), (x, height - y)),
            ((x, y), (width - x, height - y)),
        ];
        let mut pieces = Vec::new();
        for (image, (corner, size)) in images.into_iter().zip(corners) {
            if size.0 > 0 && size.1 > 0 {
                pieces.push(self.tile(image, corner, size, short_side));
            }
        }
        View {
            size: (width, height),
            pieces,
        }
    }

    /// A place between a quarter and three quarters of a side.
    fn middle(&mut self, side: u32) -> u32 {
        (side as f32 * self.rng.random_range(0.25..=0.75)).round() as u32
    }

    /// A part of an image that fills a corner of a mosaic.
    fn tile(
        &mut self,
        image: usize,
        corner: (u32, u32),
        tile: (u32, u32),
        short_side: u32,
    ) -> Piece {
        let image_size = self.images[image].size();
        let Region { width, height, .. } = Region::whole(image_size);
        let (tile_width, tile_height) = (f64::from(tile.0), f64::from(tile.1));
        let filling = (tile_width / width).max(tile_height / height);
        let usual = self.resized_to(image_size, short_side);
        let usual = (f64::from(usual.0) / width).max(filling);
        let scale = self.log_uniform(filling, usual);
        let shown_width = (tile_width / scale).min(width);
        let shown_height = (tile_height / scale).min(height);
        let source = Region {
            x: self.rng.random_range(0.0..=width - shown_width),
            y: self.rng.random_range(0.0..=height - shown_height),
            width: shown_width,
            height: shown_height,
        };
        Piece {
            corner,
            ..View::of(image, source, tile).pieces.remove(0)
        }
    }

    fn colors(&mut self) -> Option<ColorShift> {
        let PhotometricConfig {
            probability,
            brightness,
            contrast,
            saturation,
            hue,
        } = self.transform.augment().photometric;
        self.happens(probability).then(|| ColorShift {
            brightness: 1.0 + self.within(brightness.as_f32()),
            contrast: 1.0 + self.within(contrast.as_f32()),
            saturation: 1.0 + self.within(saturation.as_f32()),
            hue: self.within(hue.as_f32()),
        })
    }

    fn within(&mut self, limit: f32) -> f32 {
        self.rng.random_range(-limit..=limit)
    }

    fn resized_to(&self, size: (u32, u32), short_side: u32) -> (u32, u32) {
        (self.transform.preparation()).resized_to(size, short_side)
    }

    fn short_side(&mut self) -> u32 {
        let short_sides = self.transform.short_sides();
        short_sides[self.rng.random_range(0..short_sides.len() as u32) as usize]
    }

    fn any_image(&mut self) -> usize {
        self.rng.random_range(0..self.images.len() as u64) as usize
    }

    /// Samples nothing if it never happens, so that switching one variation on leaves those before
    /// it as they were.
    fn happens(&mut self, probability: Share) -> bool {
        probability.get() > 0.0 && self.rng.random::<f32>() < probability.as_f32()
    }
}

#[cfg(test)]
mod tests;
