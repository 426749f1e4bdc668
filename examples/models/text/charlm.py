"""A language model small enough to read: it guesses the next byte from the bytes before it.

The last `CONTEXT` bytes are looked up in an embedding table, joined to one long vector and sent
through two hidden layers to 256 scores, one for each byte that can follow (Bengio et al., 2003, "A
Neural Probabilistic Language Model"). Bytes, not characters, so that every UTF-8 text has a
probability: there is no unknown character.

Only numpy. One thread and one seed give the same weights bit for bit.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

BYTES = 256
CONTEXT = 16  # bytes
EMBEDDING = 24
HIDDEN = 384
BATCH = 128  # positions in the text for each step
PADDING = ord("\n")  # stands before the text: each paragraph of the training texts is one line

Weights = dict[str, np.ndarray]


def new_weights(rng: np.random.Generator) -> Weights:
    """Random weights; each layer's are scaled by its number of inputs (He et al., 2015)."""

    def layer(inputs: int, outputs: int) -> np.ndarray:
        scale = np.sqrt(2 / inputs)
        return (rng.standard_normal((inputs, outputs)) * scale).astype(np.float32)

    return {
        "embedding": layer(BYTES, EMBEDDING),
        "w1": layer(CONTEXT * EMBEDDING, HIDDEN),
        "b1": np.zeros(HIDDEN, np.float32),
        "w2": layer(HIDDEN, HIDDEN),
        "b2": np.zeros(HIDDEN, np.float32),
        "w3": layer(HIDDEN, BYTES),
        "b3": np.zeros(BYTES, np.float32),
    }


def save(weights: Weights, path: Path) -> None:
    """Write the weights as float16: half the size, and no measurable loss."""
    np.savez_compressed(path, **{name: value.astype(np.float16) for name, value in weights.items()})


def load(source: Path | BinaryIO) -> Weights:
    """Read what `save` wrote."""
    with np.load(source, allow_pickle=False) as stored:
        return {name: stored[name].astype(np.float32) for name in stored.files}


def encode(text: str) -> np.ndarray:
    """The text's UTF-8 bytes as integers, shape (bytes,)."""
    return np.frombuffer(text.encode(), np.uint8)


def windows(data: np.ndarray) -> np.ndarray:
    """What stands before each byte and after the last: shape (len(data) + 1, CONTEXT)."""
    padded = np.concatenate([np.full(CONTEXT, PADDING, np.uint8), data])
    return np.lib.stride_tricks.sliding_window_view(padded, CONTEXT)


def forward(weights: Weights, contexts: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Log-probability of each next byte, shape (n, 256), and the layers' values that led there."""
    x = weights["embedding"][contexts].reshape(len(contexts), -1)
    h1 = np.maximum(x @ weights["w1"] + weights["b1"], 0)
    h2 = np.maximum(h1 @ weights["w2"] + weights["b2"], 0)
    scores = h2 @ weights["w3"] + weights["b3"]
    scores -= scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)), [x, h1, h2]


def loss_and_gradients(
    weights: Weights, contexts: np.ndarray, targets: np.ndarray
) -> tuple[float, Weights]:
    """Mean surprise at the targets in bits per byte, and its slope for every weight (in nats)."""
    log_p, (x, h1, h2) = forward(weights, contexts)
    rows = np.arange(len(targets))
    d3 = np.exp(log_p)
    d3[rows, targets] -= 1
    d3 /= len(targets)
    d2 = (d3 @ weights["w3"].T) * (h2 > 0)
    d1 = (d2 @ weights["w2"].T) * (h1 > 0)
    dx = (d1 @ weights["w1"].T).reshape(-1, EMBEDDING)
    one_hot = (contexts.reshape(-1, 1) == np.arange(BYTES)).astype(np.float32)
    gradients = {
        "embedding": one_hot.T @ dx,
        "w1": x.T @ d1,
        "b1": d1.sum(axis=0),
        "w2": h1.T @ d2,
        "b2": d2.sum(axis=0),
        "w3": h2.T @ d3,
        "b3": d3.sum(axis=0),
    }
    return float(-log_p[rows, targets].mean() / np.log(2)), gradients


def fit(
    weights: Weights, data: np.ndarray, *, steps: int, learning_rate: float, seed: int
) -> Iterator[float]:
    """Change `weights` in place by Adam (Kingma and Ba, 2015), one step for each loss yielded.

    The learning rate falls in a straight line to zero. Losses are in bits per byte.
    """
    rng = np.random.default_rng(seed)
    contexts = windows(data)
    mean = {name: np.zeros_like(value) for name, value in weights.items()}
    square = {name: np.zeros_like(value) for name, value in weights.items()}
    for step in range(1, steps + 1):
        batch = rng.integers(len(data), size=BATCH)
        loss, gradients = loss_and_gradients(weights, contexts[batch], data[batch])
        rate = learning_rate * (1 - (step - 1) / steps)
        rate *= np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        for name, slope in gradients.items():
            mean[name] += 0.1 * (slope - mean[name])
            square[name] += 0.001 * (slope * slope - square[name])
            weights[name] -= np.float32(rate) * mean[name] / (np.sqrt(square[name]) + 1e-8)
        yield loss


def bits_per_character(weights: Weights, prompt: str, target: str) -> float:
    """How surprising `target` is after `prompt`, in bits per character; less is better.

    A character of several bytes is as surprising as its bytes together.
    """
    before, data = encode(prompt), encode(prompt + target)
    log_p, _ = forward(weights, windows(data)[len(before) : -1])
    bits = -log_p[np.arange(len(log_p)), data[len(before) :]].sum() / np.log(2)
    return float(bits / len(target))


def generate(
    weights: Weights, prompt: str, *, count: int, temperature: float, seed: int
) -> Iterator[int]:
    """Continue `prompt` by `count` bytes, drawn one after the other.

    Temperature 1 draws as the model predicts, less is bolder, 0 always takes the likeliest byte.
    """
    rng = np.random.default_rng(seed)
    context = windows(encode(prompt))[-1]
    for _ in range(count):
        log_p = forward(weights, context[None])[0][0]
        # Gumbel's trick: the largest of log p plus Gumbel noise is a draw from p.
        byte = int(np.argmax(log_p + temperature * rng.gumbel(size=BYTES)))
        context = np.append(context[1:], np.uint8(byte))
        yield byte
