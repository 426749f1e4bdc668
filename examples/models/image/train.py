"""How the model learns a user's images: the base model's weights, trained a little further."""

import tempfile

import pictures
import pixflow
from cog import BaseModel, Input, Path
from predict import load_weights

FEWEST = 4  # images; fewer are learned by heart within a few steps
REPORTS = 20  # progress lines


class TrainingOutput(BaseModel):
    """What a training returns; Replicate makes a version of it."""

    weights: Path


def progress(step: int, steps: int, error: float) -> str:
    """One line in tqdm's form, which Replicate's clients read: ` 40%|####      | 120/300 ...`."""
    bar = "#" * (10 * step // steps)
    return f"{step / steps:4.0%}|{bar:<10}| {step}/{steps} error {error:.1f} of 255"


def train(
    training_data: Path = Input(  # noqa: B008 - how Cog declares
        description="Zip of images of any size (PNG, JPEG, GIF, WebP); they are made 16x16."
    ),
    steps: int = Input(
        default=600, ge=1, le=5000, description="More learn more, too many learn by heart."
    ),
    learning_rate: float = Input(
        default=0.001, ge=0.00001, le=0.02, description="The first step's; it falls to zero."
    ),
    seed: int = Input(default=0, ge=0, description="The same seed gives the same weights."),
) -> TrainingOutput:
    """Fine-tune the base model on the images of one zip."""
    data = pictures.read_zip(training_data, name="training_data", least=FEWEST)
    print(f"{len(data)} images", flush=True)
    weights = load_weights(None)
    errors = pixflow.fit(weights, data, steps=steps, learning_rate=learning_rate, seed=seed)
    for step, error in enumerate(errors, start=1):
        if step * REPORTS // steps > (step - 1) * REPORTS // steps:
            print(progress(step, steps, error), flush=True)
    # A new folder: the model's own may be shared or read-only.
    path = Path(tempfile.mkdtemp()) / "weights.npz"
    pixflow.save(weights, path)
    return TrainingOutput(weights=path)
