//! What the documents say holds: the commands run, the crates are on the floors that they are shown on, and
//! every link leads somewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use retinanet_tests::{Experiment, Finished, retinanet, run};

/// Commands that are not run here, by how they begin, and why.
const ELSEWHERE: [(&str, &str); 12] = [
    (
        "retinanet tune configs/studies/alpha.toml",
        "trains for an hour; has a test of its own",
    ),
    (
        "retinanet train my_photos",
        "takes as long as it says; `init` has tests of its own",
    ),
    (
        "retinanet serve --run runs/quickstart",
        "serves until it is stopped; has its own tests",
    ),
    (
        "retinanet serve --run runs/mine --address 127.0.0.1:9090 --label-studio",
        "serves until it is stopped; has its own tests",
    ),
    (
        "retinanet dataset convert --from label-studio",
        "needs what people made; has its own tests",
    ),
    (
        "retinanet bench",
        "takes minutes at its default size; has its own test",
    ),
    ("retinanet device check", "a step of scripts/check"),
    (
        "retinanet import retinanet_resnet50",
        "needs a published file; weights have their own tests",
    ),
    (
        "retinanet predict --weights coco.safetensors",
        "needs that file too",
    ),
    (
        "retinanet train configs/bccd_r18.toml --set model.pretrained",
        "needs a published file",
    ),
    (
        "retinanet export --run runs/mine --names torchvision",
        "needs a network of torchvision's",
    ),
    (
        "retinanet lr-find my.toml",
        "takes a hundred steps; has its own test",
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The README and all below `docs`.
fn documents() -> Vec<PathBuf> {
    let entries = fs_err::read_dir(root().join("docs")).unwrap();
    let mut documents: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    documents.push(root().join("README.md"));
    documents.sort();
    documents
}

/// The lines of a document's shell examples that call the program.
fn commands(document: &Path) -> Vec<String> {
    let text = fs_err::read_to_string(document).unwrap();
    let examples = text.split("```sh\n").skip(1);
    let lines = examples.flat_map(|example| example.split("```").next().unwrap().lines());
    let calls = lines.filter(|line| line.starts_with("retinanet "));
    calls.map(str::to_owned).collect()
}

/// A folder with all that the documents name, at tiny size.
struct Sandbox {
    experiment: Experiment,
}

impl Sandbox {
    fn new() -> Self {
        let experiment = Experiment::new();
        let tiny = String::from_utf8(experiment.bytes("tiny.toml")).unwrap();
        for folder in ["configs/studies", "photos", "runs", "datasets/shapes"] {
            fs_err::create_dir_all(experiment.path(folder)).unwrap();
        }
        for config in ["quickstart", "bccd_r18_best", "studies/backbone"] {
            experiment.write(&format!("configs/{config}.toml"), &tiny);
        }
        experiment.write(
            "configs/studies/table_1b.toml",
            "title = \"t\"\nbase = \"backbone.toml\"\n[[runs]]\nname = \"a\"\n",
        );
        let sandbox = Self { experiment };
        for run in ["quickstart", "mine", "deeper"] {
            let line = format!("retinanet train configs/quickstart.toml --run-dir runs/{run}");
            sandbox.run(&line).expect_success();
        }
        sandbox.run("retinanet config show configs/quickstart.toml > my.toml");
        let data = |file: &str| sandbox.experiment.path(&format!("data/{file}"));
        for name in ["train.json", "all.json", "instances_val2017.json"] {
            fs_err::copy(data("train.json"), sandbox.experiment.path(name)).unwrap();
        }
        for images in [
            "images",
            "photos",
            "datasets/shapes/images",
            "my_photos/images",
        ] {
            copy_folder(
                data("images").as_ref(),
                sandbox.experiment.path(images).as_ref(),
            );
        }
        for half in ["train.json", "val.json"] {
            let to = sandbox.experiment.path(&format!("my_photos/{half}"));
            fs_err::copy(data(half), to).unwrap();
        }
        sandbox.experiment.write("results.json", "[]");
        let picture = image::open(data("images/val_00000.png")).unwrap();
        picture.save(sandbox.experiment.path("aerial.tif")).unwrap();
        let voc = "retinanet dataset convert --from coco --to voc train.json --out VOC2007";
        sandbox.run(voc).expect_success();
        sandbox
    }

    /// Runs a line of a document, with its output in a file where it says so.
    fn run(&self, line: &str) -> Finished {
        let (command, file) = line.split_once(" > ").unwrap_or((line, ""));
        let output = retinanet()
            .args(command.split_whitespace().skip(1))
            .current_dir(self.experiment.path("."))
            // Documents hold without a network: a port where nobody listens.
            .env("https_proxy", "http://127.0.0.1:9")
            .env("RETINANET_CACHE", self.experiment.path("cache"))
            .output()
            .unwrap();
        if !file.is_empty() {
            fs_err::write(self.experiment.path(file), &output.stdout).unwrap();
        }
        output.into()
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs_err::create_dir_all(to).unwrap();
    for entry in fs_err::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs_err::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn every_command_runs() {
    let mut elsewhere = ELSEWHERE.map(|(begin, _)| (begin, 0));
    for document in documents() {
        let sandbox = Sandbox::new();
        for line in commands(&document) {
            let skipped = (elsewhere.iter_mut()).find(|(begin, _)| line.starts_with(begin));
            if let Some((_, times)) = skipped {
                *times += 1;
                continue;
            }
            // A run of that name is there already, for the commands that only look at it.
            if line.starts_with("retinanet train my.toml --run-dir runs/mine") {
                fs_err::remove_dir_all(sandbox.experiment.path("runs/mine")).unwrap();
            }
            let finished = sandbox.run(&line);
            assert_eq!(
                finished.code,
                Some(0),
                "{}: `{line}`: {finished:#?}",
                document.display()
            );
        }
    }
    for (begin, times) in elsewhere {
        assert!(times > 0, "no document has `{begin}` any more");
    }
}

#[test]
fn every_setting_that_is_shown_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("shown.toml");
    let mut shown = 0;
    for document in documents() {
        let text = fs_err::read_to_string(&document).unwrap();
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            fs_err::write(&config, block).unwrap();
            let read = run(&["config", "show", config.to_str().unwrap()]);
            assert_eq!(
                read.code,
                Some(0),
                "{}: {block}{read:#?}",
                document.display()
            );
            shown += 1;
        }
    }
    assert!(shown >= 3, "{shown}");
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut all = documents();
    all.extend(["ARCHITECTURE.md", "CONTRIBUTING.md"].map(|name| root().join(name)));
    for document in all {
        let text = fs_err::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            if !target.starts_with("http") {
                let path = document.parent().unwrap().join(target);
                assert!(path.exists(), "{}: {target}", document.display());
            }
        }
    }
}

/// The floor of each crate, as ARCHITECTURE.md shows it; none of what only tests use.
fn floors() -> BTreeMap<String, Option<u32>> {
    let text = fs_err::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
    let crates = rows.filter_map(|row| {
        let (floor, rest) = row.split_once(" | [`")?;
        let (name, _) = rest.split_once("`](crates/")?;
        Some((name.to_owned(), floor.parse().ok()))
    });
    crates.collect()
}

/// The crates of ours that a crate needs, tests apart.
fn needs(name: &str) -> Vec<String> {
    let manifest = root().join("crates").join(name).join("Cargo.toml");
    let manifest = fs_err::read_to_string(manifest).unwrap();
    let (_, dependencies) = manifest
        .split_once("\n[dependencies]\n")
        .unwrap_or_default();
    let dependencies = dependencies.split("\n[").next().unwrap();
    let ours = dependencies
        .lines()
        .filter_map(|line| line.strip_prefix("retinanet-"));
    ours.map(|line| line.split(['.', ' ']).next().unwrap().to_owned())
        .collect()
}

#[test]
fn every_crate_stands_on_lower_floors() {
    let floors = floors();
    let mut crates: Vec<_> = fs_err::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    crates.sort();
    let shown: Vec<_> = floors.keys().cloned().collect();
    assert_eq!(shown, crates, "ARCHITECTURE.md shows other crates");
    for (name, floor) in &floors {
        for need in needs(name) {
            assert!(
                floors[&need] < *floor && floors[&need].is_some(),
                "`{name}` needs `{need}`, which is not on a lower floor"
            );
        }
    }
}

/// The tables of `docs/config.md` are the program's own.
#[test]
fn the_keys_that_are_documented_are_those_that_there_are() {
    const REST: &str = "<!-- The rest is what `retinanet config keys --markdown` prints. -->\n";
    let text = fs_err::read_to_string(root().join("docs/config.md")).unwrap();
    let (_, documented) = text.split_once(REST).unwrap();
    let printed = run(&["config", "keys", "--markdown"]).expect_success();
    assert_eq!(documented.trim(), printed.stdout.trim(), "write it anew");
}

#[test]
fn the_readme_fits_on_a_few_screens() {
    let readme = fs_err::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.lines().count() <= 150);
}
