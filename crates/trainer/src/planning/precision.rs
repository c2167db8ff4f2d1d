use burn::tensor::Device;
use retinanet_detector::Precision;
use retinanet_experiment::ComputeConfig;
use retinanet_settings::SettingError;

/// Checks that a device computes with floats of the precision that a config asks for.
///
/// # Errors
///
/// Returns an error if it does not.
pub fn check_precision(compute: &ComputeConfig, device: &Device) -> Result<(), SettingError> {
    if compute.precision.is_on(device) {
        return Ok(());
    }
    let there: Vec<_> = (Precision::available(device).iter())
        .map(|it| format!("\"{it}\""))
        .collect();
    let allowed = format!(
        "what `{}` computes with, {}",
        compute.device,
        there.join(" or ")
    );
    Err(SettingError::new(
        "compute.precision",
        allowed,
        format!("\"{}\"", compute.precision),
    ))
}
