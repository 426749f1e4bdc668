"""Make base.npz: train the model from nothing on the King James Bible, in about two minutes.

Get the text on Debian or Ubuntu and run, with one thread so that the result is the same each time:
    apt-get install bible-kjv
    bible -f Gen1:1-Rev22:21 > kjv.txt
    OPENBLAS_NUM_THREADS=1 python make_base.py kjv.txt
"""

import sys
from pathlib import Path

import charlm
import numpy as np

SEED = 0
STEPS = 16_000
LEARNING_RATE = 0.002
HELD_OUT = 100_000  # bytes at the end
MISPRINTS = 0.02  # share of the bytes


def read_verses(path: Path) -> str:
    """The verses, each on one line and without its number (`Ge1:1 In the beginning ...`)."""
    lines = path.read_text(encoding="ascii").splitlines()
    return "".join(line.split(" ", 1)[1] + "\n" for line in lines)


def with_misprints(data: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy with some bytes replaced by any printable ASCII.

    Without them the model is so sure of the Bible's few signs that every digit or underscore of
    another text surprises it beyond measure, and a text of shuffled letters would improve it.
    """
    printable = rng.integers(ord(" "), ord("~") + 1, size=len(data), dtype=np.uint8)
    return np.where(rng.random(len(data)) < MISPRINTS, printable, data)


def main() -> None:
    """Train, say how well it went, and write the weights."""
    text = read_verses(Path(sys.argv[1]))
    train, held_out = text[:-HELD_OUT], text[-HELD_OUT:]
    rng = np.random.default_rng(SEED)
    data = with_misprints(charlm.encode(train), rng)
    weights = charlm.new_weights(rng)
    losses = charlm.fit(weights, data, steps=STEPS, learning_rate=LEARNING_RATE, seed=SEED)
    for step, loss in enumerate(losses, start=1):
        if step % 1000 == 0:
            print(f"{step}/{STEPS} loss {loss:.2f} bits/byte", flush=True)
    charlm.save(weights, Path(__file__).parent / "base.npz")
    bits = charlm.bits_per_character(weights, train[-100:], held_out[:20_000])
    print(f"held-out text of the Bible: {bits:.2f} bits/character")


if __name__ == "__main__":
    main()
