use crate::checksum::Checksum;
use crate::place::Remote;

/// What torchvision publishes and reads here: the names of its functions, and the files of their weights, whose names
/// end with the first digits of their SHA-256 (`torchvision/models/resnet.py`, `IMAGENET1K_V1` where there are several;
/// `torchvision/models/detection/retinanet.py`).
const FILES: [(&str, &str); 10] = [
    ("resnet18", "resnet18-f37072fd.pth"),
    ("resnet34", "resnet34-b627a593.pth"),
    ("resnet50", "resnet50-0676ba61.pth"),
    ("resnet101", "resnet101-63fe2227.pth"),
    ("resnet152", "resnet152-394f9c45.pth"),
    ("resnext50_32x4d", "resnext50_32x4d-7cdf4587.pth"),
    ("resnext101_32x8d", "resnext101_32x8d-8ba56ff5.pth"),
    ("wide_resnet50_2", "wide_resnet50_2-95faca4d.pth"),
    (
        "retinanet_resnet50_fpn",
        "retinanet_resnet50_fpn_coco-eeacb38b.pth",
    ),
    (
        "retinanet_resnet50_fpn_v2",
        "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth",
    ),
];

pub(crate) fn names() -> Vec<&'static str> {
    FILES.iter().map(|(name, _)| *name).collect()
}

pub(crate) fn find(name: &str) -> Option<Remote> {
    let (_, file) = FILES.iter().find(|(it, _)| *it == name)?;
    let digits = file.strip_suffix(".pth")?.rsplit('-').next()?;
    Some(Remote {
        url: format!("https://download.pytorch.org/models/{file}"),
        name: format!("torchvision/{file}"),
        checksum: Checksum::parse(digits),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_a_checksum_in_its_name() {
        for name in names() {
            assert!(find(name).unwrap().checksum.is_some(), "{name}");
        }
    }
}
