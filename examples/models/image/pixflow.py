"""An image generator small enough to read: it paints sprites of 16x16 pixels out of noise.

A picture and noise are mixed, `time * picture + (1 - time) * noise`, and a network learns to see
the picture in the mixture. To paint, it starts from noise alone and moves step by step towards what
it sees (rectified flow: Liu et al., 2023, "Flow Straight and Fast"). The network predicts the
picture and not the direction of the move, since pictures are simpler than noise: with a network so
narrow, the other way leaves noise in them (Li and He, 2025, "Back to Basics: Let Denoising
Generative Models Denoise").

Pictures are rows of numbers, shape (n, PIXELS), -1 for no light and 1 for full. Only numpy. One
thread and one seed give the same weights and pictures bit for bit.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

SIDE = 16  # pixels
PIXELS = SIDE * SIDE * 3  # red, green and blue
TIMES = 32  # numbers that tell the network the time
HIDDEN = 384
BLOCKS = ("block1", "block2")
BATCH = 128  # mixtures for each step

Weights = dict[str, np.ndarray]


def new_weights(rng: np.random.Generator) -> Weights:
    """Random weights; each layer's are scaled by its number of inputs (He et al., 2015)."""

    def layer(inputs: int, outputs: int) -> np.ndarray:
        scale = np.sqrt(2 / inputs)
        return (rng.standard_normal((inputs, outputs)) * scale).astype(np.float32)

    sizes = {"in": (PIXELS + TIMES, HIDDEN)}
    sizes |= dict.fromkeys(BLOCKS, (HIDDEN, HIDDEN))
    sizes |= {"out": (HIDDEN, PIXELS)}
    weights = {name: layer(*size) for name, size in sizes.items()}
    biases = {f"{name}_bias": np.zeros(size[1], np.float32) for name, size in sizes.items()}
    return weights | biases


def save(weights: Weights, path: Path) -> None:
    """Write the weights as float16: half the size, and no visible loss."""
    np.savez_compressed(path, **{name: value.astype(np.float16) for name, value in weights.items()})


def load(source: Path | BinaryIO) -> Weights:
    """Read what `save` wrote."""
    with np.load(source, allow_pickle=False) as stored:
        return {name: stored[name].astype(np.float32) for name in stored.files}


def mix(pictures: np.ndarray, noise: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Noise at time 0, the pictures at time 1; `time` has shape (n,)."""
    return time[:, None] * pictures + (1 - time[:, None]) * noise


def clock(time: np.ndarray) -> np.ndarray:
    """The time as waves of many lengths, shape (n, TIMES): one number is easily overlooked."""
    return np.cos(np.pi * time[:, None] * np.arange(TIMES, dtype=time.dtype))


def forward(
    weights: Weights, mixtures: np.ndarray, time: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The pictures seen in the mixtures, and the layers' values that led there."""
    x = np.concatenate([mixtures, clock(time)], axis=1)
    values = [x, np.maximum(x @ weights["in"] + weights["in_bias"], 0)]
    for name in BLOCKS:
        h = values[-1]
        values.append(h + np.maximum(h @ weights[name] + weights[f"{name}_bias"], 0))
    return values[-1] @ weights["out"] + weights["out_bias"], values


def loss_and_gradients(
    weights: Weights, pictures: np.ndarray, noise: np.ndarray, time: np.ndarray
) -> tuple[float, Weights]:
    """Mean squared error of what is seen in the mixtures, and its slope for every weight."""
    seen, values = forward(weights, mix(pictures, noise, time), time)
    error = seen - pictures
    gradients = {}

    def through(name: str, before: np.ndarray, slope: np.ndarray) -> np.ndarray:
        gradients[name] = before.T @ slope
        gradients[f"{name}_bias"] = slope.sum(axis=0)
        return slope @ weights[name].T

    slope = through("out", values[-1], 2 * error / error.size)
    for name, before, after in reversed(list(zip(BLOCKS, values[1:], values[2:], strict=False))):
        slope = slope + through(name, before, slope * (after > before))
    through("in", values[0], slope * (values[1] > 0))
    return float(np.mean(error * error)), gradients


def fit(
    weights: Weights, pictures: np.ndarray, *, steps: int, learning_rate: float, seed: int
) -> Iterator[float]:
    """Change `weights` in place by Adam (Kingma and Ba, 2015), one step for each error yielded.

    The learning rate falls in a straight line to zero. Errors are as in `denoising_error`.
    """
    rng = np.random.default_rng(seed)
    mean = {name: np.zeros_like(value) for name, value in weights.items()}
    square = {name: np.zeros_like(value) for name, value in weights.items()}
    for step in range(1, steps + 1):
        batch = pictures[rng.integers(len(pictures), size=BATCH)]
        noise = rng.standard_normal(batch.shape, np.float32)
        time = rng.random(BATCH, np.float32)
        loss, gradients = loss_and_gradients(weights, batch, noise, time)
        rate = learning_rate * (1 - (step - 1) / steps)
        rate *= np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        for name, slope in gradients.items():
            mean[name] += 0.1 * (slope - mean[name])
            square[name] += 0.001 * (slope * slope - square[name])
            weights[name] -= np.float32(rate) * mean[name] / (np.sqrt(square[name]) + 1e-8)
        yield in_levels(loss)


def in_levels(squared: float) -> float:
    """A mean squared error as a distance between colours, whose channels go from 0 to 255."""
    return float(127.5 * np.sqrt(squared))


def denoising_error(weights: Weights, pictures: np.ndarray) -> float:
    """How far off the pictures seen in mixtures are, from 0 to 255; less is better.

    This is what training lessens, at every tenth of time and with the same noise whenever it is
    asked. On pictures held out it rises when those of the training are learned by heart.
    """
    time = np.repeat(np.linspace(0.05, 0.95, 10, dtype=np.float32), len(pictures))
    pictures = np.tile(pictures, (10, 1))
    noise = np.random.default_rng(0).standard_normal(pictures.shape, np.float32)
    seen, _ = forward(weights, mix(pictures, noise, time), time)
    return in_levels(float(np.mean((seen - pictures) ** 2)))


def paint(weights: Weights, *, count: int, steps: int, seed: int) -> np.ndarray:
    """New pictures, shape (count, PIXELS); the first ones do not depend on the count."""
    rng = np.random.default_rng(seed)
    pictures = rng.standard_normal((count, PIXELS), np.float32)
    for step in range(steps):
        time = np.full(count, step / steps, np.float32)
        seen, _ = forward(weights, pictures, time)
        # A step of 1 / steps on the straight line that reaches what is seen at time 1.
        pictures += (seen - pictures) / np.float32(steps - step)
    return pictures.clip(-1, 1)
