use burn::tensor::Device;
use retinanet_detector::Precision;
use retinanet_experiment::ComputeConfig;
use retinanet_settings::SettingError;

/// Checks that a device, of this name, computes with floats of the precision that a config asks for.
///
/// # Errors
///
/// Returns an error if it does not.
pub fn check_precision(
    compute: &ComputeConfig,
    name: &str,
    device: &Device,
) -> Result<(), SettingError> {
    if compute.precision.is_on(device) {
        return Ok(());
    }
    let there: Vec<_> = (Precision::available(device).iter())
        .map(|it| format!("\"{it}\""))
        .collect();
    let allowed = format!("what `{name}` computes with, {}", there.join(" or "));
    Err(SettingError::new(
        "compute.precision",
        allowed,
        format!("\"{}\"", compute.precision),
    ))
}

/// Checks that so many processes can train in the precision that a config asks for: they would have to agree on a loss
/// scale.
///
/// # Errors
///
/// Returns an error if they cannot.
pub(crate) fn check_processes(
    compute: &ComputeConfig,
    processes: usize,
) -> Result<(), SettingError> {
    if processes == 1 || !compute.precision.needs_loss_scale() {
        return Ok(());
    }
    let allowed = "\"f32\" or \"bf16\" where several processes share a batch";
    let got = format!("\"{}\"", compute.precision);
    Err(SettingError::new("compute.precision", allowed, got))
}

#[cfg(test)]
mod tests {
    use retinanet_convolution::has_bf16_products;

    use super::*;

    #[test]
    fn a_loss_scale_is_for_one_process() {
        let with = |precision| ComputeConfig {
            precision,
            ..ComputeConfig::default()
        };
        assert!(check_processes(&with(Precision::F16), 1).is_ok());
        assert!(check_processes(&with(Precision::Bf16), 2).is_ok());
        let error = check_processes(&with(Precision::F16), 2).unwrap_err();
        assert!(
            error.to_string().starts_with("`compute.precision`"),
            "{error}"
        );
    }

    #[test]
    fn a_cpu_computes_in_bf16_if_it_has_instructions_for_it_and_never_in_f16() {
        let check = |precision| {
            let compute = ComputeConfig {
                precision,
                ..ComputeConfig::default()
            };
            check_precision(&compute, "flex", &Device::flex()).map_err(|error| error.to_string())
        };
        let refused = |there: &str, got: &str| {
            let allowed = format!("what `flex` computes with, {there}");
            Err(format!(
                "`compute.precision` must be {allowed}, got \"{got}\""
            ))
        };
        assert_eq!(check(Precision::F32), Ok(()));
        if has_bf16_products() {
            assert_eq!(check(Precision::Bf16), Ok(()));
            assert_eq!(check(Precision::F16), refused("\"f32\" or \"bf16\"", "f16"));
        } else {
            assert_eq!(check(Precision::Bf16), refused("\"f32\"", "bf16"));
            assert_eq!(check(Precision::F16), refused("\"f32\"", "f16"));
        }
    }
}
