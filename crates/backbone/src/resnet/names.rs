//! How other programs name the parameters of a [`ResNet`](super::ResNet), beside the network itself.

/// What torchvision and timm call a parameter of ours.
pub fn torchvision_name(rest: &str) -> String {
    let parts: Vec<&str> = rest.split('.').collect();
    match parts[..] {
        [stem, kind] => format!("{}.{}", batch_norm(stem), norm_name(kind)),
        [layer, block, "shortcut", "conv", kind] => format!("{layer}.{block}.downsample.0.{kind}"),
        [layer, block, "shortcut", "norm", kind] => {
            format!("{layer}.{block}.downsample.1.{}", norm_name(kind))
        }
        [layer, block, part, kind] => {
            format!("{layer}.{block}.{}.{}", batch_norm(part), norm_name(kind))
        }
        _ => rest.to_owned(),
    }
}

/// What detectron2 calls a parameter of ours.
pub fn detectron2_name(rest: &str) -> String {
    // `norm2.gamma` is `conv2.norm.weight`.
    let part = |part: &str, kind: &str| match part.strip_prefix("norm") {
        Some(number) => format!("conv{number}.norm.{}", norm_name(kind)),
        None => format!("{part}.{kind}"),
    };
    let stage = |layer: &str| {
        let number = layer.strip_prefix("layer").and_then(|it| it.parse().ok());
        number.map_or_else(
            || layer.to_owned(),
            |stage: usize| format!("res{}", stage + 1),
        )
    };
    let parts: Vec<&str> = rest.split('.').collect();
    match parts[..] {
        [stem, kind] => format!("stem.{}", part(stem, kind)),
        [layer, block, "shortcut", "conv", kind] => {
            format!("{}.{block}.shortcut.{kind}", stage(layer))
        }
        [layer, block, "shortcut", "norm", kind] => {
            format!("{}.{block}.shortcut.norm.{}", stage(layer), norm_name(kind))
        }
        [layer, block, convolution, kind] => {
            format!("{}.{block}.{}", stage(layer), part(convolution, kind))
        }
        _ => rest.to_owned(),
    }
}

fn batch_norm(part: &str) -> String {
    part.replace("norm", "bn")
}

/// What PyTorch calls a norm's parameter.
pub fn norm_name(kind: &str) -> &str {
    match kind {
        "gamma" => "weight",
        "beta" => "bias",
        other => other,
    }
}
