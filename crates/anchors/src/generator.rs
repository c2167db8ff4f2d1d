use retinanet_boxes::BoundingBox;
use retinanet_settings::SettingError;

use crate::AnchorError;
use crate::centers::Centers;
use crate::config::{AnchorConfig, CellCenter, CellOrder, CellRounding, CellShapes, CellSpacing};
use crate::pyramid::{Grid, PyramidAnchors};

/// Lays anchors over the feature maps of a pyramid. Should be created with
/// [`AnchorConfig::init`].
///
/// # Order
///
/// Anchors go by level (finest first), then by row `y`, then by column `x`, then by place in the
/// cell; in a cell they go by size, then by aspect ratio, or the other way round with
/// [`CellOrder::RatioMajor`]. The head's outputs are in the same order.
#[derive(Clone, Debug)]
pub struct AnchorGenerator {
    center: CellCenter,
    spacing: CellSpacing,
    strides: Vec<usize>,
    /// The anchors of one cell of each level, around the origin.
    cells: Vec<Vec<BoundingBox>>,
}

impl AnchorConfig {
    /// Checks the settings and builds the generator for a pyramid with these strides, finest
    /// first.
    ///
    /// # Errors
    ///
    /// Returns an error if a stride is 0, if the settings describe another number of levels than there are strides,
    /// if the levels differ in their number of anchors a cell, or if an anchor rounds away.
    pub fn init(&self, strides: &[usize]) -> Result<AnchorGenerator, AnchorError> {
        let shapes = self.shapes();
        if shapes.len() != strides.len() {
            let path = if self.levels.is_some() {
                "levels"
            } else {
                "sizes"
            };
            let allowed = format!(
                "of one entry for each of the {} pyramid levels",
                strides.len()
            );
            return Err(SettingError::new(path, allowed, shapes.len()).into());
        }
        if let Some(level) = strides.iter().position(|&stride| stride == 0) {
            return Err(AnchorError::Stride { level });
        }
        let first = self.anchors_per_cell();
        if let Some(level) = shapes.iter().position(|shape| shape.count() != first) {
            let allowed = format!(
                "of as many anchors a cell as `levels[0]`, {first}, since the head is shared"
            );
            let got = shapes[level].count();
            return Err(SettingError::new(format!("levels[{level}]"), allowed, got).into());
        }
        AnchorGenerator::new(self, &shapes, strides)
    }
}

impl AnchorGenerator {
    fn new(
        config: &AnchorConfig,
        shapes: &[CellShapes],
        strides: &[usize],
    ) -> Result<Self, AnchorError> {
        let cells = shapes
            .iter()
            .map(|shapes| cell(shapes, config.rounding, config.order))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            center: config.center,
            spacing: config.spacing,
            strides: strides.to_vec(),
            cells,
        })
    }

    /// How many anchors each cell has, on every level.
    pub fn anchors_per_cell(&self) -> usize {
        self.cells.first().map_or(0, Vec::len)
    }

    /// The strides of the levels, finest first.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// `[height, width]` of each level's feature map for an input of this size: the input's over
    /// the stride, rounded up.
    pub fn feature_sizes(&self, height: usize, width: usize) -> Vec<[usize; 2]> {
        (0..self.strides.len())
            .map(|level| self.feature_size(level, height, width))
            .collect()
    }

    /// The anchors of all levels for an input of this size, in pixels of the input.
    pub fn generate(&self, height: usize, width: usize) -> PyramidAnchors {
        PyramidAnchors::on_grids((0..self.strides.len()).map(|level| {
            let [rows, columns] = self.centers(level, height, width);
            let grid = Grid {
                rows,
                columns,
                anchors_per_cell: self.anchors_per_cell(),
            };
            (self.level(level, height, width), grid)
        }))
    }

    /// The anchors of one level for an input of this size, in pixels of the input.
    ///
    /// # Panics
    ///
    /// Panics if there is no such level.
    pub fn level(&self, level: usize, height: usize, width: usize) -> Vec<BoundingBox> {
        self.anchors(level, height, width).collect()
    }

    fn anchors(
        &self,
        level: usize,
        height: usize,
        width: usize,
    ) -> impl Iterator<Item = BoundingBox> {
        let cell = &self.cells[level];
        let [rows, columns] = self.centers(level, height, width);
        (0..rows.count).flat_map(move |row| {
            let y = rows.position(row);
            (0..columns.count).flat_map(move |column| {
                let x = columns.position(column);
                cell.iter().map(move |anchor| shifted(anchor, x, y))
            })
        })
    }

    /// The centres of a level's rows and columns of cells.
    pub(crate) fn centers(&self, level: usize, height: usize, width: usize) -> [Centers; 2] {
        let stride = self.strides[level];
        let offset = match self.center {
            CellCenter::Corner => 0.0,
            CellCenter::Middle => 0.5,
        };
        let sizes = self.feature_size(level, height, width);
        [(sizes[0], height), (sizes[1], width)].map(|(count, side)| Centers {
            count,
            spacing: match self.spacing {
                CellSpacing::Stride => stride,
                CellSpacing::Measured => side / count.max(1),
            },
            offset,
        })
    }

    /// The anchors of a level's cell, around the origin, in their order.
    ///
    /// # Panics
    ///
    /// Panics if there is no such level.
    pub fn cell(&self, level: usize) -> &[BoundingBox] {
        &self.cells[level]
    }

    fn feature_size(&self, level: usize, height: usize, width: usize) -> [usize; 2] {
        let stride = self.strides[level];
        [height.div_ceil(stride), width.div_ceil(stride)]
    }
}

