use image::RgbImage;

/// The pixels of a prepared image.
#[derive(Clone, Debug)]
pub(crate) enum Pixels {
    /// 8 bits deep: a quarter of the memory.
    Bytes(RgbImage),
    /// As computed, in `[0, 255]`, row by row.
    Floats(Vec<[f32; 3]>),
}
