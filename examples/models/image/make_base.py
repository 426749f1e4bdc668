"""Make base.npz: train the model from nothing on creatures drawn by chance, in about two minutes.

Run it with one thread, so that the result is the same each time:
    OPENBLAS_NUM_THREADS=1 python make_base.py
"""

import colorsys
from pathlib import Path
from random import Random

import numpy as np
import pictures
import pixflow
from PIL import Image, ImageDraw

SEED = 0
CREATURES = 8_192
STEPS = 8_000
LEARNING_RATE = 0.001
CANVAS = 128  # pixels; drawn large and made small, edges get soft
MIDDLE = CANVAS / 2


def color(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    """A colour as Pillow takes it; all three from 0 to 1."""
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def draw_legs(draw: ImageDraw.ImageDraw, rng: Random, body: list[float], ink: tuple) -> None:
    """One to three on each side, all of one length."""
    width, height, middle = body
    pairs = rng.randint(1, 3)
    foot = min(middle + height + rng.uniform(10, 12), CANVAS - 4)
    for pair in range(pairs):
        reach = width * (0.2 + 0.6 * (pair + 0.5) / pairs)
        for side in (-1, 1):
            knee = (MIDDLE + side * reach * 0.7, middle)
            draw.line([knee, (MIDDLE + side * reach, foot)], fill=ink, width=8)


def draw_top(draw: ImageDraw.ImageDraw, rng: Random, body: list[float], ink: tuple) -> None:
    """Ears, horns or neither."""
    width, height, middle = body
    top = rng.choice(["ears", "horns", "nothing"])
    for side in (-1, 1):
        x = MIDDLE + side * width * 0.6
        if top == "ears":
            draw.ellipse([x - 14, middle - height - 8, x + 14, middle - height + 22], fill=ink)
        elif top == "horns":
            root, tip = middle - height * 0.5, max(middle - height - 18, 2)
            draw.polygon([(x - 9, root), (x + 9, root), (x + side * 8, tip)], fill=ink)


def draw_face(draw: ImageDraw.ImageDraw, rng: Random, body: list[float], ink: tuple) -> None:
    """Two eyes and a mouth."""
    width, height, middle = body
    y = middle - height * rng.uniform(0, 0.4)
    apart = width * rng.uniform(0.3, 0.55)
    radius = rng.uniform(7, 14)
    for x in (MIDDLE - apart, MIDDLE + apart):
        for r, fill in ((radius, "white"), (radius / 2, "black")):
            draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
    wide = width * rng.uniform(0.2, 0.6)
    mouth = middle + height * rng.uniform(0.3, 0.6)
    draw.rectangle([MIDDLE - wide, mouth - 4, MIDDLE + wide, mouth + 4], fill=ink)


def creature(rng: Random) -> Image.Image:
    """A creature of one hue on white, round or square, seen from the front."""
    image = Image.new("RGB", (CANVAS, CANVAS), "white")
    draw = ImageDraw.Draw(image)
    hue, saturation = rng.random(), rng.uniform(0.2, 0.9)
    skin, ink = color(hue, saturation, rng.uniform(0.5, 0.95)), color(hue, saturation, 0.35)
    body = [rng.uniform(24, 54), rng.uniform(24, 46), rng.uniform(56, 72)]
    draw_legs(draw, rng, body, ink)
    draw_top(draw, rng, body, ink)
    width, height, middle = body
    box = (MIDDLE - width, middle - height, MIDDLE + width, middle + height)
    draw.rounded_rectangle(box, rng.choice([18, min(width, height)]), fill=skin)
    draw_face(draw, rng, body, ink)
    return image


def main() -> None:
    """Train, say how well it went, and write the weights."""
    rng = Random(SEED)  # noqa: S311 - a repeatable draw, not a secret
    data = np.stack([pictures.from_image(creature(rng)) for _ in range(CREATURES)])
    held_out, data = data[:100], data[100:]
    weights = pixflow.new_weights(np.random.default_rng(SEED))
    errors = pixflow.fit(weights, data, steps=STEPS, learning_rate=LEARNING_RATE, seed=SEED)
    for step, error in enumerate(errors, start=1):
        if step % 500 == 0:
            print(f"{step}/{STEPS} error {error:.1f} of 255", flush=True)
    pixflow.save(weights, Path(__file__).parent / "base.npz")
    print(f"held-out creatures: {pixflow.denoising_error(weights, held_out):.1f} of 255")


if __name__ == "__main__":
    main()
