//! Pixels that come as bytes, normalised, mirrored and padded on the GPU.

use burn::tensor::{DType, Device, Shape, Tensor};
use retinanet_gpu::{CubeTensor, count_upload, empty, from_gpu, to_gpu, unit_for_each, units};
use retinanet_images::{PieceBytes, PixelBytes, PixelData};

use super::kernels::{self, PIECE_WORDS};

/// Normalised images, `[items, 3, height, width]`; nothing if the device is not a GPU.
pub(crate) fn images(
    pixels: &PixelData,
    [items, height, width]: [usize; 3],
    device: &Device,
) -> Option<Tensor<4>> {
    let any = Tensor::<1>::empty([1], device);
    let strategy = any.gradient_checkpointing_strategy();
    let any = to_gpu(any)?;
    let images = match pixels {
        PixelData::Numbers(numbers) => {
            let bytes: &[u8] = bytemuck::cast_slice(numbers);
            from_gpu(uploaded(
                &any,
                bytes,
                &[items, 3, height, width],
                DType::F32,
            ))
        }
        PixelData::Bytes(bytes) => normalized(bytes, &any).permute([0, 3, 1, 2]),
    };
    Some(match strategy {
        Some(strategy) => (images.autodiff()).with_gradient_checkpointing_strategy(strategy),
        None => images,
    })
}

fn uploaded(any: &CubeTensor, bytes: &[u8], shape: &[usize], dtype: DType) -> CubeTensor {
    count_upload(bytes.len());
    let handle = any.client.create_from_slice(bytes);
    let shape = Shape::from(shape.to_vec());
    CubeTensor::new_contiguous(any.client.clone(), any.device.clone(), shape, handle, dtype)
}

/// Normalised images, `[items, height, width, 3]`.
fn normalized(pixels: &PixelBytes, any: &CubeTensor) -> Tensor<4> {
    let &PixelBytes {
        items,
        height,
        width,
        ..
    } = pixels;
    let images = empty(any, &[items, height, width, 3]);
    let buffer =
        |bytes: &[u8], dtype| uploaded(any, bytes, &[bytes.len() / size_of::<u32>()], dtype);
    kernels::normalize::launch(
        &any.client,
        unit_for_each(items * height * width * 3),
        units(),
        buffer(&pixels.bytes, DType::U32).into_buffer_arg(),
        buffer(bytemuck::cast_slice(&first_pieces(pixels)), DType::U32).into_buffer_arg(),
        buffer(bytemuck::cast_slice(&pieces(pixels)), DType::U32).into_buffer_arg(),
        buffer(bytemuck::cast_slice(&numbers(pixels)), DType::F32).into_buffer_arg(),
        images.clone().into_buffer_arg(),
        height,
        width,
    );
    from_gpu(images)
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
fn numbers(pixels: &PixelBytes) -> Vec<f32> {
    let channels = pixels.normalizer.channels;
    let means = channels.map(|channel| channel.mean);
    let deviations = channels.map(|channel| channel.std);
    let places = channels.map(|channel| channel.place as f32);
    let weights = pixels.pieces.iter().map(|it| it.piece.weight);
    let numbers = [means, deviations, places].into_iter().flatten();
    numbers.chain(weights).collect()
}
