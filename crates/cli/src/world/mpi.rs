use std::env;
use std::rc::Rc;

use anyhow::anyhow;
use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::traits::{CommunicatorCollectives, Root};
use mpi::Threading;
use retinanet_trainer::World;

use super::Joined;

/// What starters set for the processes that they start: Open MPI, MPICH and Slurm's `srun`.
const STARTED: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"];

/// Bytes in one message, at most; MPI counts in 31 bits.
const MESSAGE: usize = 1 << 30;

/// The processes of MPI's world.
struct Mpi {
    world: SimpleCommunicator,
    /// Ends MPI when it goes.
    _universe: Universe,
}

pub(super) fn join() -> anyhow::Result<Joined> {
    if !STARTED.iter().any(|name| env::var_os(name).is_some()) {
        return Ok(Joined::alone());
    }
    // Other threads compute; this one talks.
    let (universe, threading) = mpi::initialize_with_threading(Threading::Funneled)
        .ok_or_else(|| anyhow!("MPI was started already"))?;
    if threading < Threading::Funneled {
        return Err(anyhow!("this MPI does not allow programs to have threads"));
    }
    let world = universe.world();
    let machine = world.split_shared(world.rank());
    let local = (machine.rank() as usize, machine.size() as usize);
    let to_end = world.duplicate();
    Ok(Joined {
        world: Rc::new(Mpi {
            world,
            _universe: universe,
        }),
        local,
        end_all: Box::new(move |code| to_end.abort(code)),
    })
}

impl World for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn sum(&self, values: &mut [f32]) {
        let own = values.to_vec();
        (self.world).all_reduce_into(&own[..], values, SystemOperation::sum());
    }

    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lengths = vec![0_u64; self.size()];
        (self.world).all_gather_into(&(bytes.len() as u64), &mut lengths[..]);
        let of_rank = |rank: usize, length: u64| {
            let mut content = vec![0; length as usize];
            if rank == self.rank() {
                content.copy_from_slice(bytes);
            }
            self.spread(rank, &mut content);
            content
        };
        (lengths.into_iter().enumerate())
            .map(|(rank, length)| of_rank(rank, length))
            .collect()
    }

    fn broadcast(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let mut length = bytes.len() as u64;
        self.world.process_at_rank(0).broadcast_into(&mut length);
        bytes.resize(length as usize, 0);
        self.spread(0, &mut bytes);
        bytes
    }
}

impl Mpi {
    /// Gives what one process has to all; they know how much it is.
    fn spread(&self, from: usize, bytes: &mut [u8]) {
        let from = self.world.process_at_rank(from as i32);
        for message in bytes.chunks_mut(MESSAGE) {
            from.broadcast_into(message);
        }
    }
}
