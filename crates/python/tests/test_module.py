"""The module beside the program: `scripts/check_python` runs these in a fresh environment.

`RETINANET` is the program. Everything else is made here.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import retinanet

PROGRAM = os.environ["RETINANET"]
CONFIG = """
seed = 3
[data]
root = "DATA"
train = { annotations = "train.json", images = "images" }
val = { annotations = "val.json", images = "images" }
short_side = 64
long_side = 96
[model]
backbone = "resnet18"
width = 8
norm = "batch_norm"
freeze_at = 0
fpn_channels = 16
head = { depth = 1, norm = "group_norm" }
anchors = { sizes = [12.0, 24.0, 48.0, 96.0, 192.0] }
[optimizer]
kind = "adamw"
lr = 0.003
reference_batch = 4
[eval]
score_threshold = 0.005
[schedule]
kind = "constant"
[train]
iterations = 30
batch_size = 4
eval_every = 15
checkpoint_every = 15
"""


def program(*arguments):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Heard(retinanet.Callbacks):
    def __init__(self):
        self.steps, self.evaluations, self.checkpoints, self.messages = [], [], [], []

    def message(self, text):
        self.messages.append(text)

    def step(self, report):
        self.steps.append(report)

    def evaluated(self, report):
        self.evaluations.append(report)

    def checkpoint_written(self, report):
        self.checkpoints.append(report)


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A data set, a config and a run that was trained from here."""
    folder = tmp_path_factory.mktemp("work")
    size = ["--width", 96, "--height", 64, "--max-objects", 3]
    program("dataset", "synth", "--out", folder / "data", "--train-images", 24, "--val-images", 6, *size)
    (folder / "config.toml").write_text(CONFIG.replace("DATA", str(folder / "data")))
    heard = Heard()
    outcome = retinanet.train(folder / "config.toml", folder / "run", callbacks=heard)
    return folder, outcome, heard


@pytest.fixture(scope="session")
def images(work):
    paths = sorted((work[0] / "data/images").glob("val_*.png"))
    assert len(paths) == 6
    return paths


def pixels(path):
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


def test_training_tells_what_happens(work):
    folder, outcome, heard = work
    assert [step["iteration"] for step in heard.steps] == list(range(1, 31))
    assert all(step["loss"] == pytest.approx(step["class_loss"] + step["box_loss"]) for step in heard.steps)
    assert [it["iteration"] for it in heard.evaluations] == [15, 30]
    assert any("ResNet" in text or "Resnet" in text for text in heard.messages)
    assert Path(heard.checkpoints[-1]["folder"]).is_dir()
    assert outcome.iteration == 30 and not outcome.stopped
    assert Path(outcome.run).resolve() == (folder / "run").resolve()
    best = max(it["ap"] for it in heard.evaluations)
    assert outcome.best == pytest.approx(best)


def test_training_is_the_programs(work):
    folder, _, _ = work
    program("train", folder / "config.toml", "--run-dir", folder / "beside")
    losses = [
        [json.loads(line).get("class_loss") for line in (folder / run / "metrics.jsonl").read_text().splitlines()]
        for run in ["run", "beside"]
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("score", [None, 0.006])
def test_detections_are_the_programs(work, images, score):
    folder, _, _ = work
    out = folder / f"found{score}.json"
    more = [] if score is None else ["--score", score]
    program("predict", "--run", folder / "run", *images, "--json", out, "--no-drawings", *more)
    expected = json.loads(out.read_text())
    detector = retinanet.Detector.open(folder / "run", score=score)
    found = []
    for path in images:
        from_file, from_array = detector.detect(path), detector.detect(pixels(path))
        for one, other in zip(
            [from_file.boxes, from_file.scores, from_file.classes],
            [from_array.boxes, from_array.scores, from_array.classes],
        ):
            assert one.dtype == other.dtype and np.array_equal(one, other)
        found += [(path.name, it) for it in from_file.to_coco(0)]
    if score is not None:
        assert len(found) > 20
    assert len(found) == len(expected)
    for (name, one), other in zip(found, expected):
        assert (name, one["category_id"]) == (Path(other["file_name"]).name, other["category_id"])
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-5)
        assert one["score"] == pytest.approx(other["score"], abs=1e-7)


def test_a_batch_and_an_exported_file_detect_the_same(work, images):
    folder, _, _ = work
    detector = retinanet.Detector.open(folder / "run", score=0.006)
    arrays = [pixels(path) for path in images]
    weights = folder / "weights.safetensors"
    program("export", "--run", folder / "run", "--out", weights)
    exported = retinanet.Detector.from_weights(weights, folder / "run/config.toml", score=0.006)
    assert exported.names == detector.names and exported.categories == detector.categories
    for one, other, third in zip(detector.detect_batch(arrays), exported.detect_batch(arrays), map(detector.detect, arrays)):
        assert len(one) > 0
        assert np.array_equal(one.boxes, other.boxes) and np.array_equal(one.boxes, third.boxes)
    # A mirrored view is not contiguous.
    flipped = arrays[0][:, ::-1]
    assert np.array_equal(detector.detect(flipped).boxes, detector.detect(flipped.copy()).boxes)


