//! How other programs name the parameters of the same network.

use burn::store::burn_pack::Tensor as PackTensor;
use retinanet_backbone::{detectron2_name, norm_name as norm, torchvision_name};

/// Whose names the tensors of a weight file have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Names {
    /// This program's.
    #[default]
    Native,
    /// torchvision's `RetinaNet`.
    Torchvision,
    /// detectron2's `RetinaNet`.
    Detectron2,
    /// torchvision's and timm's `ResNet`: a backbone alone.
    Resnet,
    /// detectron2's `ResNet`: a backbone alone.
    Detectron2Resnet,
}

impl Names {
    /// The names that these are some of.
    pub(crate) fn recognize<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<Self> {
        names.find_map(|name| match name {
            // The stem's norm, since only this program calls norms so.
            "backbone.norm1.gamma" => Some(Self::Native),
            "backbone.body.conv1.weight" => Some(Self::Torchvision),
            "backbone.bottom_up.stem.conv1.weight" => Some(Self::Detectron2),
            "conv1.weight" => Some(Self::Resnet),
            "stem.conv1.weight" => Some(Self::Detectron2Resnet),
            _ => None,
        })
    }

    /// Says whose they are.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Native => "this program's names",
            Self::Torchvision => "torchvision's names",
            Self::Detectron2 => "detectron2's names",
            Self::Resnet => "a backbone in torchvision's or timm's names",
            Self::Detectron2Resnet => "a backbone in detectron2's names",
        }
    }

    /// What these names call the parameters that a model collects, where they have a word for it.
    pub fn all(self, parameters: &[PackTensor]) -> Vec<String> {
        let layout = layout(parameters);
        let names = parameters.iter();
        names
            .filter_map(|parameter| self.of(&parameter.name, layout))
            .collect()
    }

    /// What these names call a parameter of ours, if they have it.
    pub(crate) fn of(self, native: &str, layout: Layout) -> Option<String> {
        match self {
            Self::Native => Some(native.to_owned()),
            Self::Torchvision => torchvision(native, layout),
            Self::Detectron2 => detectron2(native, layout),
            Self::Resnet => {
                let backbone = native.strip_prefix("backbone.")?;
                Some(torchvision_name(backbone))
            }
            Self::Detectron2Resnet => {
                let backbone = native.strip_prefix("backbone.")?;
                Some(detectron2_name(backbone))
            }
        }
    }
}

/// What names depend on besides the parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// 2 where the pyramid begins with P2, else 3.
    pub(crate) finest_level: usize,
    /// Whether norms follow the heads' convolutions.
    pub(crate) head_norms: bool,
}

/// Whose names a model's parameters have in a file, and what they depend on.
pub(crate) fn layout(parameters: &[PackTensor]) -> Layout {
    let has = |prefix: &str| parameters.iter().any(|it| it.name.starts_with(prefix));
    Layout {
        finest_level: if has("pyramid.lateral2.") { 2 } else { 3 },
        head_norms: has("class_subnet.norms."),
    }
}

/// A name that an older version of torchvision gave, in the version of today: its published
/// `RetinaNet_ResNet50_FPN_Weights.COCO_V1` has such.
pub(crate) fn modern_torchvision(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        ["head", head, "conv", index, kind] => {
            // ReLUs once counted as layers of their own.
            let index = index.parse::<usize>().unwrap_or_default() / 2;
            format!("head.{head}.conv.{index}.0.{kind}")
        }
        [
            "backbone",
            "fpn",
            blocks @ ("inner_blocks" | "layer_blocks"),
            index,
            kind,
        ] => {
            format!("backbone.fpn.{blocks}.{index}.0.{kind}")
        }
        _ => name.to_owned(),
    }
}

fn torchvision(native: &str, layout: Layout) -> Option<String> {
    let (module, rest) = native.split_once('.')?;
    match module {
        "backbone" => Some(format!("backbone.body.{}", torchvision_name(rest))),
        "pyramid" if rest.starts_with("bottom_up") => None,
        "pyramid" => {
            let (layer, kind) = rest.split_once('.')?;
            let block = match layer.strip_prefix("lateral") {
                Some(level) => format!("inner_blocks.{}.0", place(level, layout)?),
                None => match layer.strip_prefix("output") {
                    Some(level) => format!("layer_blocks.{}.0", place(level, layout)?),
                    None => format!("extra_blocks.{layer}"),
                },
            };
            Some(format!("backbone.fpn.{block}.{kind}"))
        }
        "class_subnet" => torchvision_head("classification", "cls_logits", rest),
        "box_subnet" => torchvision_head("regression", "bbox_reg", rest),
        _ => None,
    }
}

fn torchvision_head(head: &str, output: &str, rest: &str) -> Option<String> {
    let parts: Vec<&str> = rest.split('.').collect();
    let name = match parts[..] {
        ["convs", index, kind] => format!("conv.{index}.0.{kind}"),
        ["norms", index, kind] => format!("conv.{index}.1.{}", norm(kind)),
        ["output", kind] => format!("{output}.{kind}"),
        _ => return None,
    };
    Some(format!("head.{head}_head.{name}"))
}

