"""RetinaNet detectors: training and detection on the CPU.

    import retinanet

    detector = retinanet.Detector.open("runs/mine")
    found = detector.detect("photo.jpg")        # or a NumPy array [height, width, 3] of RGB bytes
    found.boxes, found.scores, found.classes
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np

from . import _retinanet
from ._retinanet import RetinanetError

__all__ = ["Callbacks", "Detections", "Detector", "Outcome", "PrintedLines", "RetinanetError", "train"]

Image = Union[np.ndarray, str, "os.PathLike[str]"]


@dataclass(frozen=True, eq=False)
class Detections:
    """What was detected on an image, best first."""

    boxes: np.ndarray
    """`[n, 4]`, float32: `[x1, y1, x2, y2]` in pixels of the upright image."""
    scores: np.ndarray
    """`[n]`, float32, in [0, 1]."""
    classes: np.ndarray
    """`[n]`, int64: places in `names`."""
    names: tuple[str, ...]
    """The name of every class."""
    categories: tuple[int, ...]
    """The category id of every class, as the training data's annotations have it."""

    def __len__(self) -> int:
        return len(self.scores)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """The detections as entries of COCO's results format."""
        boxes = self.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        return [
            {"image_id": int(image_id), "category_id": self.categories[index], "bbox": box, "score": score}
            for index, box, score in zip(self.classes, boxes.tolist(), self.scores.tolist())
        ]


class Detector:
    """A trained model with all that it needs to detect. Made by `open` or `from_weights`."""

    def __init__(self, inner: _retinanet.Detector) -> None:
        self._inner = inner
        self.categories: tuple[int, ...] = tuple(category for category, _ in inner.classes)
        self.names: tuple[str, ...] = tuple(name for _, name in inner.classes)

    @classmethod
    def open(
        cls, run: str | os.PathLike[str], *, checkpoint: str | None = None, score: float | None = None
    ) -> Detector:
        """Opens a run.

        `checkpoint`: `"last"`, for one; the best if it is not given. `score`: the lowest score that counts; where F1 on
        the validation images is largest if it is not given, as with `retinanet predict`.
        """
        return cls(_retinanet.Detector.open(os.fspath(run), checkpoint, score))

    @classmethod
    def from_weights(
        cls, weights: str | os.PathLike[str], config: str | os.PathLike[str], *, score: float | None = None
    ) -> Detector:
        """Opens an exported weight file with the config of its model."""
        return cls(_retinanet.Detector.from_weights(os.fspath(weights), os.fspath(config), score))

    @property
    def score(self) -> float:
        """The lowest score that counts."""
        return self._inner.score

    def detect(self, image: Image) -> Detections:
        """The detections on an image: a file, or RGB bytes `[height, width, 3]`."""
        if isinstance(image, (str, os.PathLike)):
            return self._detections(self._inner.detect_file(os.fspath(image)))
        return self.detect_batch([image])[0]

    def detect_batch(self, images: Iterable[np.ndarray]) -> list[Detections]:
        """The detections on each of several images, each RGB bytes `[height, width, 3]`."""
        found = self._inner.detect([_pixels(image) for image in images])
        return [self._detections(arrays) for arrays in found]

    def _detections(self, arrays: Sequence[bytes]) -> Detections:
        boxes, scores, classes = arrays
        return Detections(
            boxes=np.frombuffer(boxes, np.float32).reshape(-1, 4).copy(),
            scores=np.frombuffer(scores, np.float32).copy(),
            classes=np.frombuffer(classes, np.int64).copy(),
            names=self.names,
            categories=self.categories,
        )


def _pixels(image: np.ndarray) -> tuple[bytes, int, int]:
    """The bytes, width and height of an image."""
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"an image is [height, width, 3], and this is {list(array.shape)}")
    if array.dtype != np.uint8:
        raise TypeError(f"an image has bytes from 0 to 255 (uint8), and this has {array.dtype}")
    height, width = array.shape[:2]
    return array.tobytes(), width, height


class Callbacks:
    """Is told what happens while a run trains; what a method raises ends the run after its step, with a checkpoint."""

    def message(self, text: str) -> None:
        """A sentence for the person who watches."""

    def step(self, report: Mapping[str, float]) -> None:
        """A step is done: `iteration`, `total`, `epoch`, `loss`, `class_loss`, `box_loss`, `learning_rate`,
        `gradient_norm` and `seconds`."""

    def evaluated(self, report: Mapping[str, float]) -> None:
        """The model was evaluated: `iteration`, `ap`, `ap50`, `ap75`, `loss` and `is_best`."""

    def checkpoint_written(self, report: Mapping[str, Any]) -> None:
        """A checkpoint was written: `iteration` and `folder`."""


class PrintedLines(Callbacks):
    """Prints what happens to stderr: messages, evaluations, and every so many steps one."""

    def __init__(self, every: int = 20) -> None:
        self.every = every

    def message(self, text: str) -> None:
        print(text, file=sys.stderr)

    def step(self, report: Mapping[str, float]) -> None:
        if report["iteration"] % self.every == 0 or report["iteration"] == report["total"]:
            print(f"step {report['iteration']}/{report['total']} loss {report['loss']:.4f}", file=sys.stderr)

    def evaluated(self, report: Mapping[str, float]) -> None:
        print(f"step {report['iteration']}: AP {report['ap']:.4f} AP50 {report['ap50']:.4f}", file=sys.stderr)


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    run: str
    """Its folder, for `Detector.open`."""
    iteration: int
    """Steps done."""
    best: float | None
    """The best evaluation, by the config's metric."""
    best_score: float | None
    """The score of the last evaluation's largest F1."""
    uncertainty: float | None
    """How far its AP may be from that of as many other images, with 95 % confidence."""
    advice: list[str]
    """What the run should do next."""
    stopped: bool
    """Whether it ended before its last step."""


def train(
    config: str | os.PathLike[str],
    run: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    accept_cost: bool = False,
    callbacks: Callbacks | None = None,
) -> Outcome:
    """Trains a config in the folder `run`, as `retinanet train` does.

    `settings`: keys of the config by their paths, as `{"train.batch_size": 4}`. `accept_cost`: whether a run may take
    more than a week. Ctrl-C ends it after its step, with a checkpoint that `resume` goes on from.
    """
    callbacks = PrintedLines() if callbacks is None else callbacks
    methods = ["message", "step", "evaluated", "checkpoint_written"]
    missing = [name for name in methods if not callable(getattr(callbacks, name, None))]
    if missing:
        raise TypeError(f"callbacks have no method {', '.join(missing)}: derive them from retinanet.Callbacks")
    settings = {key: _written(key, value) for key, value in (settings or {}).items()}
    told = _retinanet.train(
        os.fspath(config),
        os.fspath(run),
        list(settings.items()),
        resume,
        accept_cost,
        callbacks,
    )
    return Outcome(**told)


def _written(key: str, value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (str, os.PathLike)):
        return json.dumps(os.fspath(value))
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_written(key, each) for each in value) + "]"
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(inner)} = {_written(key, each)}" for inner, each in value.items())
        return "{ " + ", ".join(pairs) + " }"
    raise TypeError(f"settings[{key!r}] is a {type(value).__name__}: a key is left out to have its default")
