//! Pixels on their way to the device.

use std::mem;

use burn::tensor::{Device, Tensor, TensorData};
use retinanet_images::{PixelData, PixelForm};

/// How pixels travel to a device: as bytes where it has kernels that make numbers of them.
pub fn pixel_form(device: &Device) -> PixelForm {
    #[cfg(feature = "gpu")]
    if retinanet_gpu::is_gpu(device) {
        return PixelForm::Bytes;
    }
    let _ = device;
    PixelForm::Numbers
}

/// The normalised images of a batch on a device, `[items, 3, height, width]`. A GPU normalises, mirrors and pads bytes
/// itself; the CPU takes the numbers away.
pub fn images_to_device(
    pixels: &mut PixelData,
    [items, height, width]: [usize; 3],
    device: &Device,
) -> Tensor<4> {
    #[cfg(feature = "gpu")]
    if let Some(images) = crate::gpu::images(pixels, [items, height, width], device) {
        return images;
    }
    let numbers = mem::take(pixels).into_numbers();
    Tensor::from_data(TensorData::new(numbers, [items, 3, height, width]), device)
}
