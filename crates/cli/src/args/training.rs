//! The arguments of what trains: `train`, `lr-find`, `study`, `runs`.

use std::path::PathBuf;

use clap::Args;

use super::{from_1_to, Settings};

#[derive(Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each flag is there or not, whatever the others are"
)]
pub(crate) struct TrainArguments {
    /// The experiment, a TOML file; with --resume also the directory of a run alone
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// What computes: flex (the CPU), wgpu (the GPU), wgpu:1 (the second GPU)
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// Where the run goes; `runs/` and the config's name if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Goes on with a run that was stopped
    #[arg(long)]
    pub(crate) resume: bool,
    /// Trains though it takes more days or more memory than seems meant
    #[arg(long)]
    pub(crate) yes: bool,
    /// Trains though `dataset check` finds errors in the annotations
    #[arg(long)]
    pub(crate) no_check: bool,
    /// Trains on a GPU without comparing it with the CPU first, or though it computes otherwise
    #[arg(long)]
    pub(crate) trust_device: bool,
}

#[derive(Args)]
pub(crate) struct LrFindArguments {
    /// The experiment, a TOML file
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// What computes: flex (the CPU), wgpu (the GPU), wgpu:1 (the second GPU)
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// How many steps, from 1e-6 to 1
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..))]
    pub(crate) steps: u64,
    /// As for `train`
    #[arg(long)]
    pub(crate) trust_device: bool,
}

#[derive(Args)]
pub(crate) struct StudyArguments {
    /// The study, a TOML file
    pub(crate) study: PathBuf,
    /// The config that its runs start from, in place of the study's own
    #[arg(long, value_name = "CONFIG")]
    pub(crate) base: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// What computes: flex (the CPU), wgpu (the GPU), wgpu:1 (the second GPU)
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// Where runs and tables go; `runs/studies/` and the study's name if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// How many runs train at once
    #[arg(long, value_parser = from_1_to::<64>, default_value_t = 1)]
    pub(crate) jobs: usize,
}

#[derive(Args)]
pub(crate) struct RunsArguments {
    /// A folder of runs, or a run
    #[arg(default_value = "runs")]
    pub(crate) folder: PathBuf,
    /// Gives a hash of the newest weights, and of their average if there is one: the same where they
    /// are bit-identical
    #[arg(long)]
    pub(crate) hash: bool,
}