pub(crate) fn shifted(anchor: &BoundingBox, x: f32, y: f32) -> BoundingBox {
    BoundingBox::new(anchor.x1 + x, anchor.y1 + y, anchor.x2 + x, anchor.y2 + y)
}

/// The anchors of one cell, around the origin.
fn cell(
    shapes: &CellShapes,
    rounding: CellRounding,
    order: CellOrder,
) -> Result<Vec<BoundingBox>, AnchorError> {
    let CellShapes {
        sizes,
        aspect_ratios,
    } = shapes;
    let (outer, inner) = match order {
        CellOrder::SizeMajor => (sizes, aspect_ratios),
        CellOrder::RatioMajor => (aspect_ratios, sizes),
    };
    let pairs = outer
        .iter()
        .flat_map(|&outer| inner.iter().map(move |&inner| (outer, inner)));
    pairs
        .map(|pair| match order {
            CellOrder::SizeMajor => pair,
            CellOrder::RatioMajor => (pair.1, pair.0),
        })
        .map(|(size, aspect_ratio)| {
            let anchor = match rounding {
                CellRounding::Exact => exact(size, aspect_ratio),
                CellRounding::Torchvision => rounded(size, aspect_ratio),
            };
            if anchor.is_proper() {
                Ok(anchor)
            } else {
                let allowed = "such that every anchor has a finite area above 0 after `rounding`";
                let got = format!("{size} with an aspect ratio of {aspect_ratio}");
                Err(SettingError::new("sizes", allowed, got).into())
            }
        })
        .collect()
}

/// The anchor of area `size²`, computed in `f64` as detectron2 does.
fn exact(size: f64, aspect_ratio: f64) -> BoundingBox {
    let width = (size * size / aspect_ratio).sqrt();
    let height = aspect_ratio * width;
    let [right, bottom] = [0.5 * width, 0.5 * height].map(|edge| edge as f32);
    BoundingBox::new(-right, -bottom, right, bottom)
}

