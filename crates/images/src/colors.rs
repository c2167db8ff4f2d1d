//! How colours vary. Each variation is affine in red, green and blue, so that all together are one
//! matrix a pixel.

use crate::pixels::Pixels;

/// Rec. 601's weights of red, green and blue in a pixel's grey, as Pillow and torchvision have
/// them.
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// How the colours of one image vary. At 1, 1, 1 and 0 nothing changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ColorShift {
    /// Factor on all values.
    pub brightness: f32,
    /// Factor on the distance from the image's mean grey.
    pub contrast: f32,
    /// Factor on the distance from the pixel's own grey.
    pub saturation: f32,
    /// How far colours turn about the grey axis, as a share of the full circle.
    pub hue: f32,
}

impl ColorShift {
    /// The image with other colours, in `[0, 255]`. Brightness comes first, then contrast,
    /// saturation and hue; what is out of range is cut at the end.
    pub(crate) fn apply(&self, pixels: Pixels) -> Pixels {
        let mut pixels = match pixels {
            Pixels::Floats(pixels) => pixels,
            Pixels::Bytes(image) => (image.pixels())
                .map(|pixel| pixel.0.map(f32::from))
                .collect(),
        };
        let offset = (1.0 - self.contrast) * self.brightness * mean_grey(&pixels);
        let matrix = self.matrix();
        for pixel in &mut pixels {
            let values = *pixel;
            *pixel = matrix.map(|row| (dot(row, values) + offset).clamp(0.0, 255.0));
        }
        Pixels::Floats(pixels)
    }

    /// Takes red, green and blue to the new ones but for contrast's offset, a grey, which neither
    /// saturation nor hue changes.
    fn matrix(&self) -> [[f32; 3]; 3] {
        let turn = turn(self.hue);
        let factor = self.brightness * self.contrast;
        let saturation = self.saturation;
        [0, 1, 2].map(|row: usize| {
            [0, 1, 2].map(|column: usize| {
                // The rows of `turn` sum to 1, so that it leaves the pixel's grey alone.
                factor * (saturation * turn[row][column] + (1.0 - saturation) * LUMA[column])
            })
        })
    }
}

/// The rotation about the grey axis (1, 1, 1): a third of the circle takes red to green, green to
/// blue and blue to red.
fn turn(share: f32) -> [[f32; 3]; 3] {
    let (sin, cos) = (share * std::f32::consts::TAU).sin_cos();
    let same = (1.0 + 2.0 * cos) / 3.0;
    let before = (1.0 - cos) / 3.0 - sin / 3.0_f32.sqrt();
    let after = (1.0 - cos) / 3.0 + sin / 3.0_f32.sqrt();
    [
        [same, before, after],
        [after, same, before],
        [before, after, same],
    ]
}

fn mean_grey(pixels: &[[f32; 3]]) -> f32 {
    let sum: f64 = pixels
        .iter()
        .map(|pixel| f64::from(dot(LUMA, *pixel)))
        .sum();
    (sum / pixels.len().max(1) as f64) as f32
}

fn dot(a: [f32; 3], b: [f32; 3]) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    const NONE: ColorShift = ColorShift {
        brightness: 1.0,
        contrast: 1.0,
        saturation: 1.0,
        hue: 0.0,
    };

    /// Three pixels.
    fn picture() -> Pixels {
        let pixels = [[10, 200, 90], [250, 120, 30], [60, 60, 60]];
        Pixels::Bytes(RgbImage::from_fn(3, 1, |x, _| Rgb(pixels[x as usize])))
    }

    fn shifted(shift: ColorShift) -> Vec<[f32; 3]> {
        match shift.apply(picture()) {
            Pixels::Floats(pixels) => pixels,
            Pixels::Bytes(_) => unreachable!("colours are computed in floats"),
        }
    }

    fn check(shift: ColorShift, expected: [[f32; 3]; 3]) {
        let shifted = shifted(shift);
        for (value, expected) in shifted.as_flattened().iter().zip(expected.as_flattened()) {
            assert!(
                (value - expected).abs() < 0.06,
                "{shift:?}: {value}, not {expected}"
            );
        }
    }

    /// ```python
    /// # torchvision 0.29; its grey has 0.2989 for red
    /// x = torch.tensor([[10, 200, 90], [250, 120, 30], [60, 60, 60]]) / 255
    /// x = x.T.reshape(3, 1, 3)
    /// (255 * adjust_brightness(x, 1.2)).reshape(3, 3).T   # and so on
    /// ```
    #[test]
    fn each_variation_is_torchvisions() {
        check(NONE, [[10.0, 200.0, 90.0], [250.0, 120.0, 30.0], [60.0; 3]]);
        check(
            ColorShift {
                brightness: 1.2,
                ..NONE
            },
            [[12.0, 240.0, 108.0], [255.0, 144.0, 36.0], [72.0; 3]],
        );
        check(
            ColorShift {
                contrast: 0.6,
                ..NONE
            },
            [[51.23, 165.23, 99.23], [195.23, 117.23, 63.23], [81.23; 3]],
        );
        check(
            ColorShift {
                saturation: 0.5,
                ..NONE
            },
            [
                [70.325, 165.325, 110.325],
                [199.292, 134.292, 89.293],
                [60.0; 3],
            ],
        );
    }

    /// By hand: red becomes green, green blue, and blue red.
    #[test]
    fn a_third_of_the_circle_swaps_the_channels() {
        check(
            ColorShift {
                hue: 1.0 / 3.0,
                ..NONE
            },
            [[90.0, 10.0, 200.0], [30.0, 250.0, 120.0], [60.0; 3]],
        );
    }

    /// Each step alone, on floats that are not cut between them.
    #[test]
    fn one_matrix_is_one_variation_after_another() {
        let all = ColorShift {
            brightness: 0.8,
            contrast: 0.9,
            saturation: 0.7,
            hue: 0.02,
        };
        let mut pixels = picture();
        for step in [
            ColorShift {
                brightness: 0.8,
                ..NONE
            },
            ColorShift {
                contrast: 0.9,
                ..NONE
            },
            ColorShift {
                saturation: 0.7,
                ..NONE
            },
            ColorShift { hue: 0.02, ..NONE },
        ] {
            pixels = step.apply(pixels);
        }
        let Pixels::Floats(pixels) = pixels else {
            unreachable!("colours are computed in floats")
        };
        for (a, b) in shifted(all)
            .as_flattened()
            .iter()
            .zip(pixels.as_flattened())
        {
            assert!((a - b).abs() < 1e-3, "{a}, not {b}");
        }
    }
}
