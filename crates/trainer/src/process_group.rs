//! The processes that train a run together, and what they exchange.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use retinanet_detector::RetinaNet;

use crate::communicator::Communicator;
use crate::single_process::SingleProcess;

/// Values that are added up in one go, at most: 64 MiB.
const BUFFER: usize = 16 << 20;

/// What the leader has all do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Command {
    Step,
    Evaluate,
    End,
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

    /// How long talking took since this was asked last, gathering what is said included.
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
            self.timed(|communicator| communicator.broadcast(vec![command as u8]));
        }
    }

    /// What the leader said that all do next.
    pub(crate) fn receive_command(&self) -> Command {
        // Waiting for the leader is not talking.
        match self.communicator.broadcast(Vec::new()).first() {
            Some(&byte) if byte == Command::Step as u8 => Command::Step,
            Some(&byte) if byte == Command::Evaluate as u8 => Command::Evaluate,
            _ => Command::End,
        }
    }

    /// What the leader has, for all.
    pub(crate) fn broadcast(&self, bytes: Vec<u8>) -> Vec<u8> {
        self.timed(|communicator| communicator.broadcast(bytes))
    }

    /// What each has, in the order of their ranks, for all.
    pub(crate) fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.timed(|communicator| communicator.gather(bytes))
    }

    /// The leader's number, for all.
    pub(crate) fn leaders(&self, number: f64) -> f64 {
        if self.is_single() {
            return number;
        }
        let heard = self.broadcast(number.to_le_bytes().to_vec());
        heard.try_into().map_or(number, f64::from_le_bytes)
    }

    /// Adds numbers up in the order of the ranks.
    pub(crate) fn all_reduce(&self, numbers: &mut [f64]) {
        if self.is_single() {
            return;
        }
        let bytes: Vec<u8> = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
        numbers.fill(0.0);
        for of_rank in self.gather(&bytes) {
            for (sum, number) in numbers.iter_mut().zip(of_rank.as_chunks().0) {
                *sum += f64::from_le_bytes(*number);
            }
        }
    }

    /// The counts of all, those of this process at the range that comes with them.
    pub(crate) fn gather_counts(&self, counts: &[usize]) -> (Vec<usize>, std::ops::Range<usize>) {
        if self.is_single() {
            return (counts.to_vec(), 0..counts.len());
        }
        let bytes: Vec<u8> = (counts.iter())
            .flat_map(|&count| (count as u64).to_le_bytes())
            .collect();
        let (mut all, mut own) = (Vec::new(), 0..0);
        for (rank, bytes) in self.gather(&bytes).iter().enumerate() {
            let start = all.len();
            let counts = bytes.as_chunks().0.iter();
            all.extend(counts.map(|&count| u64::from_le_bytes(count) as usize));
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
