//! The arguments of what trains: `init`, `train`, `lr-find`, `study`, `runs`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;

use super::{from_1_to, Settings};

/// How long training takes that nobody asks to take longer, in minutes.
const MINUTES: f64 = 30.0;

#[derive(Args)]
pub(crate) struct InitArguments {
    /// A folder with annotations (COCO, YOLO, Pascal VOC or CSV) and images; the current one if not given
    #[arg(conflicts_with = "annotations")]
    pub(crate) folder: Option<PathBuf>,
    /// Instead of a folder: a COCO annotation file
    #[arg(long, value_name = "FILE")]
    pub(crate) annotations: Option<PathBuf>,
    /// The folder of its images; looked for around it if not given
    #[arg(long, value_name = "DIR", requires = "annotations")]
    pub(crate) images: Option<PathBuf>,
    /// A COCO annotation file to evaluate on; if not given, images are set aside
    #[arg(long, value_name = "FILE", requires = "annotations")]
    pub(crate) val: Option<PathBuf>,
    /// The folder of its images; that of `--images` if not given
    #[arg(long, value_name = "DIR", requires = "val")]
    pub(crate) val_images: Option<PathBuf>,
    /// The config to write; the folder's or the annotations' name with `.toml` if not given
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// How long training may take, on this machine
    #[arg(long, default_value_t = MINUTES, value_parser = minutes)]
    pub(crate) minutes: f64,
    /// What computes: flex (the CPU), wgpu (the GPU), wgpu:1 (the second GPU)
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// The weights to start from, as `model.pretrained`; `none` for random ones; if not given, on a CPU those that
    /// ship with the program, on a GPU those of `ImageNet`, which `torchvision:resnet18` names
    #[arg(long, value_name = "PLACE")]
    pub(crate) pretrained: Option<String>,
}

impl InitArguments {
    /// For the annotations and images of a folder.
    pub(crate) fn of_folder(folder: &Path, minutes: Option<f64>, device: Option<String>) -> Self {
        Self {
            folder: Some(folder.to_owned()),
            annotations: None,
            images: None,
            val: None,
            val_images: None,
            out: None,
            minutes: minutes.unwrap_or(MINUTES),
            device,
            pretrained: None,
        }
    }

    /// The config to write.
    pub(crate) fn out(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(|| {
            let folder = self.folder.clone().unwrap_or_else(|| PathBuf::from("."));
            let folder = std::path::absolute(&folder).unwrap_or(folder);
            let name = match &self.annotations {
                Some(annotations) => annotations.file_stem(),
                None => folder.file_name(),
            };
            let mut file = name.unwrap_or("my".as_ref()).to_owned();
            file.push(".toml");
            PathBuf::from(file)
        })
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    minutes_from(0.5, text)
}

/// Minutes in which nothing needs to be done.
fn budget(text: &str) -> Result<f64, String> {
    minutes_from(0.0, text)
}

fn minutes_from(least: f64, text: &str) -> Result<f64, String> {
    const MOST: f64 = 100_000.0;
    let minutes: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (least..=MOST).contains(&minutes) {
        Ok(minutes)
    } else {
        Err(format!("has to be in [{least}, {MOST}]"))
    }
}

#[derive(Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each flag is there or not, whatever the others are"
)]
pub(crate) struct TrainArguments {
    /// The experiment, a TOML file; or a folder with annotations and images, for which `init` makes one first; with
    /// --resume also the directory of a run alone
    pub(crate) config: PathBuf,
    /// With a folder of annotations and images: how long training may take; 30 if not given
    #[arg(long, value_parser = minutes)]
    pub(crate) minutes: Option<f64>,
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
    /// Stops after this step, or this share of all steps such as `33%`, as if asked to: --resume goes on
    #[arg(long, value_name = "STEP")]
    pub(crate) until: Option<Until>,
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
pub(crate) struct TuneArguments {
    #[command(flatten)]
    pub(crate) study: StudyArguments,
    /// Starts no training after so many minutes; the same command goes on
    #[arg(long, value_parser = budget)]
    pub(crate) minutes: Option<f64>,
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

/// A step of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Until {
    Step(u64),
    /// Of all steps, in `(0, 1]`.
    Share(f64),
}

impl Until {
    /// Whether a run of so many steps has come so far.
    pub(crate) fn is_reached(self, step: u64, total: u64) -> bool {
        match self {
            Self::Step(until) => step >= until,
            Self::Share(share) => step as f64 >= (share * total as f64).round().max(1.0),
        }
    }
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let until = match text.strip_suffix('%') {
            Some(percent) => {
                let percent = percent.parse().ok();
                let percent = percent.filter(|it| *it > 0.0 && *it <= 100.0);
                percent.map(|percent: f64| Self::Share(percent / 100.0))
            }
            None => text.parse().ok().filter(|it| *it > 0).map(Self::Step),
        };
        until.ok_or_else(|| format!("`{text}` is neither a step from 1 nor a share such as `33%`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_or_a_share() {
        let until = |text: &str| text.parse::<Until>();
        assert_eq!(until("7"), Ok(Until::Step(7)));
        assert_eq!(until("25%"), Ok(Until::Share(0.25)));
        for wrong in ["0", "-1", "0%", "101%", "NaN%", "x", "1.5", ""] {
            assert!(until(wrong).is_err(), "{wrong}");
        }
        let reached = |until: Until| (0..=9).find(|step| until.is_reached(*step, 9));
        assert_eq!(reached(Until::Step(4)), Some(4));
        assert_eq!(reached(Until::Share(1.0 / 3.0)), Some(3));
        assert_eq!(reached(Until::Share(0.01)), Some(1));
        assert_eq!(reached(Until::Share(1.0)), Some(9));
    }
}
