//! Candidates found on the GPU, so that only they come to the host.

mod kernels;
mod normalize;

use burn::tensor::{Bytes, DType, Shape};
use cubecl::prelude::CubeCount;
use cubecl::server::Handle;
use retinanet_gpu::{CubeTensor, count_upload, to_gpu, unit_for_each, units};

pub(crate) use self::normalize::images;

use self::kernels::{BINS, VALUES};
use crate::candidates::{Candidate, bar};
use crate::model::Predictions;

/// A candidate of a level and its deltas.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) candidate: Candidate,
    pub(crate) deltas: [f32; 4],
}

/// For each image and level the best candidates, at least so many as count, in any order; nothing if the device is
/// not a GPU, or so many logits are alike that there is no telling the best apart there.
pub(crate) fn candidates(
    predictions: &Predictions,
    thresholds: &[f32],
    count: usize,
) -> Option<Vec<Vec<Vec<Found>>>> {
    let [images, anchors, classes] = predictions.logits.dims();
    let levels = predictions.level_anchors.len();
    let search = Search {
        logits: to_gpu(predictions.logits.clone())?,
        deltas: to_gpu(predictions.boxes.clone())?,
        anchors,
        classes,
        groups: images * levels,
        // What is in the last two bins is more than is wanted.
        room: 2 * count,
    };
    let found = search.run(&predictions.level_anchors, thresholds, count)?;
    Some(found.chunks(levels).map(<[_]>::to_vec).collect())
}

struct Search {
    /// `[images, anchors, classes]`
    logits: CubeTensor,
    /// `[images, anchors, 4]`
    deltas: CubeTensor,
    anchors: usize,
    classes: usize,
    /// Images times levels.
    groups: usize,
    /// Candidates that a group has room for.
    room: usize,
}

impl Search {
    fn run(
        &self,
        level_anchors: &[usize],
        thresholds: &[f32],
        count: usize,
    ) -> Option<Vec<Vec<Found>>> {
        let starts = level_anchors.iter().scan(0, |end, anchors| {
            *end += anchors;
            Some((*end - anchors) as u32)
        });
        let starts: Vec<u8> = starts.flat_map(u32::to_ne_bytes).collect();
        let bars = thresholds.iter().map(|threshold| bar(*threshold));
        let bars: Vec<u8> = bars.flat_map(f32::to_ne_bytes).collect();
        let levels = level_anchors.len();
        let [starts, bars] = [(starts, DType::U32), (bars, DType::F32)].map(|(bytes, dtype)| {
            count_upload(bytes.len());
            let handle = self.logits.client.create_from_slice(&bytes);
            self.tensor(levels, handle, dtype)
        });
        let histogram = self.cleared(self.groups * BINS);
        kernels::count::launch(
            &self.logits.client,
            self.unit_for_each_logit(),
            units(),
            self.logits.clone().into_buffer_arg(),
            starts.clone().into_buffer_arg(),
            bars.clone().into_buffer_arg(),
            histogram.clone().into_buffer_arg(),
            self.anchors,
            self.classes,
        );
        let lowest = self.empty(self.groups, DType::U32);
        kernels::choose::launch(
            &self.logits.client,
            unit_for_each(self.groups),
            units(),
            histogram.into_buffer_arg(),
            lowest.clone().into_buffer_arg(),
            count as u32,
        );
        let found = self.cleared(self.groups);
        let places = self.empty(self.groups * self.room, DType::U32);
        let values = self.empty(self.groups * self.room * VALUES, DType::F32);
        kernels::collect::launch(
            &self.logits.client,
            self.unit_for_each_logit(),
            units(),
            self.logits.clone().into_buffer_arg(),
            self.deltas.clone().into_buffer_arg(),
            starts.into_buffer_arg(),
            bars.into_buffer_arg(),
            lowest.into_buffer_arg(),
            found.clone().into_buffer_arg(),
            places.clone().into_buffer_arg(),
            values.clone().into_buffer_arg(),
            self.anchors,
            self.classes,
            self.room,
        );
        let handles = [found, places, values].map(|tensor| tensor.handle);
        let read = self.logits.client.read(handles.into()).ok()?;
        let [found, places, values] = <[Bytes; 3]>::try_from(read).ok()?;
        self.collected(&words(&found), &words(&places), &words(&values))
    }

    /// What the kernels have found; nothing if there was no room for all of it.
    fn collected(
        &self,
        found: &[[u8; 4]],
        places: &[[u8; 4]],
        values: &[[u8; 4]],
    ) -> Option<Vec<Vec<Found>>> {
        let groups = found.iter().take(self.groups).enumerate();
        let of_group = |(group, count): (usize, &[u8; 4])| {
            let count = u32::from_ne_bytes(*count) as usize;
            if count > self.room {
                return None;
            }
            let first = group * self.room;
            let candidate = |place: usize| {
                let number = |value: usize| f32::from_ne_bytes(values[place * VALUES + value]);
                Found {
                    candidate: Candidate::of_logit(
                        u32::from_ne_bytes(places[place]) as usize,
                        number(0),
                    ),
                    deltas: [1, 2, 3, 4].map(number),
                }
            };
            Some((first..first + count).map(candidate).collect())
        };
        groups.map(of_group).collect()
    }

    fn unit_for_each_logit(&self) -> CubeCount {
        unit_for_each(self.logits.meta.shape().num_elements())
    }

    fn cleared(&self, values: usize) -> CubeTensor {
        let tensor = self.empty(values, DType::U32);
        kernels::clear::launch(
            &self.logits.client,
            unit_for_each(values),
            units(),
            tensor.clone().into_buffer_arg(),
        );
        tensor
    }

    fn empty(&self, values: usize, dtype: DType) -> CubeTensor {
        let handle = self.logits.client.empty(values * size_of::<u32>());
        self.tensor(values, handle, dtype)
    }

    fn tensor(&self, values: usize, handle: Handle, dtype: DType) -> CubeTensor {
        let (client, device) = (self.logits.client.clone(), self.logits.device.clone());
        CubeTensor::new_contiguous(client, device, Shape::new([values]), handle, dtype)
    }
}

fn words(bytes: &Bytes) -> Vec<[u8; 4]> {
    bytes.as_chunks::<4>().0.to_vec()
}
