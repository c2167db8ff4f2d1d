//! A backbone in pieces that run one after another, to be computed anew piece by piece.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

use crate::network::Backbone;
use crate::residual::ResidualBlock;
use crate::resnet::{ResNet, run};

/// Neighbouring layers of a backbone, with one map in and one out.
#[derive(Clone, Copy, Debug)]
pub enum Segment<'a> {
    /// The stem with its pooling.
    Stem(&'a ResNet),
    /// The residual blocks of a stage.
    Stage(&'a [ResidualBlock]),
}

impl Segment<'_> {
    /// Computes the segment's output.
    ///
    /// # Shapes
    ///
    /// - `input` and output: `[batch, height, width, channels]`
    pub fn forward(self, input: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Stem(network) => network.stem(input),
            Self::Stage(blocks) => run(blocks, input),
        }
    }

    /// Whether any of its parameters learns.
    pub fn learns(self) -> bool {
        let mut learns = Learns(false);
        match self {
            Self::Stem(network) => {
                network.conv1.visit(&mut learns);
                network.norm1.visit(&mut learns);
            }
            Self::Stage(blocks) => blocks.iter().for_each(|block| block.visit(&mut learns)),
        }
        learns.0
    }
}

struct Learns(bool);

impl ModuleVisitor for Learns {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0 |= param.val().is_require_grad();
    }
}

impl Backbone {
    /// The stem, and the stages that give C2, C3, C4 and C5.
    pub fn segments(&self) -> [Segment<'_>; 5] {
        match self {
            Self::ResNet(network) => [
                Segment::Stem(network),
                Segment::Stage(&network.layer1),
                Segment::Stage(&network.layer2),
                Segment::Stage(&network.layer3),
                Segment::Stage(&network.layer4),
            ],
        }
    }
}
