"""Make data/train.zip and data/eval.jsonl from the smileys of Noto Emoji (see data/SOURCE.md).

Get the font on Debian or Ubuntu and run:
    apt-get install fonts-noto-color-emoji
    python make_data.py /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf
"""

import base64
import io
import json
import random
import sys
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pictures
from PIL import Image, ImageDraw, ImageFont

DATA = Path(__file__).parent / "data"
BLOCKS = [(0x1F600, 0x1F644), (0x1F910, 0x1F92F), (0x1F970, 0x1F97A), (0x1FAE0, 0x1FAE5)]
NOT_ROUND = {"CAT FACE", "ROBOT FACE", "CLOWN FACE", "FACE PALM"}
BITMAP = 109  # the one size that the font has
TRAIN = 40
EXAMPLES = 8
HELD_OUT = 7  # images an example


def smileys() -> Iterator[tuple[str, str]]:
    """Each character and its name, "grinning-face"."""
    for first, last in BLOCKS:
        for character in map(chr, range(first, last + 1)):
            name = unicodedata.name(character)
            if "FACE" in name and not any(other in name for other in NOT_ROUND):
                yield character, name.lower().replace(" ", "-")


def sprite(character: str, font: ImageFont.FreeTypeFont) -> bytes:
    """The character as a PNG file of 16x16 pixels on white, each the mean of 8x8 in the font."""
    canvas = Image.new("RGBA", (136, 128))
    ImageDraw.Draw(canvas).text((0, 0), character, font=font, embedded_color=True)
    square = canvas.crop((4, 0, 132, 128))
    buffer = io.BytesIO()
    picture = pictures.from_image(square)
    pictures.to_image(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def pack(files: list[tuple[str, bytes]]) -> bytes:
    """A zip of these files; stored, since PNG is packed, and the same bytes each time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(f"{name}.png"), content)
    return buffer.getvalue()


def main() -> None:
    """Write both files."""
    font = ImageFont.truetype(sys.argv[1], BITMAP)
    files = [(name, sprite(character, font)) for character, name in smileys()]
    random.Random(0).shuffle(files)  # noqa: S311 - a repeatable order, not a secret
    train, held_out = files[:TRAIN], files[TRAIN:]
    (DATA / "train.zip").write_bytes(pack(train))
    with (DATA / "eval.jsonl").open("w") as file:
        for seed in range(EXAMPLES):
            packed = base64.b64encode(pack(held_out[seed * HELD_OUT : (seed + 1) * HELD_OUT]))
            reference = f"data:application/zip;base64,{packed.decode()}"
            file.write(json.dumps({"input": {"seed": seed, "reference": reference}}) + "\n")


if __name__ == "__main__":
    main()
