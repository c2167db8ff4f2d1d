//! Pixels that come as bytes, normalised, mirrored and padded on the GPU.

use burn::tensor::{DType, Device, Shape, Tensor};
use retinanet_gpu::{CubeTensor, count_upload, empty, from_gpu, to_gpu, unit_for_each, units};
use retinanet_images::{PieceBytes, PixelBytes};

use super::kernels::{self, PIECE_WORDS};

/// Normalised images, `[items, 3, height, width]`, whose memory has the channels last; nothing if the device is not a
/// GPU.
pub(crate) fn normalize(pixels: &PixelBytes, device: &Device) -> Option<Tensor<4>> {
    let any = Tensor::<1>::empty([1], device);
    let strategy = any.gradient_checkpointing_strategy();
    let any = to_gpu(any)?;
    let &PixelBytes {
        items,
        height,
        width,
        ..
    } = pixels;
    let images = empty(&any, &[items, height, width, 3]);
    let buffer = |bytes: &[u8], dtype| {
        count_upload(bytes.len());
        let handle = any.client.create_from_slice(bytes);
        let shape = Shape::new([bytes.len() / size_of::<u32>()]);
        CubeTensor::new_contiguous(any.client.clone(), any.device.clone(), shape, handle, dtype)
    };
    kernels::normalize::launch(
        &any.client,
        unit_for_each(items * height * width * 3),
        units(),
        buffer(&pixels.bytes, DType::U32).into_buffer_arg(),
        buffer(&bytes_of(&first_pieces(pixels)), DType::U32).into_buffer_arg(),
        buffer(&bytes_of(&pieces(pixels)), DType::U32).into_buffer_arg(),
        buffer(&numbers(pixels), DType::F32).into_buffer_arg(),
        images.clone().into_buffer_arg(),
        height,
        width,
    );
    let images = from_gpu::<4>(images).permute([0, 3, 1, 2]);
    Some(match strategy {
        Some(strategy) => (images.autodiff()).with_gradient_checkpointing_strategy(strategy),
        None => images,
    })
}

/// The first piece of each image, and how many there are.
fn first_pieces(pixels: &PixelBytes) -> Vec<u32> {
    let pieces_before = |item| pixels.pieces.partition_point(|it| it.item < item) as u32;
    (0..=pixels.items).map(pieces_before).collect()
}

/// Where each piece's bytes are, and where in the image it is.
fn pieces(pixels: &PixelBytes) -> Vec<u32> {
    let words = |PieceBytes { start, piece, .. }: &PieceBytes| -> [u32; PIECE_WORDS] {
        let flags = u32::from(piece.mirrored) | (u32::from(piece.upside_down) << 1);
        let ((left, top), (width, height)) = (piece.corner, piece.size);
        [*start as u32, left, top, width, height, flags]
    };
    pixels.pieces.iter().flat_map(words).collect()
}

/// The means of the channels, their deviations and their places in a pixel, then each piece's weight.
fn numbers(pixels: &PixelBytes) -> Vec<u8> {
    let channels = pixels.normalizer.channels;
    let means = channels.map(|channel| channel.mean);
    let deviations = channels.map(|channel| channel.std);
    let places = channels.map(|channel| channel.place as f32);
    let weights = pixels.pieces.iter().map(|it| it.piece.weight);
    let numbers = [means, deviations, places].into_iter().flatten();
    numbers.chain(weights).flat_map(f32::to_ne_bytes).collect()
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().copied().flat_map(u32::to_ne_bytes).collect()
}
