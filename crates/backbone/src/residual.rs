use burn::module::Module;
use burn::tensor::{Device, Tensor};
use retinanet_convolution::{Conv2d, FusedEpilogue, Parameter};

use crate::convolution::unbiased;
use crate::norm::{Norm, NormConfig, RELU};

/// A residual block (He et al. 2016): two 3×3 convolutions, or the bottleneck of 1×1, 3×3 and
/// 1×1.
#[derive(Module, Debug)]
pub struct ResidualBlock {
    /// The first convolution.
    pub conv1: Conv2d,
    /// After the first convolution.
    pub norm1: Norm,
    /// The second convolution.
    pub conv2: Conv2d,
    /// After the second convolution.
    pub norm2: Norm,
    /// Only the bottleneck has a third.
    pub conv3: Option<Conv2d>,
    /// After the third convolution.
    pub norm3: Option<Norm>,
    /// `None` if the block keeps shape, and its input is added as it is.
    pub shortcut: Option<Projection>,
}

/// What tells one bottleneck from another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bottleneck {
    /// Channels of the 3×3 convolution.
    pub(crate) width: usize,
    /// Groups of the 3×3 convolution.
    pub(crate) groups: usize,
    /// Strides of the first 1×1 and of the 3×3 convolution.
    pub(crate) strides: [usize; 2],
}

impl ResidualBlock {
    pub(crate) fn basic(
        [channels_in, channels_out]: [usize; 2],
        stride: usize,
        norm: NormConfig,
        device: &Device,
    ) -> Self {
        Self {
            conv1: unbiased([channels_in, channels_out], 3, stride, 1, device),
            norm1: norm.init(channels_out, device),
            conv2: unbiased([channels_out, channels_out], 3, 1, 1, device),
            norm2: norm.init(channels_out, device),
            conv3: None,
            norm3: None,
            shortcut: Projection::where_needed([channels_in, channels_out], stride, norm, device),
        }
    }

    pub(crate) fn bottleneck(
        [channels_in, channels_out]: [usize; 2],
        Bottleneck {
            width,
            groups,
            strides: [stride1, stride2],
        }: Bottleneck,
        norm: NormConfig,
        device: &Device,
    ) -> Self {
        let stride = stride1 * stride2;
        Self {
            conv1: unbiased([channels_in, width], 1, stride1, 1, device),
            norm1: norm.init(width, device),
            conv2: unbiased([width, width], 3, stride2, groups, device),
            norm2: norm.init(width, device),
            conv3: Some(unbiased([width, channels_out], 1, 1, 1, device)),
            norm3: Some(norm.init(channels_out, device)),
            shortcut: Projection::where_needed([channels_in, channels_out], stride, norm, device),
        }
    }

    /// The block's convolutions.
    pub(crate) fn convolutions(&mut self) -> impl Iterator<Item = &mut Conv2d> {
        let Self {
            conv1,
            conv2,
            conv3,
            shortcut,
            ..
        } = self;
        let shortcut = shortcut.as_mut().map(|projection| &mut projection.conv);
        [conv1, conv2].into_iter().chain(conv3).chain(shortcut)
    }

    /// Adds the block's parameters.
    pub(crate) fn parameters(&self, into: &mut Vec<Parameter>) {
        let Self {
            conv1,
            norm1,
            conv2,
            norm2,
            conv3,
            norm3,
            shortcut,
        } = self;
        for conv in [conv1, conv2].into_iter().chain(conv3) {
            conv.parameters(into);
        }
        for norm in [norm1, norm2].into_iter().chain(norm3) {
            norm.parameters(into);
        }
        if let Some(Projection { conv, norm }) = shortcut {
            conv.parameters(into);
            norm.parameters(into);
        }
    }

    /// Adds the block's residual to its input.
    ///
    /// # Shapes
    ///
    /// - `input`: `[batch, height, width, channels_in]`
    /// - output: `[batch, ceil(height / stride), ceil(width / stride), channels_out]`
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let identity = match &self.shortcut {
            Some(projection) => projection.forward(input.clone()),
            None => input.clone(),
        };
        let hidden = self.norm1.after(&self.conv1, input, RELU);
        let last = FusedEpilogue {
            residual: Some(identity),
            ..RELU
        };
        if let (Some(conv3), Some(norm3)) = (&self.conv3, &self.norm3) {
            let hidden = self.norm2.after(&self.conv2, hidden, RELU);
            norm3.after(conv3, hidden, last)
        } else {
            self.norm2.after(&self.conv2, hidden, last)
        }
    }
}

/// The 1×1 convolution on a shortcut whose block changes the shape.
#[derive(Module, Debug)]
pub struct Projection {
    /// The convolution.
    pub conv: Conv2d,
    /// After the convolution.
    pub norm: Norm,
}

impl Projection {
    fn where_needed(
        [channels_in, channels_out]: [usize; 2],
        stride: usize,
        norm: NormConfig,
        device: &Device,
    ) -> Option<Self> {
        (stride != 1 || channels_in != channels_out).then(|| Self {
            conv: unbiased([channels_in, channels_out], 1, stride, 1, device),
            norm: norm.init(channels_out, device),
        })
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        self.norm.after(&self.conv, input, FusedEpilogue::NOTHING)
    }
}
