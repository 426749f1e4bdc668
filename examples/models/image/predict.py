"""What the model does when it is asked: paint sprites, and say how well it knew others."""

import io
import pathlib
import tempfile
import urllib.request

import pictures
import pixflow
from cog import BasePredictor, Input, Path

BASE_WEIGHTS = pathlib.Path(__file__).parent / "base.npz"
DOWNLOAD_TIMEOUT = 60.0  # seconds


def load_weights(weights: str | None) -> pixflow.Weights:
    """The weights at a URL or in a file, or else the base model's.

    Replicate names the weights of a fine-tuned version by URL, in COG_WEIGHTS; Cog hands them to
    `setup` as that text, not as a file.
    """
    if not weights:
        return pixflow.load(BASE_WEIGHTS)
    if weights.startswith(("http://", "https://")):
        with urllib.request.urlopen(weights, timeout=DOWNLOAD_TIMEOUT) as response:  # noqa: S310 - http(s) only, as just checked
            return pixflow.load(io.BytesIO(response.read()))
    return pixflow.load(pathlib.Path(weights))


class Predictor(BasePredictor):
    """Paints sprites of 16x16 pixels."""

    def setup(self, weights: str | None = None) -> None:
        """Load the weights once; every prediction uses them."""
        self.weights = load_weights(str(weights) if weights else None)

    def predict(  # noqa: PLR0917 - Cog passes by name, whatever the order
        self,
        seed: int = Input(default=0, ge=0, description="The same seed paints the same sprites."),
        count: int = Input(default=4, ge=1, le=16, description="How many sprites to paint."),
        steps: int = Input(
            default=32, ge=1, le=200, description="Steps from noise to sprite; few blur."
        ),
        scale: int = Input(
            default=8, ge=1, le=32, description="The side of one sprite's pixel, in pixels."
        ),
        sheet: bool = Input(  # noqa: FBT001 - as above
            default=False, description="All sprites in one file, instead of a file each."
        ),
        reference: Path | None = Input(  # noqa: B008 - how Cog declares
            default=None,
            description="Zip of held-out images; when given, how well the model makes them out in "
            "noise is recorded as the metric denoising_error.",
        ),
    ) -> list[Path]:
        """Measure the reference, if there is one, then paint; the files are PNG, in order."""
        if reference:
            held_out = pictures.read_zip(reference, name="reference", least=1)
            self.record_metric("denoising_error", pixflow.denoising_error(self.weights, held_out))
        painted = pixflow.paint(self.weights, count=count, steps=steps, seed=seed)
        images = [pictures.to_image(picture) for picture in painted]
        if sheet:
            images = [pictures.contact_sheet(images)]
        folder = Path(tempfile.mkdtemp())
        paths = [folder / f"{number:02}.png" for number in range(1, len(images) + 1)]
        for image, path in zip(images, paths, strict=True):
            pictures.write_png(image, path, scale=scale)
        return paths
