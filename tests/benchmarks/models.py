"""The models that Local Replicate is measured with: they take next to no time themselves."""

from pathlib import Path

ECHO = """
import time
from cog import BasePredictor, Input

class Predictor(BasePredictor):
    def predict(self, text: str = Input(default=""), seconds: float = Input(default=0)) -> str:
        if seconds:
            time.sleep(seconds)
        return text
"""
NUMBERS = """
import numpy
from cog import BasePredictor

class Predictor(BasePredictor):
    def predict(self, size: int = 3) -> float:
        return float(numpy.ones(size).sum())
"""
MODELS = {"echo": ECHO, "numbers": NUMBERS}


def write(folder: Path, name: str) -> Path:
    """The folder of a model, made inside of another."""
    made = folder / name
    made.mkdir()
    (made / "cog.yaml").write_text('predict: "predict.py:Predictor"\n')
    (made / "predict.py").write_text(MODELS[name])
    return made
