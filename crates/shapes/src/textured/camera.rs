use image::RgbImage;
use rand::{Rng, RngExt};

use super::canvas::Canvas;
use crate::scene::Rgb;

/// What a camera makes of a canvas: blur, paler colours, a tint, uneven brightness, contrast and noise, each at random.
pub(super) fn photograph(canvas: &Canvas, rng: &mut impl Rng) -> RgbImage {
    let (width, height) = (canvas.width as usize, canvas.height as usize);
    let mut pixels = canvas.pixels.clone();
    if rng.random_bool(BLURRED_SHARE) {
        for _ in 0..rng.random_range(1..=3) {
            pixels = blurred(&pixels, width, height);
        }
    }
    let saturation = rng.random_range(0.1..=1.0_f32);
    let tint = [0; 3].map(|_| rng.random_range(0.85..=1.15_f32));
    let slope = [0; 2].map(|_| rng.random_range(-0.25..=0.25_f32));
    let contrast = rng.random_range(0.6..=1.1_f32);
    let brightness = rng.random_range(-25.0..=25.0_f32);
    let noise = rng.random_range(0.0..=MOST_NOISE);
    let mut bytes = Vec::with_capacity(3 * pixels.len());
    for (place, pixel) in pixels.iter().enumerate() {
        let [x, y] = [
            (place % width) as f32 / width as f32 - 0.5,
            (place / width) as f32 / height as f32 - 0.5,
        ];
        let light = 1.0 + slope[0] * x + slope[1] * y;
        let grey = pixel.iter().sum::<f32>() / 3.0;
        for (channel, tint) in pixel.iter().zip(tint) {
            let grain = noise * (rng.random::<f32>() + rng.random::<f32>() - 1.0);
            let channel = grey + (channel - grey) * saturation;
            let value = (channel * tint * light - 128.0) * contrast + 128.0 + brightness + grain;
            bytes.push(value.round().clamp(0.0, 255.0) as u8);
        }
    }
    RgbImage::from_raw(canvas.width, canvas.height, bytes)
        .unwrap_or_else(|| RgbImage::new(canvas.width, canvas.height))
}

/// The mean over three by three pixels with weights of 1, 2, 1 each way; at the border, over those that are there.
fn blurred(pixels: &[Rgb], width: usize, height: usize) -> Vec<Rgb> {
    let along = |pixels: &[Rgb],
                 step: usize,
                 is_first: &dyn Fn(usize) -> bool,
                 is_last: &dyn Fn(usize) -> bool| {
        let at = |place: usize| {
            let before = if is_first(place) { place } else { place - step };
            let after = if is_last(place) { place } else { place + step };
            [0, 1, 2].map(|channel| {
                0.25 * (pixels[before][channel] + pixels[after][channel])
                    + 0.5 * pixels[place][channel]
            })
        };
        (0..pixels.len()).map(at).collect::<Vec<Rgb>>()
    };
    let rows = along(pixels, 1, &|it| it % width == 0, &|it| {
        it % width == width - 1
    });
    along(&rows, width, &|it| it < width, &|it| {
        it >= width * (height - 1)
    })
}

/// Share of the images that are out of focus.
const BLURRED_SHARE: f64 = 0.4;

/// The most that noise adds to a channel.
const MOST_NOISE: f32 = 20.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blur_keeps_what_is_even_and_spreads_what_is_not() {
        let even = vec![[7.0; 3]; 12];
        assert_eq!(blurred(&even, 4, 3), even);
        let mut dot = vec![[0.0; 3]; 25];
        dot[12] = [16.0; 3];
        let spread = blurred(&dot, 5, 5);
        assert_eq!(spread[12], [4.0; 3]);
        assert_eq!(spread[11], [2.0; 3]);
        assert_eq!(spread[6], [1.0; 3]);
        assert_eq!(spread[0], [0.0; 3]);
    }
}
