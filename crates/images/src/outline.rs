//! The outlines of objects, and how much of each pixel is inside.

use retinanet_boxes::BoundingBox;

use crate::view::Piece;

/// Scan lines through each row of pixels.
const LINES: usize = 4;

/// The outline of an object, in pixels of its image: what is inside of any of its polygons, as in COCO.
#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    /// The corners of each, `[x, y]`.
    pub polygons: Vec<Vec<[f32; 2]>>,
}

impl Outline {
    /// The polygons' areas in sum, in square pixels of the image.
    pub fn area(&self) -> f32 {
        self.polygons.iter().map(|corners| area(corners)).sum()
    }

    /// The smallest box around it, if it has a corner.
    pub fn bounds(&self) -> Option<BoundingBox> {
        let corners = self.polygons.iter().flatten();
        let boxes = corners.map(|[x, y]| BoundingBox::new(*x, *y, *x, *y));
        boxes.reduce(|a, b| {
            BoundingBox::new(
                a.x1.min(b.x1),
                a.y1.min(b.y1),
                a.x2.max(b.x2),
                a.y2.max(b.y2),
            )
        })
    }

    /// How much of each pixel of a piece of its image is inside, in `[0, 1]`, row by row as it stands in the sample.
    pub(crate) fn coverage(&self, piece: &Piece) -> Vec<f32> {
        let (width, height) = (piece.size.0 as usize, piece.size.1 as usize);
        let mut coverage = vec![0.0_f32; width * height];
        let mut of_row = vec![0.0; width];
        let mut crossings = Vec::new();
        for corners in &self.polygons {
            let corners = corners.iter().map(|corner| placed(*corner, piece));
            let corners: Vec<[f32; 2]> = corners.collect();
            for (row, pixels) in coverage.chunks_exact_mut(width).enumerate() {
                of_row.fill(0.0);
                for line in 0..LINES {
                    let y = row as f32 + (line as f32 + 0.5) / LINES as f32;
                    crossings.clear();
                    crossings.extend(crossed(&corners, y));
                    crossings.sort_by(f32::total_cmp);
                    for inside in crossings.chunks_exact(2) {
                        cover(&mut of_row, inside[0], inside[1]);
                    }
                }
                for (pixel, covered) in pixels.iter_mut().zip(&of_row) {
                    *pixel = pixel.max(*covered);
                }
            }
        }
        coverage
    }
}

/// A polygon's area, by the shoelace formula.
fn area(corners: &[[f32; 2]]) -> f32 {
    let next = corners.iter().cycle().skip(1);
    let edges = corners.iter().zip(next);
    let doubled: f32 = edges.map(|(a, b)| a[0] * b[1] - b[0] * a[1]).sum();
    0.5 * doubled.abs()
}

/// A point of the image in the piece, as it stands in the sample.
fn placed([x, y]: [f32; 2], piece: &Piece) -> [f32; 2] {
    let along = |value: f32, start: f64, length: f64, side: u32, turned: bool| {
        let place = (f64::from(value) - start) / length * f64::from(side);
        let place = if turned {
            f64::from(side) - place
        } else {
            place
        };
        place as f32
    };
    let (source, size) = (piece.source, piece.size);
    [
        along(x, source.x, source.width, size.0, piece.mirrored),
        along(y, source.y, source.height, size.1, piece.upside_down),
    ]
}

/// Where the edges of a polygon cross a horizontal line.
fn crossed(corners: &[[f32; 2]], y: f32) -> impl Iterator<Item = f32> {
    let next = corners.iter().cycle().skip(1);
    corners.iter().zip(next).filter_map(move |(a, b)| {
        let crosses = (a[1] <= y) != (b[1] <= y);
        crosses.then(|| a[0] + (y - a[1]) / (b[1] - a[1]) * (b[0] - a[0]))
    })
}

/// Adds a line's part between two places to the pixels of a row.
fn cover(pixels: &mut [f32], from: f32, to: f32) {
    let from = from.max(0.0);
    let to = to.min(pixels.len() as f32);
    let mut place = from as usize;
    while (place as f32) < to {
        let (start, end) = (from.max(place as f32), to.min(place as f32 + 1.0));
        pixels[place] += (end - start).max(0.0) / LINES as f32;
        place += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Region, View};

    fn outline(polygons: &[&[[f32; 2]]]) -> Outline {
        Outline {
            polygons: polygons.iter().map(|corners| corners.to_vec()).collect(),
        }
    }

    const SQUARE: [[f32; 2]; 4] = [[1.0, 1.0], [3.5, 1.0], [3.5, 3.0], [1.0, 3.0]];

    /// A square to the middle of a column, and another that overlaps it and stands twice.
    #[test]
    fn pixels_are_covered_by_halves_and_overlaps_once() {
        let piece = View::of(0, Region::whole((5, 4)), (5, 4)).pieces.remove(0);
        let other = [[2.0, 2.0], [5.0, 2.0], [5.0, 4.0], [2.0, 4.0]];
        let outline = outline(&[&SQUARE, &other, &other]);
        let rows = [
            [0.0; 5],
            [0.0, 1.0, 1.0, 0.5, 0.0],
            [0.0, 1.0, 1.0, 1.0, 1.0],
            [0.0, 0.0, 1.0, 1.0, 1.0],
        ];
        assert_eq!(outline.coverage(&piece), rows.concat());
        assert_eq!(outline.area(), 5.0 + 6.0 + 6.0);
        assert_eq!(outline.bounds(), Some(BoundingBox::new(1.0, 1.0, 5.0, 4.0)));
    }

    /// The right three columns of five, twice as large, mirrored and upside down.
    #[test]
    fn a_piece_is_covered_as_it_stands_in_the_sample() {
        let source = Region {
            x: 2.0,
            y: 0.0,
            width: 3.0,
            height: 4.0,
        };
        let mut piece = View::of(0, source, (6, 8)).pieces.remove(0);
        piece.mirrored = true;
        let inner = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0];
        let coverage = outline(&[&SQUARE]).coverage(&piece);
        let rows = [
            [0.0; 6], [0.0; 6], inner, inner, inner, inner, [0.0; 6], [0.0; 6],
        ];
        assert_eq!(coverage, rows.concat());
        piece.upside_down = true;
        piece.source.height = 8.0;
        let coverage = outline(&[&SQUARE]).coverage(&piece);
        let rows = [
            [0.0; 6], [0.0; 6], [0.0; 6], [0.0; 6], [0.0; 6], inner, inner, [0.0; 6],
        ];
        assert_eq!(coverage, rows.concat());
    }

    /// A triangle's area is half its box's, wherever it lies and however many pixels it has.
    #[test]
    fn the_sum_is_the_area() {
        let piece = View::of(0, Region::whole((50, 40)), (100, 120))
            .pieces
            .remove(0);
        let triangle = outline(&[&[[3.3, 2.2], [44.1, 7.7], [20.5, 38.4]]]);
        let sum: f32 = triangle.coverage(&piece).iter().sum();
        let [a, b, c] = [[3.3_f32, 2.2], [44.1, 7.7], [20.5, 38.4]];
        let area = 0.5 * ((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])).abs();
        let expected = area * 2.0 * 3.0;
        assert!(
            (sum - expected).abs() < 2e-3 * expected,
            "{sum} and {expected}"
        );
        // What lies beside the piece covers nothing.
        let beside = outline(&[&[[-9.0, -9.0], [-1.0, -9.0], [-1.0, 90.0]]]);
        assert!(
            beside
                .coverage(&piece)
                .iter()
                .all(|covered| *covered == 0.0)
        );
    }
}
