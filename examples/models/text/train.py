"""How the model learns from a user's text: the base model's weights, trained a little further."""

import tempfile

import charlm
from cog import BaseModel, Input, Path
from predict import load_weights

SHORTEST = 1_000  # bytes; less is learned by heart within a few steps
REPORTS = 20  # progress lines


class TrainingOutput(BaseModel):
    """What a training returns; Replicate makes a version of it."""

    weights: Path


def read_text(path: Path) -> str:
    """The training text.

    Raises:
        ValueError: The file is not UTF-8, or holds too little text to learn from.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"training_data is not UTF-8 text: {error}") from error
    size = len(text.encode())
    if size < SHORTEST:
        raise ValueError(
            f"training_data is too short: {size} bytes of text, at least {SHORTEST} are needed"
        )
    return text


def progress(step: int, steps: int, loss: float) -> str:
    """One line in tqdm's form, which Replicate's clients read: ` 40%|####      | 120/300 ...`."""
    bar = "#" * (10 * step // steps)
    return f"{step / steps:4.0%}|{bar:<10}| {step}/{steps} loss {loss:.2f} bits/byte"


def train(
    training_data: Path = Input(description="Plain text (UTF-8)."),  # noqa: B008 - how Cog declares
    steps: int = Input(
        default=600, ge=1, le=5000, description="More learn more, too many learn by heart."
    ),
    learning_rate: float = Input(
        default=0.003, ge=0.00001, le=0.05, description="The first step's; it falls to zero."
    ),
    seed: int = Input(default=0, ge=0, description="The same seed gives the same weights."),
) -> TrainingOutput:
    """Fine-tune the base model on one text."""
    data = charlm.encode(read_text(training_data))
    weights = load_weights(None)
    losses = charlm.fit(weights, data, steps=steps, learning_rate=learning_rate, seed=seed)
    for step, loss in enumerate(losses, start=1):
        if step * REPORTS // steps > (step - 1) * REPORTS // steps:
            print(progress(step, steps, loss), flush=True)
    # A new folder: the model's own may be shared or read-only.
    path = Path(tempfile.mkdtemp()) / "weights.npz"
    charlm.save(weights, path)
    return TrainingOutput(weights=path)