def test_what_is_wrong_is_told(work, tmp_path):
    folder, _, _ = work
    with pytest.raises(retinanet.RetinanetError, match="nowhere"):
        retinanet.Detector.open(tmp_path / "nowhere")
    detector = retinanet.Detector.open(folder / "run")
    with pytest.raises(retinanet.RetinanetError, match="missing.png"):
        detector.detect(tmp_path / "missing.png")
    for wrong in [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]:
        with pytest.raises(ValueError, match="height, width, 3"):
            detector.detect(wrong)
    with pytest.raises(TypeError, match="float64"):
        detector.detect(np.zeros((4, 4, 3)))
    for score in [2.0, -0.1, float("nan")]:
        with pytest.raises(ValueError, match="score"):
            retinanet.Detector.open(folder / "run", score=score)
    with pytest.raises(ValueError, match="checkpoint"):
        retinanet.Detector.open(folder / "run", checkpoint="../checkpoints/last")
    with pytest.raises(ValueError, match="no folder"):
        retinanet.train(folder / "config.toml", "")
    with pytest.raises(TypeError, match="model.pretrained"):
        retinanet.train(folder / "config.toml", tmp_path / "run", settings={"model.pretrained": None})
    with pytest.raises(TypeError, match="checkpoint_written"):
        retinanet.train(folder / "config.toml", tmp_path / "run", callbacks=object())
    with pytest.raises(retinanet.RetinanetError, match="train.bach_size"):
        retinanet.train(folder / "config.toml", tmp_path / "run", settings={"train.bach_size": 4})
    assert not (tmp_path / "run").exists()


def test_settings_are_values(work, tmp_path):
    folder, _, _ = work
    settings = {
        "train.iterations": np.int64(2),
        "train.eval_every": 2,
        "criterion.box": {"kind": "giou", "weight": 2.0},
        "model.anchors.sizes": np.array([10.0, 20.0, 40.0, 80.0, 160.0]),
        "data.workers": 1,
        "eval.drop_empty": np.bool_(True),
    }
    retinanet.train(folder / "config.toml", tmp_path / "run", settings=settings, callbacks=Heard())
    written = (tmp_path / "run/config.toml").read_text()
    assert "giou" in written and "160.0" in written
    with pytest.raises(retinanet.RetinanetError, match="123"):
        retinanet.train(folder / "config.toml", tmp_path / "other", settings={"train.iterations": "123"})


def test_what_is_raised_before_the_first_step_leaves_no_run(work, tmp_path):
    folder, _, _ = work

    class Refuses(Heard):
        def message(self, text):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        retinanet.train(folder / "config.toml", tmp_path / "run", callbacks=Refuses())
    retinanet.train(folder / "config.toml", tmp_path / "run", settings={"train.iterations": 1}, callbacks=Heard())


def test_a_forked_process_is_told(work, images):
    folder, _, _ = work
    detector = retinanet.Detector.open(folder / "run")
    picture = pixels(images[0])
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            detector.detect(picture)
        except retinanet.RetinanetError as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert b"spawn" in os.read(read, 1000)


def test_what_a_callback_raises_ends_the_run_with_a_checkpoint(work, tmp_path):
    folder, _, _ = work

    class Enough(Heard):
        def step(self, report):
            super().step(report)
            if report["iteration"] == 7:
                raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        retinanet.train(folder / "config.toml", tmp_path / "run", callbacks=Enough())
    heard = Heard()
    outcome = retinanet.train(folder / "config.toml", tmp_path / "run", resume=True, callbacks=heard)
    assert [step["iteration"] for step in heard.steps] == list(range(8, 31))
    assert not outcome.stopped


def test_ctrl_c_ends_the_run_with_a_checkpoint(work, tmp_path):
    folder, _, _ = work
    script = f"""
        import retinanet
        class Told(retinanet.Callbacks):
            def step(self, report):
                print(report["iteration"], flush=True)
        retinanet.train({str(folder / "config.toml")!r}, {str(tmp_path / "run")!r},
                        settings={{"train.iterations": 100000, "train.eval_every": 100000}}, callbacks=Told())
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert "KeyboardInterrupt" in told
    assert (tmp_path / "run/checkpoints/last").is_dir()


def test_other_threads_run_while_it_detects(work, images):
    folder, _, _ = work
    detector = retinanet.Detector.open(folder / "run")
    large = np.repeat(np.repeat(pixels(images[0]), 8, axis=0), 8, axis=1)
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    thread = threading.Thread(target=tick)
    thread.start()
    began = time.perf_counter()
    for _ in range(10):
        detector.detect(large)
    ended = time.perf_counter()
    done.set()
    thread.join()
    within = sum(began < tick < ended for tick in ticks)
    assert within > 10, (within, ended - began)
