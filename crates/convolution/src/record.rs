//! Which layers a model calls, on which shapes.

use std::cell::RefCell;

use crate::shape::ConvOptions;

/// A layer as a model calls it, but for the number of images.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LayerCall {
    /// A convolution, with its epilogue.
    Convolution {
        /// `[height, width]` of each level.
        levels: Vec<[usize; 2]>,
        /// `[channels out, channels in / groups, kernel height, kernel width]`
        weight: [usize; 4],
        /// Stride, padding, dilation and groups.
        options: ConvOptions,
        /// Its epilogue.
        end: EpilogueParts,
    },
    /// A batch norm that learns.
    BatchNorm {
        /// `[height, width]`
        size: [usize; 2],
        /// How many channels there are.
        channels: usize,
        /// Its epilogue.
        end: EpilogueParts,
    },
    /// A group norm.
    GroupNorm {
        /// `[height, width]` of each level.
        levels: Vec<[usize; 2]>,
        /// How many channels there are.
        channels: usize,
        /// How many groups they make.
        groups: usize,
        /// Its epilogue.
        end: EpilogueParts,
    },
    /// A pooling that takes the largest value.
    MaxPool {
        /// `[height, width]`
        size: [usize; 2],
        /// How many channels there are.
        channels: usize,
        /// Side of the window, its stride and its padding, in pixels.
        window: [usize; 3],
    },
    /// A coarser map added to a finer one.
    Upsample {
        /// `[height, width]` of the finer and of the coarser map.
        sizes: [[usize; 2]; 2],
        /// How many channels there are.
        channels: usize,
    },
}

/// Which parts an [`FusedEpilogue`](crate::FusedEpilogue) has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each part is there or not, whatever the others are"
)]
pub struct EpilogueParts {
    /// Whether channels are scaled by a constant.
    pub scale: bool,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether another map is added.
    pub residual: bool,
    /// Whether negative values become 0.
    pub relu: bool,
}

thread_local! {
    static RECORD: RefCell<Option<Vec<LayerCall>>> = const { RefCell::new(None) };
}

/// The layers that `run` calls, in their order, each as often as it is called.
pub fn record_calls(run: impl FnOnce()) -> Vec<LayerCall> {
    RECORD.set(Some(Vec::new()));
    run();
    RECORD.take().unwrap_or_default()
}

pub(crate) fn record(call: impl FnOnce() -> LayerCall) {
    RECORD.with_borrow_mut(|record| {
        if let Some(record) = record {
            record.push(call());
        }
    });
}
