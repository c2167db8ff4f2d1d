//! The processes that train a run together, and what they exchange.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use retinanet_detector::RetinaNet;

use crate::processes::communicator::Communicator;
use crate::processes::messages::{Command, Message};
use crate::processes::single_process::SingleProcess;

/// Values that are added up in one go, at most: 64 MiB.
const BUFFER: usize = 16 << 20;

/// A process in training: its group, and the device that it computes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process<'a> {
    pub(crate) group: &'a ProcessGroup,
    pub(crate) device: &'a Device,
}

/// This process among those that train together, with the time that communication took.
#[derive(Clone)]
pub(crate) struct ProcessGroup {
    communicator: Rc<dyn Communicator>,
    communicated: Rc<Cell<Duration>>,
}

impl fmt::Debug for ProcessGroup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of {}", self.rank(), self.size())
    }
}

impl ProcessGroup {
    pub(crate) fn new(communicator: Rc<dyn Communicator>) -> Self {
        Self {
            communicator,
            communicated: Rc::default(),
        }
    }

    pub(crate) fn single() -> Self {
        Self::new(Rc::new(SingleProcess))
    }

    pub(crate) fn rank(&self) -> usize {
        self.communicator.rank()
    }

    pub(crate) fn size(&self) -> usize {
        self.communicator.size()
    }

    pub(crate) fn is_single(&self) -> bool {
        self.size() == 1
    }

    /// How long communication took since this was asked last.
    pub(crate) fn communicated(&self) -> Duration {
        self.communicated.take()
    }

    fn timed<T>(&self, operation: impl FnOnce(&dyn Communicator) -> T) -> T {
        let started = Instant::now();
        let heard = operation(&*self.communicator);
        self.communicated
            .set(self.communicated.get() + started.elapsed());
        heard
    }

    /// Says what all do next.
    pub(crate) fn send_command(&self, command: Command) {
        if !self.is_single() {
            self.broadcast(&command);
        }
    }

    /// What the leader said that all do next.
    pub(crate) fn receive_command(&self) -> Command {
        // Waiting for the leader is not communication.
        Command::decode(&self.communicator.broadcast(Vec::new()))
    }

    /// What the leader has, for all.
    pub(crate) fn broadcast<M: Message>(&self, own: &M) -> M::Received {
        let bytes = if self.rank() == 0 {
            own.encode()
        } else {
            Vec::new()
        };
        M::decode(&self.timed(|communicator| communicator.broadcast(bytes)))
    }

    /// What the leader has, for one that is not.
    pub(crate) fn receive<M: Message>(&self) -> M::Received {
        M::decode(&self.timed(|communicator| communicator.broadcast(Vec::new())))
    }

    /// What each has, in the order of their ranks, for all.
    pub(crate) fn gather<M: Message>(&self, own: &M) -> Vec<M::Received> {
        let bytes = own.encode();
        let of_ranks = self.timed(|communicator| communicator.gather(&bytes));
        of_ranks.iter().map(|bytes| M::decode(bytes)).collect()
    }

    /// The leader's number, for all.
    pub(crate) fn leaders(&self, number: f64) -> f64 {
        if self.is_single() {
            return number;
        }
        let received = self.broadcast(&vec![number.to_bits()]);
        received
            .first()
            .map_or(number, |bits| f64::from_bits(*bits))
    }

    /// Adds numbers up in the order of the ranks.
    pub(crate) fn all_reduce(&self, numbers: &mut [f64]) {
        if self.is_single() {
            return;
        }
        let words: Vec<u64> = numbers.iter().map(|it| it.to_bits()).collect();
        numbers.fill(0.0);
        for of_rank in self.gather(&words) {
            for (sum, number) in numbers.iter_mut().zip(of_rank) {
                *sum += f64::from_bits(number);
            }
        }
    }

    /// The counts of all, those of this process at the range that comes with them.
    pub(crate) fn gather_counts(&self, counts: &[usize]) -> (Vec<usize>, std::ops::Range<usize>) {
        if self.is_single() {
            return (counts.to_vec(), 0..counts.len());
        }
        let words: Vec<u64> = counts.iter().map(|&count| count as u64).collect();
        let (mut all, mut own) = (Vec::new(), 0..0);
        for (rank, counts) in self.gather(&words).into_iter().enumerate() {
            let start = all.len();
            all.extend(counts.into_iter().map(|count| count as usize));
            if rank == self.rank() {
                own = start..all.len();
            }
        }
        (all, own)
    }

    /// Adds up the gradients of all, in few large buffers.
    pub(crate) fn all_reduce_gradients(
        &self,
        model: &RetinaNet,
        gradients: GradientsParams,
    ) -> GradientsParams {
        if self.is_single() {
            return gradients;
        }
        self.timed(|communicator| {
            let mut flat = Flattener {
                gradients: &gradients,
                values: Vec::new(),
            };
            model.visit(&mut flat);
            let mut values = flat.values;
            for buffer in values.chunks_mut(BUFFER) {
                communicator.all_reduce(buffer);
            }
            let mut summed = Rebuilder {
                gradients,
                values: &values,
                summed: GradientsParams::new(),
            };
            model.visit(&mut summed);
            summed.summed
        })
    }
}

/// Writes the gradients of a model one after another, in the model's order.
struct Flattener<'a> {
    gradients: &'a GradientsParams,
    values: Vec<f32>,
}

impl ModuleVisitor for Flattener<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let gradient = gradient.into_data_as::<f32>();
            let values = gradient.as_slice().expect("it was made `f32`");
            self.values.extend_from_slice(values);
        }
    }
}

/// Takes them back.
struct Rebuilder<'a> {
    gradients: GradientsParams,
    values: &'a [f32],
    summed: GradientsParams,
}

impl ModuleVisitor for Rebuilder<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            let shape = gradient.shape();
            let (own, rest) = self.values.split_at(shape.num_elements());
            self.values = rest;
            let data = TensorData::new(own.to_vec(), shape);
            let gradient = Tensor::<D>::from_data(data, &gradient.device());
            self.summed.register(param.id, gradient);
        }
    }
}
