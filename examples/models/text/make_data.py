"""Make data/train.txt and data/eval.jsonl from the docstrings of Prefect (see data/SOURCE.md).

Get the source and run:
    pip download prefect==3.8.8 --no-deps --no-binary :all:
    tar xzf prefect-3.8.8.tar.gz
    python make_data.py prefect-3.8.8/src/prefect
"""

import ast
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

DATA = Path(__file__).parent / "data"
TRAIN_CHARACTERS = 50_000
EXAMPLES = 24
PROMPT_CHARACTERS = 60
SHARED = 40  # A held-out paragraph with this many characters in a row from train.txt is not used.

PROSE = re.compile(r"[A-Z][A-Za-z0-9 ,.;:'\"()?!`/_-]{119,}\.")
NOT_PROSE = re.compile(r"^\w+:|::|//| - |\w\(|(`.*){5}")  # Lists, links, calls, too many names.
PART_OF_A_REFERENCE = re.compile(r"(Args|Attributes|Examples?|Raises|Returns|Yields|Usage):")


def docstrings(source: Path) -> Iterator[str]:
    """Every docstring in the public modules below `source`, in the order of their paths."""
    for path in sorted(source.rglob("*.py")):
        if any(part.startswith("_") for part in path.relative_to(source).with_suffix("").parts):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node) or ""


def paragraphs(docstring: str) -> Iterator[str]:
    """The docstring's paragraphs of plain prose, each on one line."""
    for paragraph in docstring.split("\n\n"):
        if PART_OF_A_REFERENCE.match(paragraph):
            return
        line = " ".join(paragraph.split())
        if PROSE.fullmatch(line) and not NOT_PROSE.search(line):
            yield line


def without_copies(lines: Iterator[str]) -> list[str]:
    """One line of those that begin alike: a sync and an async function often share their text."""
    return list({line[:SHARED]: line for line in lines}.values())


def split(lines: list[str]) -> tuple[str, list[str]]:
    """Text to train on, and the lines that share no `SHARED` characters in a row with it."""
    train = ""
    while len(train) < TRAIN_CHARACTERS:
        train += lines.pop() + "\n"
    known = {train[i : i + SHARED] for i in range(len(train))}
    return train, [
        line
        for line in lines
        if not any(line[i : i + SHARED] in known for i in range(len(line) - SHARED + 1))
    ]


def main() -> None:
    """Write both files."""
    texts = (text for docstring in docstrings(Path(sys.argv[1])) for text in paragraphs(docstring))
    lines = without_copies(texts)
    random.Random(0).shuffle(lines)  # noqa: S311 - a repeatable order, not a secret
    train, held_out = split(lines)
    (DATA / "train.txt").write_text(train)
    with (DATA / "eval.jsonl").open("w") as file:
        for line in held_out[:EXAMPLES]:
            prompt = line[:PROMPT_CHARACTERS].rsplit(maxsplit=1)[0]
            target = line.removeprefix(prompt)
            example = {"prompt": prompt, "target": target, "max_tokens": 80, "seed": 0}
            file.write(json.dumps({"input": example}) + "\n")


if __name__ == "__main__":
    main()
