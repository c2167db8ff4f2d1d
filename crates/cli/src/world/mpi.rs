use std::env;
use std::rc::Rc;

use anyhow::anyhow;
use mpi::collective::SystemOperation;
use mpi::datatype::PartitionMut;
use mpi::environment::Universe;
use mpi::topology::{Communicator as _, SimpleCommunicator};
use mpi::traits::{CommunicatorCollectives, Root};
use mpi::{Count, Threading};
use retinanet_trainer::Communicator;

use super::{Joined, Machine};

/// What starters set for the processes that they start: Open MPI, MPICH and Slurm's `srun`.
const STARTED: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"];

/// Bytes in one message, at most; MPI counts in 31 bits.
const MESSAGE: usize = 1 << 30;

/// The processes of MPI's world.
struct Mpi {
    world: SimpleCommunicator,
    /// Ends MPI when it goes.
    _universe: Option<Universe>,
}

pub(super) fn join() -> anyhow::Result<Joined> {
    if !STARTED.iter().any(|name| env::var_os(name).is_some()) {
        if let Some(tasks) = super::processes(&["SLURM_STEP_NUM_TASKS"]) {
            return Err(anyhow!(
                "srun started {tasks} processes without MPI, so that each would train alone: try \
                 `srun --mpi=pmix`, and see `srun --mpi=list`"
            ));
        }
        return Ok(Joined::alone());
    }
    // Other threads compute; this one talks.
    let (universe, threading) = mpi::initialize_with_threading(Threading::Funneled)
        .ok_or_else(|| anyhow!("MPI was started already"))?;
    if threading < Threading::Funneled {
        return Err(anyhow!("this MPI does not allow programs to have threads"));
    }
    let world = universe.world();
    let machine = Mpi {
        world: world.split_shared(world.rank()),
        _universe: None,
    };
    let cores = cores();
    let of_all = machine.gather(cores.as_bytes());
    let machine = Machine {
        rank: machine.rank(),
        processes: machine.size(),
        on_these_cores: (of_all.iter())
            .filter(|other| **other == cores.as_bytes())
            .count(),
    };
    Ok(Joined {
        communicator: Rc::new(Mpi {
            world,
            _universe: Some(universe),
        }),
        machine,
        end_all: Box::new(|code| SimpleCommunicator::world().abort(code)),
    })
}

/// The cores that this process may run on, where the system tells: starters may give each its own.
fn cores() -> String {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("Cpus_allowed_list"));
    line.unwrap_or_default().to_owned()
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn all_reduce(&self, values: &mut [f32]) {
        let own = values.to_vec();
        (self.world).all_reduce_into(&own[..], values, SystemOperation::sum());
    }

    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        // One byte more, because Rust's pointer to no bytes is 1, and so is Open MPI's `MPI_IN_PLACE`.
        let bytes = &[&[0], bytes].concat()[..];
        let mut lengths = vec![0_u64; self.size()];
        (self.world).all_gather_into(&(bytes.len() as u64), &mut lengths[..]);
        let total: u64 = lengths.iter().sum();
        if total as usize > MESSAGE {
            return self.gather_one_by_one(bytes, &lengths);
        }
        let mut all = vec![0; total as usize];
        let counts: Vec<Count> = lengths.iter().map(|&length| length as Count).collect();
        let starts: Vec<Count> = (counts.iter())
            .scan(0, |end, count| {
                *end += count;
                Some(*end - count)
            })
            .collect();
        let mut parts = PartitionMut::new(&mut all[..], counts, starts);
        self.world.all_gather_varcount_into(bytes, &mut parts);
        let mut rest = all.as_slice();
        let part = |length: u64| {
            let (part, tail) = rest.split_at(length as usize);
            rest = tail;
            part[1..].to_vec()
        };
        lengths.into_iter().map(part).collect()
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
    fn gather_one_by_one(&self, bytes: &[u8], lengths: &[u64]) -> Vec<Vec<u8>> {
        let of_rank = |(rank, &length): (usize, &u64)| {
            let mut content = vec![0; length as usize];
            if rank == self.rank() {
                content.copy_from_slice(bytes);
            }
            self.spread(rank, &mut content);
            content.split_off(1)
        };
        lengths.iter().enumerate().map(of_rank).collect()
    }

    /// Gives what one process has to all; they know how much it is.
    fn spread(&self, from: usize, bytes: &mut [u8]) {
        let from = self.world.process_at_rank(from as i32);
        for message in bytes.chunks_mut(MESSAGE) {
            from.broadcast_into(message);
        }
    }
}
