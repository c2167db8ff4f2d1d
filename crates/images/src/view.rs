//! Which pixels a sample shows, and where its boxes are there.

use std::sync::Arc;

use retinanet_boxes::{BoundingBox, GroundTruth};

use crate::ColorShift;
use crate::outline::Outline;

/// What a sample shows: planned from the sizes of the images alone, before a file is opened.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Width and height in the batch, in pixels, without the padding.
    pub size: (u32, u32),
    /// What is where; several where images stand beside or on one another.
    pub pieces: Vec<Piece>,
}

/// A part of an image and where it stands in the sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Which image, for instance its place in a data set.
    pub image: usize,
    /// What is shown, in pixels of the image.
    pub source: Region,
    /// The left and upper end in the sample, in pixels.
    pub corner: (u32, u32),
    /// Width and height in the sample, in pixels.
    pub size: (u32, u32),
    /// Whether left and right are swapped.
    pub mirrored: bool,
    /// Whether top and bottom are swapped.
    pub upside_down: bool,
    /// How the colours vary, if they do.
    pub colors: Option<ColorShift>,
    /// The factor on its pixels: below 1 where samples are mixed.
    pub weight: f32,
    /// Where it is pasted over the pieces before it: how far inwards from its left, upper, right and lower end it is still
    /// mixed with them, in pixels. Without, it is added.
    pub pasted: Option<[u32; 4]>,
    /// Of what is pasted the object that alone is shown, if its outline is known.
    pub cut_out: Option<CutOut>,
}

/// An object of an image that is cut out of it.
#[derive(Clone, Debug, PartialEq)]
pub struct CutOut {
    /// The object's place among the image's.
    pub object: usize,
    /// What is shown of the piece.
    pub outline: Arc<Outline>,
}

/// A part of an image, in its pixels, with fractions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    /// The left end.
    pub x: f64,
    /// The upper end.
    pub y: f64,
    /// From left to right, above 0.
    pub width: f64,
    /// From top to bottom, above 0.
    pub height: f64,
}

impl View {
    /// The region of an image, alone and as it is, at this width and height in pixels.
    pub fn of(image: usize, source: Region, size: (u32, u32)) -> Self {
        let piece = Piece {
            image,
            source,
            corner: (0, 0),
            size,
            mirrored: false,
            upside_down: false,
            colors: None,
            weight: 1.0,
            pasted: None,
            cut_out: None,
        };
        Self {
            size,
            pieces: vec![piece],
        }
    }

    /// Swaps left and right.
    pub fn mirror(&mut self) {
        for piece in &mut self.pieces {
            piece.mirrored = !piece.mirrored;
            piece.corner.0 = self.size.0 - piece.corner.0 - piece.size.0;
        }
    }

    /// Swaps top and bottom.
    pub fn turn_upside_down(&mut self) {
        for piece in &mut self.pieces {
            piece.upside_down = !piece.upside_down;
            piece.corner.1 = self.size.1 - piece.corner.1 - piece.size.1;
        }
    }

    /// Lays both over one another, `share` of this one and the rest of the other; they need not be
    /// of one size.
    #[must_use]
    pub fn mix(mut self, mut other: Self, share: f32) -> Self {
        for piece in &mut self.pieces {
            piece.weight *= share;
        }
        for piece in &mut other.pieces {
            piece.weight *= 1.0 - share;
        }
        self.pieces.append(&mut other.pieces);
        let (width, height) = other.size;
        self.size = (self.size.0.max(width), self.size.1.max(height));
        self
    }
}

impl Piece {
    /// An object of the image, where it is in the sample; none if nothing of it is shown.
    ///
    /// `image_size` is the image's width and height. Where less than `min_kept`, a share in `[0, 1]`,
    /// of the object's area in the image is shown, what is left is a region to ignore, as a crowd is:
    /// it is neither the object nor background.
    pub fn place(
        &self,
        object: GroundTruth,
        image_size: (u32, u32),
        min_kept: f32,
    ) -> Option<GroundTruth> {
        let bbox = self.place_box(object.bbox);
        // Of a box that reached in by a hair, rounding may leave nothing.
        bbox.is_proper().then(|| GroundTruth {
            bbox,
            crowd: object.crowd || self.source.kept(&object.bbox, image_size) < min_kept,
            ..object
        })
    }

