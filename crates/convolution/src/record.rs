//! Which layers a model calls, on which shapes.

use std::cell::RefCell;
use std::fmt;

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

impl LayerCall {
    /// Additions and multiplications of the output, on so many images: those of convolutions, next to which others have
    /// none.
    pub fn operations(&self, images: usize) -> f64 {
        let Self::Convolution { weight, .. } = self else {
            return 0.0;
        };
        let products = self.cells_out() * weight.iter().product::<usize>();
        2.0 * (images * products) as f64
    }

    /// Bytes of the maps and weights that it reads and writes at least, on so many images, in f32.
    pub fn bytes(&self, images: usize) -> f64 {
        let (maps, weights) = match self {
            Self::Convolution {
                levels,
                weight: [outputs, inputs, height, width],
                options,
                end,
            } => {
                let read = cells(levels) * inputs * options.groups;
                let written = self.cells_out() * outputs * (1 + usize::from(end.residual));
                (read + written, outputs * inputs * height * width)
            }
            Self::BatchNorm {
                size,
                channels,
                end,
            } => (
                cells(&[*size]) * channels * (2 + usize::from(end.residual)),
                0,
            ),
            Self::GroupNorm {
                levels,
                channels,
                end,
                ..
            } => (
                cells(levels) * channels * (2 + usize::from(end.residual)),
                0,
            ),
            Self::MaxPool { size, channels, .. } => {
                ((cells(&[*size]) + self.cells_out()) * channels, 0)
            }
            Self::Upsample {
                sizes: [finer, coarser],
                channels,
            } => ((2 * cells(&[*finer]) + cells(&[*coarser])) * channels, 0),
        };
        (size_of::<f32>() * (images * maps + weights)) as f64
    }

    /// Cells of the output, of one image.
    fn cells_out(&self) -> usize {
        match self {
            Self::Convolution {
                levels,
                weight: [_, _, height, width],
                options,
                ..
            } => {
                let sizes = levels.iter();
                let sizes = sizes.map(|size| options.output_size(*size, [*height, *width]));
                cells(&sizes.collect::<Vec<_>>())
            }
            Self::BatchNorm { size, .. } => cells(&[*size]),
            Self::GroupNorm { levels, .. } => cells(levels),
            Self::MaxPool {
                size,
                window: [kernel, stride, padding],
                ..
            } => {
                let options = ConvOptions::new(*stride, *padding);
                cells(&[options.output_size(*size, [*kernel; 2])])
            }
            Self::Upsample {
                sizes: [finer, _], ..
            } => cells(&[*finer]),
        }
    }
}

fn cells(levels: &[[usize; 2]]) -> usize {
    levels.iter().map(|[height, width]| height * width).sum()
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

impl fmt::Display for LayerCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Convolution {
                levels,
                weight: [outputs, inputs, height, width],
                options,
                end,
            } => {
                let inputs = inputs * options.groups;
                write!(f, "convolution {height}×{width}, {inputs} → {outputs}")?;
                if options.stride != [1, 1] {
                    write!(f, ", stride {}", options.stride[0])?;
                }
                if options.groups > 1 {
                    write!(f, ", {} groups", options.groups)?;
                }
                write!(f, "{end}{}", Sizes(levels))
            }
            Self::BatchNorm {
                size,
                channels,
                end,
            } => write!(f, "batch norm, {channels}{end}{}", Sizes(&[*size])),
            Self::GroupNorm {
                levels,
                channels,
                groups,
                end,
            } => write!(
                f,
                "group norm, {channels} in {groups} groups{end}{}",
                Sizes(levels)
            ),
            Self::MaxPool {
                size,
                channels,
                window: [kernel, stride, _],
            } => write!(
                f,
                "max pooling {kernel}×{kernel}, stride {stride}, {channels}{}",
                Sizes(&[*size])
            ),
            Self::Upsample { sizes, channels } => {
                write!(f, "upsampling, {channels}{}", Sizes(sizes))
            }
        }
    }
}

impl fmt::Display for EpilogueParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (has, name) in [
            (self.scale, "scale"),
            (self.bias, "bias"),
            (self.residual, "residual"),
            (self.relu, "ReLU"),
        ] {
            if has {
                write!(f, " + {name}")?;
            }
        }
        Ok(())
    }
}

/// Sizes of maps, width first as images are spoken of.
struct Sizes<'a>(&'a [[usize; 2]]);

impl fmt::Display for Sizes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(", on")?;
        for [height, width] in self.0 {
            write!(f, " {width}×{height}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_on_the_output() {
        let residual = EpilogueParts {
            residual: true,
            ..EpilogueParts::default()
        };
        // 9 · 64 · 128 / 4 products for each of 32 × 32 outputs, each a product and a sum.
        let call = LayerCall::Convolution {
            levels: vec![[64, 64]],
            weight: [128, 16, 3, 3],
            options: ConvOptions {
                groups: 4,
                ..ConvOptions::new(2, 1)
            },
            end: residual,
        };
        assert_eq!(call.operations(3), 3.0 * 37_748_736.0);
        let maps: usize = 64 * 64 * 64 + 2 * 32 * 32 * 128;
        assert_eq!(call.bytes(3), 4.0 * (3 * maps + 128 * 16 * 9) as f64);
        let pool = LayerCall::MaxPool {
            size: [9, 8],
            channels: 5,
            window: [3, 2, 1],
        };
        assert_eq!(pool.operations(1), 0.0);
        assert_eq!(pool.bytes(1), 4.0 * 5.0 * (72.0 + 20.0));
    }
}
