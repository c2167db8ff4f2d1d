//! Helpers of the whole-program tests: the program itself, tiny experiments, and the shared data.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// How a finished program ended and what it said.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What went to stdout.
    pub stdout: String,
    /// What went to stderr.
    pub stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Finished {
    /// Checks that the program did its work.
    ///
    /// # Panics
    ///
    /// Panics with all that it said where it did not.
    #[expect(
        clippy::return_self_not_must_use,
        reason = "most callers only want the check"
    )]
    pub fn expect_success(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Checks that the program refused with this exit code, in one message that holds all of
    /// `parts`, and without a panic.
    ///
    /// # Panics
    ///
    /// Panics with all that it said where it did not.
    pub fn expect_refusal(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        let errors: Vec<&str> = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert_eq!(errors.len(), 1, "{self:#?}");
        for part in parts {
            assert!(errors[0].contains(part), "no `{part}` in {self:#?}");
        }
    }
}

/// The program, to be given arguments.
///
/// # Panics
///
/// Panics if the program is not built: `cargo test --workspace` builds it.
pub fn retinanet() -> Command {
    let test = std::env::current_exe().expect("a test has a path");
    let program = test
        .ancestors()
        .nth(2)
        .expect("tests are in target/PROFILE/deps")
        .join(format!("retinanet{}", std::env::consts::EXE_SUFFIX));
    assert!(program.exists(), "{} is not built", program.display());
    let mut command = Command::new(program);
    // Software Vulkan's window system complains where it has no place for sockets.
    command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
    command
}

/// Runs the program to its end.
///
/// # Panics
///
/// Panics if it cannot be started.
pub fn run(arguments: &[&str]) -> Finished {
    retinanet()
        .args(arguments)
        .output()
        .expect("the program starts")
        .into()
}

/// A folder with a config that trains a very small model for a few steps on a few shapes.
#[derive(Debug)]
pub struct Experiment {
    folder: TempDir,
}

impl Experiment {
    /// Draws the data and writes the config.
    ///
    /// # Panics
    ///
    /// Panics if that fails.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let experiment = Self { folder };
        let config = format!(
            r#"
seed = 5
[data]
root = "{root}"
short_side = 64
long_side = 64
workers = 1
synth = {{ train_images = 6, val_images = 3, width = 64, height = 64, max_objects = 3 }}
[model]
backbone = "resnet18"
width = 4
norm = "batch_norm"
freeze_at = 0
fpn_channels = 8
head = {{ depth = 1 }}
anchors = {{ sizes = [8.0, 16.0, 32.0, 64.0, 128.0], scales_per_octave = 1 }}
[criterion]
normalizer = "batch"
[schedule]
warmup = 2
milestones = []
[train]
iterations = 6
batch_size = 2
eval_every = 3
checkpoint_every = 2
log_every = 1
[eval]
score_threshold = 0.001
"#,
            root = experiment.path("data").replace('\\', "/"),
        );
        experiment.write("tiny.toml", &config);
        experiment
    }

    /// The path of something in the folder.
    ///
    /// # Panics
    ///
    /// Panics if the temporary folder's path is not UTF-8.
    pub fn path(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        path.to_str().expect("a temporary path in UTF-8").to_owned()
    }

    /// Writes a file into the folder and gives its path.
    ///
    /// # Panics
    ///
    /// Panics if that fails.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs_err::write(&path, text).expect("the temporary folder can be written");
        path
    }

    /// Trains into `run`, with more arguments if wanted.
    pub fn train(&self, run: &str, more: &[&str]) -> Finished {
        let (config, run) = (self.path("tiny.toml"), self.path(run));
        let mut arguments = vec!["train", &config, "--run-dir", &run];
        arguments.extend(more);
        crate::run(&arguments)
    }

    /// Trains into `run` for as long as it takes to find shapes on the images that it saw none of: some 5 seconds.
    pub fn train_to_find(&self, run: &str) -> Finished {
        let more = [
            "train.iterations=150",
            "train.eval_every=150",
            "train.batch_size=6",
            "model.width=16",
            "model.fpn_channels=32",
            "optimizer.kind=adamw",
            "optimizer.lr=0.003",
        ];
        let more = more.map(|setting| ["--set", setting]);
        self.train(run, more.as_flattened())
    }

    /// The bytes of a file in the folder.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be read.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs_err::read(self.path(name)).expect("the file is there")
    }

    /// A JSON file in the folder.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be read or is not JSON.
    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.bytes(name)).expect("the file is JSON")
    }
}

impl Default for Experiment {
    fn default() -> Self {
        Self::new()
    }
}

/// A folder of the shared data sets, or `None`, with a printed reason, where it is absent.
/// `RETINANET_SHARED` says where they lie.
#[expect(clippy::print_stderr, reason = "a skipped test tells why")]
pub fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("RETINANET_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
        PathBuf::from,
    );
    let folder = root.join("data").join(name);
    if folder.exists() {
        return Some(folder);
    }
    eprintln!("skipped: {} is absent", folder.display());
    None
}
