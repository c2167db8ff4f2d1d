//! The processes that train together: this one alone, or those that MPI started. The one place that
//! asks whether MPI is compiled in.

#[cfg(feature = "mpi")]
mod mpi;

use std::rc::Rc;

use retinanet_trainer::World;

use crate::console;
use crate::failure::Failure;

/// This process among those that train together.
pub(crate) struct Joined {
    /// Ends all processes with an exit code. Before `world`, with which MPI ends.
    end_all: Box<dyn Fn(i32)>,
    pub(crate) world: Rc<dyn World>,
    /// Which of those on its machine it is, and how many these are.
    local: (usize, usize),
}

/// Joins the processes that `mpirun` or another starter of MPI's started with this one, if any.
#[cfg(feature = "mpi")]
pub(crate) fn join() -> anyhow::Result<Joined> {
    mpi::join()
}

/// Where MPI is not compiled in there is this process alone.
#[cfg(not(feature = "mpi"))]
#[expect(
    clippy::unnecessary_wraps,
    reason = "joining others, which the other build does, may fail"
)]
pub(crate) fn join() -> anyhow::Result<Joined> {
    Ok(Joined::alone())
}

impl Joined {
    pub(crate) fn alone() -> Self {
        Self {
            world: Rc::new(retinanet_trainer::Alone),
            local: (0, 1),
            end_all: Box::new(|_| {}),
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.world.rank() == 0
    }

    /// How many of them are on this machine.
    pub(crate) const fn processes_here(&self) -> usize {
        self.local.1
    }

    /// The device of this process: where several are on a machine and its name tells no number,
    /// each has its own GPU.
    pub(crate) fn device_name(&self, name: &str) -> String {
        match (name, self.local) {
            ("wgpu" | "cuda", (rank, size)) if size > 1 => format!("{name}:{rank}"),
            _ => name.to_owned(),
        }
    }

    /// How many of the CPU's threads this process takes: its part of the cores where nothing is
    /// given.
    pub(crate) fn threads(&self, given: Option<usize>) -> Option<usize> {
        let (_, size) = self.local;
        let part = || {
            let cores = std::thread::available_parallelism().ok()?.get();
            (size > 1).then(|| (cores / size).max(1))
        };
        given.or_else(part)
    }

    /// Ends the other processes too where this one has failed: they would wait for it for ever.
    pub(crate) fn leave(&self, result: Result<(), Failure>) -> Result<(), Failure> {
        if let Err(failure) = &result {
            if self.world.size() > 1 {
                console::error_of_rank(self.world.rank(), failure);
                (self.end_all)(failure.code().into());
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_a_machine_share_its_gpus_and_cores() {
        let second_of_three = Joined {
            local: (1, 3),
            ..Joined::alone()
        };
        assert_eq!(second_of_three.device_name("wgpu"), "wgpu:1");
        assert_eq!(second_of_three.device_name("wgpu:0"), "wgpu:0");
        assert_eq!(second_of_three.device_name("flex"), "flex");
        assert_eq!(second_of_three.threads(Some(5)), Some(5));
        assert!(second_of_three
            .threads(None)
            .is_some_and(|threads| threads >= 1));
        assert_eq!(Joined::alone().device_name("wgpu"), "wgpu");
        assert_eq!(Joined::alone().threads(None), None);
    }
}