    /// How opaque a pasted piece is where it [`hides`](Self::hides) what is before it, in `[0, 1]`: what is cut out fills
    /// its box in part.
    pub fn fills(&self) -> f32 {
        let fills = |CutOut { outline, .. }: &CutOut| {
            let bounds = outline.bounds().map_or(0.0, |bounds| bounds.area());
            (outline.area() / bounds.max(f32::EPSILON)).min(1.0)
        };
        self.cut_out.as_ref().map_or(1.0, fills)
    }

    /// What a pasted piece hides of those before it, in the sample: all but its mixed border.
    pub fn hides(&self) -> Option<BoundingBox> {
        let [left, up, right, down] = self.pasted?.map(|border| border as f32);
        let (x, y) = (self.corner.0 as f32, self.corner.1 as f32);
        let (width, height) = (self.size.0 as f32, self.size.1 as f32);
        Some(BoundingBox::new(
            x + left,
            y + up,
            x + width - right,
            y + height - down,
        ))
    }

    /// How opaque each pixel of a pasted piece is, row by row: what its outline covers, or all of it but the borders,
    /// in which it grows.
    pub(crate) fn opacities(&self) -> Option<Vec<f32>> {
        let [before, above, behind, below] = self.pasted?;
        if let Some(CutOut { outline, .. }) = &self.cut_out {
            return Some(outline.coverage(self));
        }
        let (width, height) = self.size;
        let of_column = opacity(width, [before, behind]);
        let of_row = opacity(height, [above, below]);
        let columns: Vec<f32> = (0..width).map(of_column).collect();
        let rows = (0..height).map(of_row);
        let opacities = rows.flat_map(|row| columns.iter().map(move |column| column.min(row)));
        Some(opacities.collect())
    }

    /// A box of the image in the sample, clipped to what is shown: there, not in the data set, as
    /// detectron2's `DatasetMapper` does it.
    pub fn place_box(&self, bbox: BoundingBox) -> BoundingBox {
        let Region {
            x,
            y,
            width,
            height,
        } = self.source;
        let (piece_width, piece_height) = (self.size.0 as f32, self.size.1 as f32);
        let mut bbox = bbox
            .translate(-x as f32, -y as f32)
            .scale(piece_width / width as f32, piece_height / height as f32)
            .clip(piece_width, piece_height);
        if self.mirrored {
            bbox = bbox.flip_horizontally(piece_width);
        }
        if self.upside_down {
            bbox = bbox.flip_vertically(piece_height);
        }
        bbox.translate(self.corner.0 as f32, self.corner.1 as f32)
    }
}

/// How opaque each place along a side is, between two borders.
fn opacity(length: u32, [before, behind]: [u32; 2]) -> impl Fn(u32) -> f32 {
    let opacity = |from_end: u32, border: u32| {
        if border == 0 {
            1.0
        } else {
            (from_end as f32 + 0.5) / border as f32
        }
    };
    move |place| {
        let [from_start, from_end] = [(place, before), (length - 1 - place, behind)]
            .map(|(from_end, border)| opacity(from_end, border));
        from_start.min(from_end).min(1.0)
    }
}

impl Region {
    /// All of an image of this width and height.
    pub fn whole((width, height): (u32, u32)) -> Self {
        Self {
            x: 0.0,
            y: 0.0,
            width: f64::from(width),
            height: f64::from(height),
        }
    }

