"""What the model does when it is asked: continue a text, and say how well it knew another."""

import codecs
import io
import pathlib
import urllib.request

import charlm
from cog import BasePredictor, ConcatenateIterator, Input

BASE_WEIGHTS = pathlib.Path(__file__).parent / "base.npz"
DOWNLOAD_TIMEOUT = 60.0  # seconds


def load_weights(weights: str | None) -> charlm.Weights:
    """The weights at a URL or in a file, or else the base model's.

    Replicate names the weights of a fine-tuned version by URL, in COG_WEIGHTS; Cog hands them to
    `setup` as that text, not as a file.
    """
    if not weights:
        return charlm.load(BASE_WEIGHTS)
    if weights.startswith(("http://", "https://")):
        with urllib.request.urlopen(weights, timeout=DOWNLOAD_TIMEOUT) as response:  # noqa: S310 - http(s) only, as just checked
            return charlm.load(io.BytesIO(response.read()))
    return charlm.load(pathlib.Path(weights))


class Predictor(BasePredictor):
    """Continues a text, byte by byte."""

    def setup(self, weights: str | None = None) -> None:
        """Load the weights once; every prediction uses them."""
        self.weights = load_weights(str(weights) if weights else None)

    def predict(
        self,
        prompt: str = Input(description="The text to continue."),
        target: str = Input(
            default="",
            description="Held-out continuation; when given, how well the model predicts it is "
            "recorded as the metric bits_per_character.",
        ),
        max_tokens: int = Input(
            default=200, ge=0, le=2000, description="How much to write, in bytes of UTF-8."
        ),
        temperature: float = Input(
            default=0.8, ge=0, le=2, description="0 always writes the likeliest, 1 is lively."
        ),
        seed: int = Input(default=0, ge=0, description="The same seed writes the same text."),
    ) -> ConcatenateIterator[str]:
        """Measure the target, if there is one, then stream the continuation of the prompt."""
        if target:
            bits = charlm.bits_per_character(self.weights, prompt, target)
            self.record_metric("bits_per_character", bits)
        # A character can be several bytes: the decoder holds them back until it is complete.
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for byte in charlm.generate(
            self.weights, prompt, count=max_tokens, temperature=temperature, seed=seed
        ):
            if text := decoder.decode(bytes([byte])):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text