/// The same in torchvision's `f32` arithmetic, edges rounded, halves to even.
fn rounded(size: f64, aspect_ratio: f64) -> BoundingBox {
    let height_ratio = (aspect_ratio as f32).sqrt();
    let width_ratio = 1.0 / height_ratio;
    let [right, bottom] =
        [width_ratio, height_ratio].map(|ratio| (ratio * size as f32 / 2.0).round_ties_even());
    BoundingBox::new(-right, -bottom, right, bottom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lengths;

    const STRIDES: [usize; 5] = [8, 16, 32, 64, 128];

    fn torchvision() -> AnchorConfig {
        AnchorConfig {
            rounding: CellRounding::Torchvision,
            order: CellOrder::RatioMajor,
            spacing: CellSpacing::Measured,
            ..AnchorConfig::default()
        }
    }

    /// The cell anchors of a level, as the corner to the lower right of the centre.
    fn half_extents(config: &AnchorConfig, level: usize) -> Vec<(f32, f32)> {
        config.init(&STRIDES).unwrap().cells[level]
            .iter()
            .map(|anchor| {
                assert_eq!((anchor.x1, anchor.y1), (-anchor.x2, -anchor.y2));
                (anchor.x2, anchor.y2)
            })
            .collect()
    }

    #[test]
    fn the_nine_anchors_of_the_paper() {
        // for s in [32, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)]:
        //     for r in (0.5, 1, 2):
        //         w = sqrt(s * s / r); print(round(w / 2, 6), round(r * w / 2, 6))
        let expected = [
            (22.627_417, 11.313_708),
            (16.0, 16.0),
            (11.313_708, 22.627_417),
            (28.508_759, 14.254_379),
            (20.158_737, 20.158_737),
            (14.254_379, 28.508_759),
            (35.918_786, 17.959_393),
            (25.398_417, 25.398_417),
            (17.959_393, 35.918_786),
        ];
        let found = half_extents(&AnchorConfig::default(), 0);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.into_iter().zip(expected) {
            assert!(
                (found.0 - expected.0).abs() < 1e-5,
                "{found:?} {expected:?}"
            );
            assert!(
                (found.1 - expected.1).abs() < 1e-5,
                "{found:?} {expected:?}"
            );
        }
    }

    #[test]
    fn the_nine_rounded_anchors_of_torchvision() {
        // Sizes int(32 * 2 ** (k / 3)) = 32, 40, 50. Half extents before rounding:
        //   ratio 0.5: (22.63, 11.31), (28.28, 14.14), (35.36, 17.68)
        //   ratio 1:   (16, 16), (20, 20), (25, 25)
        //   ratio 2:   those of ratio 0.5, swapped
        assert_eq!(
            half_extents(&torchvision(), 0),
            [
                (23.0, 11.0),
                (28.0, 14.0),
                (35.0, 18.0),
                (16.0, 16.0),
                (20.0, 20.0),
                (25.0, 25.0),
                (11.0, 23.0),
                (14.0, 28.0),
                (18.0, 35.0),
            ]
        );
    }

    #[test]
    fn halves_round_to_even() {
        // Sizes 128, 161, 203 at ratio 1: 64, 80.5, 101.5.
        assert_eq!(
            half_extents(&torchvision(), 2)[3..6],
            [(64.0, 64.0), (80.0, 80.0), (102.0, 102.0)]
        );
    }

    #[test]
    fn anchors_go_by_level_then_row_then_column_then_cell() {
        let generator = AnchorConfig {
            sizes: Lengths::literal(&[4.0, 8.0]),
            scales_per_octave: retinanet_settings::Whole::literal(1),
            aspect_ratios: Lengths::literal(&[1.0, 4.0]),
            ..AnchorConfig::default()
        }
        .init(&[8, 16])
        .unwrap();
        // 9 × 16 pixels: 2 rows of 2 cells with stride 8, then 1 row of 1 cell with stride 16.
        assert_eq!(generator.feature_sizes(9, 16), [[2, 2], [1, 1]]);
        let expected = [
            [-2.0, -2.0, 2.0, 2.0],
            [-1.0, -4.0, 1.0, 4.0],
            [6.0, -2.0, 10.0, 2.0],
            [7.0, -4.0, 9.0, 4.0],
            [-2.0, 6.0, 2.0, 10.0],
            [-1.0, 4.0, 1.0, 12.0],
            [6.0, 6.0, 10.0, 10.0],
            [7.0, 4.0, 9.0, 12.0],
            [-4.0, -4.0, 4.0, 4.0],
            [-2.0, -8.0, 2.0, 8.0],
        ]
        .map(BoundingBox::from);
        assert_eq!(generator.generate(9, 16)[..], expected);
        assert_eq!(generator.level(0, 9, 16), expected[..8]);
        assert_eq!(generator.level(1, 9, 16), expected[8..]);
    }

    #[test]
    fn a_middle_is_half_a_stride_further() {
        let config = AnchorConfig {
            center: CellCenter::Middle,
            ..AnchorConfig::default()
        };
        let corners = AnchorConfig::default().init(&STRIDES).unwrap();
        let middles = config.init(&STRIDES).unwrap();
        let (corner, middle) = (corners.level(1, 64, 64), middles.level(1, 64, 64));
        assert_eq!(corner.len(), 4 * 4 * 9);
        for (corner, middle) in corner.iter().zip(&middle) {
            assert_eq!(shifted(corner, 8.0, 8.0), *middle);
        }
    }

    #[test]
    fn measured_spacing_is_torchvisions() {
        // An input of 800 × 1088 has 7 × 9 cells on P7: 800 // 7 = 114 and 1088 // 9 = 120.
        let generator = torchvision().init(&STRIDES).unwrap();
        let cell = generator.cells[4][0];
        let anchors = generator.level(4, 800, 1088);
        assert_eq!(anchors.len(), 7 * 9 * 9);
        assert_eq!(anchors[9], shifted(&cell, 120.0, 0.0));
        assert_eq!(anchors[9 * 9], shifted(&cell, 0.0, 114.0));
        // On P3 the stride divides both sides.
        let nominal = AnchorConfig {
            spacing: CellSpacing::Stride,
            ..torchvision()
        };
        assert_eq!(
            generator.level(0, 800, 1088),
            nominal.init(&STRIDES).unwrap().level(0, 800, 1088)
        );
    }

    #[test]
    fn an_input_without_pixels_has_no_anchors() {
        for config in [AnchorConfig::default(), torchvision()] {
            let generator = config.init(&STRIDES).unwrap();
            assert_eq!(generator.generate(0, 100)[..], []);
        }
    }
}
