use burn::tensor::Tensor;

/// Maps of several sizes, the levels of a pyramid, in one tensor, so that a layer that they share
/// runs once over all of them.
#[derive(Clone, Debug)]
pub struct Levels {
    /// `[batch, cells, channels]`: level after level, each row by row.
    pub values: Tensor<3>,
    /// `[height, width]` of each level.
    pub sizes: Vec<[usize; 2]>,
}

impl Levels {
    /// Packs maps, `[batch, height, width, channels]` each.
    ///
    /// # Panics
    ///
    /// Panics if a GPU could not compute one of them.
    pub fn pack(maps: impl IntoIterator<Item = Tensor<4>>) -> Self {
        let levels = maps.into_iter().map(Self::one);
        let (sizes, values): (Vec<_>, Vec<_>) =
            levels.map(|level| (level.sizes[0], level.values)).unzip();
        #[cfg(feature = "gpu")]
        {
            let on_gpu = values.iter().cloned().filter_map(retinanet_gpu::to_gpu);
            retinanet_gpu::require_computed(&on_gpu.collect::<Vec<_>>());
        }
        Self {
            values: Tensor::cat(values, 1),
            sizes,
        }
    }

    /// A single map, `[batch, height, width, channels]`.
    pub fn one(map: Tensor<4>) -> Self {
        let [batch, height, width, channels] = map.dims();
        Self {
            values: map.reshape([batch, height * width, channels]),
            sizes: vec![[height, width]],
        }
    }

    /// The maps again, `[batch, height, width, channels]` each.
    pub fn unpack(self) -> Vec<Tensor<4>> {
        let [batch, _, channels] = self.values.dims();
        let mut start = 0;
        let levels = self.sizes.into_iter().map(|[height, width]| {
            let cells = height * width;
            let values = self.values.clone().narrow(1, start, cells);
            start += cells;
            values.reshape([batch, height, width, channels])
        });
        levels.collect()
    }

    /// Does the same to every level alone.
    pub(crate) fn map_each(self, work: impl FnMut(Tensor<4>) -> Tensor<4>) -> Self {
        Self::pack(self.unpack().into_iter().map(work))
    }
}
