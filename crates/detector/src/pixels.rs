//! Pixels on their way to the device.

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
/// itself; on the CPU numbers are not copied.
pub fn images_to_device(
    pixels: PixelData,
    [items, height, width]: [usize; 3],
    device: &Device,
) -> Tensor<4> {
    #[cfg(feature = "gpu")]
    if let PixelData::Bytes(bytes) = &pixels
        && let Some(images) = crate::gpu::normalize(bytes, device)
    {
        return images;
    }
    let numbers = TensorData::new(pixels.into_numbers(), [items, 3, height, width]);
    #[cfg(feature = "gpu")]
    retinanet_gpu::count_upload(numbers.bytes().len());
    Tensor::from_data(numbers, device)
}