fn detectron2(native: &str, layout: Layout) -> Option<String> {
    let (module, rest) = native.split_once('.')?;
    match module {
        "backbone" => Some(format!("backbone.bottom_up.{}", detectron2_name(rest))),
        "pyramid" if rest.starts_with("bottom_up") => None,
        "pyramid" if rest.starts_with('p') => Some(format!("backbone.top_block.{rest}")),
        "pyramid" => Some(format!("backbone.fpn_{rest}")),
        "class_subnet" => detectron2_head("cls_subnet", "cls_score", rest, layout),
        "box_subnet" => detectron2_head("bbox_subnet", "bbox_pred", rest, layout),
        _ => None,
    }
}

fn detectron2_head(subnet: &str, output: &str, rest: &str, layout: Layout) -> Option<String> {
    // Norms and ReLUs count as layers of their own.
    let stride = if layout.head_norms { 3 } else { 2 };
    let layer = |index: &str| index.parse::<usize>().ok().map(|index| stride * index);
    let parts: Vec<&str> = rest.split('.').collect();
    let name = match parts[..] {
        ["convs", index, kind] => format!("{subnet}.{}.{kind}", layer(index)?),
        ["norms", index, kind] => format!("{subnet}.{}.{}", layer(index)? + 1, norm(kind)),
        ["output", kind] => format!("{output}.{kind}"),
        _ => return None,
    };
    Some(format!("head.{name}"))
}

/// The place of a pyramid level, counted from the finest.
fn place(level: &str, layout: Layout) -> Option<usize> {
    level
        .parse::<usize>()
        .ok()?
        .checked_sub(layout.finest_level)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Layout = Layout {
        finest_level: 3,
        head_norms: false,
    };

    #[test]
    fn names_are_the_peers() {
        for (native, torchvision, detectron2) in [
            (
                "backbone.conv1.weight",
                "backbone.body.conv1.weight",
                "backbone.bottom_up.stem.conv1.weight",
            ),
            (
                "backbone.norm1.running_var",
                "backbone.body.bn1.running_var",
                "backbone.bottom_up.stem.conv1.norm.running_var",
            ),
            (
                "backbone.layer3.5.norm2.beta",
                "backbone.body.layer3.5.bn2.bias",
                "backbone.bottom_up.res4.5.conv2.norm.bias",
            ),
            (
                "backbone.layer1.0.shortcut.conv.weight",
                "backbone.body.layer1.0.downsample.0.weight",
                "backbone.bottom_up.res2.0.shortcut.weight",
            ),
            (
                "backbone.layer1.0.shortcut.norm.gamma",
                "backbone.body.layer1.0.downsample.1.weight",
                "backbone.bottom_up.res2.0.shortcut.norm.weight",
            ),
            (
                "pyramid.lateral4.bias",
                "backbone.fpn.inner_blocks.1.0.bias",
                "backbone.fpn_lateral4.bias",
            ),
            (
                "pyramid.output5.weight",
                "backbone.fpn.layer_blocks.2.0.weight",
                "backbone.fpn_output5.weight",
            ),
            (
                "pyramid.p6.weight",
                "backbone.fpn.extra_blocks.p6.weight",
                "backbone.top_block.p6.weight",
            ),
            (
                "class_subnet.convs.3.weight",
                "head.classification_head.conv.3.0.weight",
                "head.cls_subnet.6.weight",
            ),
            (
                "box_subnet.output.bias",
                "head.regression_head.bbox_reg.bias",
                "head.bbox_pred.bias",
            ),
        ] {
            let name = |names: Names| names.of(native, PLAIN).unwrap();
            assert_eq!(name(Names::Torchvision), torchvision);
            assert_eq!(name(Names::Detectron2), detectron2);
        }
    }

    #[test]
    fn norms_of_heads_and_p2_move_the_numbers() {
        let layout = Layout {
            finest_level: 2,
            head_norms: true,
        };
        let torchvision = |native| Names::Torchvision.of(native, layout).unwrap();
        let detectron2 = |native| Names::Detectron2.of(native, layout).unwrap();
        assert_eq!(
            torchvision("pyramid.lateral2.bias"),
            "backbone.fpn.inner_blocks.0.0.bias"
        );
        let norm = "class_subnet.norms.1.gamma";
        assert_eq!(
            torchvision(norm),
            "head.classification_head.conv.1.1.weight"
        );
        assert_eq!(detectron2(norm), "head.cls_subnet.4.weight");
    }

    #[test]
    fn a_backbone_alone_has_neither_pyramid_nor_heads() {
        let name = |native| Names::Resnet.of(native, PLAIN);
        assert_eq!(name("backbone.norm1.gamma").as_deref(), Some("bn1.weight"));
        assert_eq!(name("pyramid.p6.bias"), None);
    }

    #[test]
    fn others_have_no_word_for_the_path_up() {
        for names in [Names::Torchvision, Names::Detectron2] {
            assert_eq!(names.of("pyramid.bottom_up.0.down.weight", PLAIN), None);
        }
    }

    #[test]
    fn older_names_of_torchvision_become_todays() {
        for (old, new) in [
            (
                "head.classification_head.conv.6.bias",
                "head.classification_head.conv.3.0.bias",
            ),
            (
                "backbone.fpn.inner_blocks.2.weight",
                "backbone.fpn.inner_blocks.2.0.weight",
            ),
        ] {
            assert_eq!(modern_torchvision(old), new);
            assert_eq!(modern_torchvision(new), new);
        }
        let others = ["head.classification_head.cls_logits.bias", "conv1.weight"];
        for name in others {
            assert_eq!(modern_torchvision(name), name);
        }
    }
}
