//! The processes that train together: this one alone, or those that MPI started. The one place that
//! asks whether MPI is compiled in.

#[cfg(feature = "mpi")]
mod mpi;

use std::rc::Rc;

use retinanet_trainer::Communicator;

use crate::console;
use crate::failure::Failure;

/// This process among those that train together.
pub(crate) struct Joined {
    pub(crate) communicator: Rc<dyn Communicator>,
    machine: Machine,
    /// Ends all processes with an exit code.
    end_all: Box<dyn Fn(i32)>,
}

/// This process among those of its machine.
struct Machine {
    /// Which it is, from 0.
    rank: usize,
    processes: usize,
    /// How many may run on just the cores that this one may.
    on_these_cores: usize,
}

/// Joins the processes that `mpirun` or another starter of MPI's started with this one, if any.
#[cfg(feature = "mpi")]
pub(crate) fn join() -> anyhow::Result<Joined> {
    mpi::join()
}

/// Where MPI is not compiled in there is this process alone.
#[cfg(not(feature = "mpi"))]
pub(crate) fn join() -> anyhow::Result<Joined> {
    let starters = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];
    match processes(&starters) {
        None => Ok(Joined::alone()),
        Some(processes) => Err(anyhow::anyhow!(
            "{processes} processes were started, and this program is built without MPI, so that each \
             would train alone: build it with `--features retinanet/mpi`"
        )),
    }
}

/// How many processes were started, where one of these variables tells of several.
fn processes(variables: &[&str]) -> Option<usize> {
    let told = |name: &&str| std::env::var(name).ok()?.parse().ok();
    variables
        .iter()
        .find_map(told)
        .filter(|&processes| processes > 1)
}

/// Ends all processes where this one panics: MPI would wait for the others, and they for this one.
pub(crate) struct EndAllOnPanic<'a>(&'a Joined);

impl Drop for EndAllOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && self.0.communicator.size() > 1 {
            (self.0.end_all)(1);
        }
    }
}

impl Joined {
    pub(crate) fn alone() -> Self {
        Self {
            communicator: Rc::new(retinanet_trainer::SingleProcess),
            machine: Machine {
                rank: 0,
                processes: 1,
                on_these_cores: 1,
            },
            end_all: Box::new(|_| {}),
        }
    }

    /// To be held while working.
    pub(crate) const fn end_all_on_panic(&self) -> EndAllOnPanic<'_> {
        EndAllOnPanic(self)
    }

    pub(crate) fn leads(&self) -> bool {
        self.communicator.rank() == 0
    }

    /// How many of them are on this machine.
    pub(crate) const fn processes_here(&self) -> usize {
        self.machine.processes
    }

    /// The device of this process: where several are on a machine and its name tells no number,
    /// each has its own GPU.
    pub(crate) fn device_name(&self, name: &str) -> String {
        match name {
            "wgpu" | "cuda" if self.machine.processes > 1 => {
                format!("{name}:{}", self.machine.rank)
            }
            _ => name.to_owned(),
        }
    }

    /// How many of the CPU's threads this process takes if nothing is given: its part of the
    /// cores that it may run on.
    pub(crate) fn threads(&self, given: Option<usize>) -> Option<usize> {
        let sharing = self.machine.on_these_cores;
        let part = || {
            let cores = std::thread::available_parallelism().ok()?.get();
            (sharing > 1).then(|| (cores / sharing).max(1))
        };
        given.or_else(part)
    }

    /// Ends the other processes too where this one has failed: they would wait for it for ever.
    pub(crate) fn leave(&self, result: Result<(), Failure>) -> Result<(), Failure> {
        match &result {
            // Asked to, all end in order.
            Ok(()) | Err(Failure::Signal(_)) => {}
            Err(failure) => {
                if self.communicator.size() > 1 {
                    console::error_of_rank(self.communicator.rank(), failure);
                    (self.end_all)(failure.code().into());
                }
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
            machine: Machine {
                rank: 1,
                processes: 3,
                on_these_cores: 3,
            },
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