    /// How much of a box's area in an image of this width and height lies in the region, in `[0, 1]`.
    pub fn kept(&self, bbox: &BoundingBox, image_size: (u32, u32)) -> f32 {
        if *self == Self::whole(image_size) {
            return 1.0;
        }
        let in_image = bbox.clip(image_size.0 as f32, image_size.1 as f32);
        let region = BoundingBox::from_xywh([self.x, self.y, self.width, self.height]);
        in_image.intersection(&region) / in_image.area()
    }
}

#[cfg(test)]
mod tests {
    use retinanet_boxes::ClassId;

    use super::*;

    fn whole(original: (u32, u32), resized: (u32, u32)) -> View {
        View::of(0, Region::whole(original), resized)
    }

    fn object(bbox: BoundingBox) -> GroundTruth {
        GroundTruth {
            bbox,
            class: ClassId(0),
            crowd: false,
        }
    }

    #[test]
    fn boxes_are_resized_and_then_mirrored() {
        let bbox = BoundingBox::new(10.0, 20.0, 40.0, 60.0);
        let mut view = whole((100, 80), (50, 160));
        let plain = view.pieces[0].place_box(bbox);
        assert_eq!(plain, BoundingBox::new(5.0, 40.0, 20.0, 120.0));
        view.mirror();
        let mirrored = view.pieces[0].place_box(bbox);
        assert_eq!(mirrored, BoundingBox::new(30.0, 40.0, 45.0, 120.0));
        view.turn_upside_down();
        let turned = view.pieces[0].place_box(bbox);
        assert_eq!(turned, BoundingBox::new(30.0, 40.0, 45.0, 120.0));
    }

    #[test]
    fn boxes_are_clipped_to_the_resized_image() {
        let bbox = BoundingBox::new(-10.0, 20.0, 200.0, 60.0);
        let mut view = whole((100, 80), (50, 40));
        view.mirror();
        let clipped = view.pieces[0].place_box(bbox);
        assert_eq!(clipped, BoundingBox::new(0.0, 10.0, 50.0, 30.0));
    }

    #[test]
    fn slivers_leave_no_object() {
        let bbox = BoundingBox::new(99.999_99, 0.0, 120.0, 50.0);
        let mut view = whole((100, 100), (3, 3));
        view.mirror();
        let placed = view.pieces[0].place(object(bbox), (100, 100), 0.0);
        assert!(placed.is_none_or(|object| object.bbox.is_proper()));
    }

    /// The right half of an image, twice as large, in the lower right of a sample.
    #[test]
    fn a_piece_crops_resizes_and_moves() {
        let source = Region {
            x: 50.0,
            y: 0.0,
            width: 50.0,
            height: 80.0,
        };
        let mut piece = View::of(0, source, (100, 160)).pieces.remove(0);
        piece.corner = (7, 9);
        let place = |bbox, min_kept| piece.place(object(bbox), (100, 80), min_kept);

        // A quarter of 40 × 20 is shown.
        let cut = BoundingBox::new(20.0, 10.0, 60.0, 30.0);
        let placed = place(cut, 0.25).expect("a quarter is shown");
        assert_eq!(placed.bbox, BoundingBox::new(7.0, 29.0, 27.0, 69.0));
        assert!(!placed.crowd);
        assert!(place(cut, 0.26).is_some_and(|object| object.crowd));

        // What an annotation has beyond the image was never shown.
        let beyond = BoundingBox::new(50.0, 10.0, 500.0, 30.0);
        assert!(place(beyond, 1.0).is_some_and(|object| !object.crowd));
        assert_eq!(place(BoundingBox::new(0.0, 0.0, 50.0, 80.0), 0.0), None);
    }

    #[test]
    fn mixing_keeps_both_and_weighs_them() {
        let mixed = whole((10, 10), (30, 20)).mix(whole((10, 10), (20, 40)), 0.75);
        assert_eq!(mixed.size, (30, 40));
        let weights: Vec<_> = mixed.pieces.iter().map(|piece| piece.weight).collect();
        assert_eq!(weights, [0.75, 0.25]);
    }
}
