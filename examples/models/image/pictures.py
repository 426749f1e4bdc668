"""Pictures as the model takes and gives them: a zip of image files in, PNG files out.

The zip is a stranger's. Nothing of it is written to disk, so the paths in it mean nothing, and what
it unpacks to is bounded before it is unpacked.
"""

import io
import lzma
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps
from pixflow import PIXELS, SIDE

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".gif": "GIF", ".webp": "WEBP"}
MOST_IMAGES = 10_000
MOST_BYTES = 200_000_000  # of all images together, unpacked
MOST_PIXELS = 20_000_000  # of one image; decoded, a small file can be very large
BROKEN = (
    zipfile.BadZipFile,
    RuntimeError,  # encrypted, or packed in a way unknown to zipfile
    EOFError,
    OSError,
    SyntaxError,  # how Pillow calls some broken PNGs
    ValueError,
    Image.DecompressionBombError,
    lzma.LZMAError,
    zlib.error,
)


def members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The image files in the archive, by their names; what file managers add to it is none."""
    return [
        member
        for member in archive.infolist()
        if PurePosixPath(member.filename).suffix.lower() in FORMATS
        and not PurePosixPath(member.filename).name.startswith(".")
        and not member.is_dir()
    ]


def from_image(image: Image.Image) -> np.ndarray:
    """An image as a picture: upright, on white, padded to a square and made small."""
    upright = ImageOps.exif_transpose(image).convert("RGBA")
    paper = Image.new("RGBA", upright.size, "white")
    paper.alpha_composite(upright)
    size = (SIDE, SIDE)
    small = ImageOps.pad(paper.convert("RGB"), size, Image.Resampling.BOX, color="white")
    return np.asarray(small, np.float32).reshape(PIXELS) / np.float32(127.5) - 1


def to_image(picture: np.ndarray) -> Image.Image:
    """A picture as an image of SIDE x SIDE."""
    levels = np.rint((picture + 1) * 127.5).astype(np.uint8)
    return Image.fromarray(levels.reshape(SIDE, SIDE, 3))


def decode(data: bytes) -> np.ndarray:
    """One image file as a picture.

    Raises:
        ValueError: It has too many pixels. Broken files raise any of `BROKEN`.
    """
    with Image.open(io.BytesIO(data), formats=sorted(set(FORMATS.values()))) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(
                f"{image.width}x{image.height} pixels, at most {MOST_PIXELS:,} are read"
            )
        return from_image(image)


def read_zip(source: Path | BinaryIO, *, name: str, least: int) -> np.ndarray:
    """The archive's images as pictures, shape (images, PIXELS).

    Args:
        source: The archive.
        name: The input that it came by, for messages.
        least: So many images are needed.

    Raises:
        ValueError: It is no zip, one of its images cannot be read, or they are too few or too much.
    """
    if not zipfile.is_zipfile(source):
        raise ValueError(f"{name} is not a zip file")
    with zipfile.ZipFile(source) as archive:
        found = members(archive)
        size = sum(member.file_size for member in found)
        if not least <= len(found) <= MOST_IMAGES:
            raise ValueError(
                f"{name} has {len(found)} images ({', '.join(FORMATS)}), "
                f"{least} to {MOST_IMAGES:,} are needed"
            )
        if size > MOST_BYTES:
            raise ValueError(
                f"{name} unpacks to {size:,} bytes of images, at most {MOST_BYTES:,} are read"
            )
        return np.stack(list(read_members(archive, found, name)))


def read_members(
    archive: zipfile.ZipFile, found: list[zipfile.ZipInfo], name: str
) -> Iterator[np.ndarray]:
    """Each image as a picture; zipfile unpacks no more of it than its stated size."""
    for member in found:
        try:
            yield decode(archive.read(member))
        except BROKEN as error:
            raise ValueError(f"{name}: cannot read {member.filename!r}: {error}") from error


def contact_sheet(images: list[Image.Image]) -> Image.Image:
    """All images on one, row by row and as square as it gets, a pixel apart."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    pitch = SIDE + 1
    sheet = Image.new("RGB", (columns * pitch + 1, rows * pitch + 1), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(image, (column * pitch + 1, row * pitch + 1))
    return sheet


def write_png(image: Image.Image, path: Path, *, scale: int) -> None:
    """Write the image with each pixel as a square of `scale` x `scale`."""
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(path)
