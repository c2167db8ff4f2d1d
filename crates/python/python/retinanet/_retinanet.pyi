from typing import Any, final

class RetinanetError(Exception):
    """What the library refused or could not do."""

@final
class Detector:
    classes: list[tuple[int, str]]
    score: float
    @staticmethod
    def open(run: str, checkpoint: str | None, score: float | None) -> Detector: ...
    @staticmethod
    def from_weights(weights: str, config: str, score: float | None) -> Detector: ...
    def detect(self, images: list[tuple[bytes, int, int]]) -> list[list[bytes]]: ...
    def detect_file(self, path: str) -> list[bytes]: ...

def train(
    config: str,
    run: str,
    settings: list[tuple[str, str]],
    resume: bool,
    accept_cost: bool,
    callbacks: Any,
) -> dict[str, Any]: ...
