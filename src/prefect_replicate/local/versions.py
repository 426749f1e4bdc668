"""Versions: a folder of a Cog model becomes an immutable, named piece of code.

The id is a digest of the content, so the same code with the same weights is the same version.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from prefect_replicate.local.engine import WorkerSpec
from prefect_replicate.local.openapi import worker_schema
from prefect_replicate.local.records import Version
from prefect_replicate.local.schema import (
    BrokenModel,
    CogModel,
    Reading,
    inspect_folder,
)

_IGNORED = frozenset({".git", ".cog", "__pycache__", ".venv"})


class Versions:
    """The code of all versions, each in a folder named after its digest.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        for unfinished in folder.glob("incoming-*"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def keep_only(self, codes: Collection[str]) -> None:
        """Remove all code but that of these digests; not while another thread stages some."""
        for folder in self._folder.iterdir():
            if folder.name not in codes:
                shutil.rmtree(folder, ignore_errors=True)

    def stage(self, source: Path, reading: Reading) -> tuple[str, CogModel]:
        """Copy a model's folder and look into the copy.

        What is hashed, inspected and kept is one and the same copy, whatever happens to the source
        meanwhile. On any error nothing stays behind.

        Args:
            source: The folder.
            reading: By which another thread may give it up.

        Returns:
            The digest of the code, and what the model says about itself.

        Raises:
            BrokenModel: The folder holds no model that could run.
            GivenUp: Another thread gave it up.
        """
        copy = self._folder / f"incoming-{secrets.token_hex(8)}"
        try:
            self._copy(source, copy, reading)
            code = digest(copy)
            model = _inspect(copy, source, reading)
            for compiled in list(copy.rglob("__pycache__")):
                shutil.rmtree(compiled, ignore_errors=True)
            self._keep(copy, code, model)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        return code, model

    def _copy(self, source: Path, target: Path, reading: Reading) -> None:
        target.mkdir()
        for path in model_files(source, self._folder.parent):
            reading.check()
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)

    def _keep(self, copy: Path, code: str, model: CogModel) -> None:
        final = self._folder / code
        if final.exists():
            return
        (copy / ".cog").mkdir(exist_ok=True)
        schema = json.dumps(worker_schema(model.openapi, "predict"))
        (copy / ".cog" / "openapi_schema.json").write_text(schema)
        copy.rename(final)

    def worker(
        self, version: Version, mode: Literal["predict", "train"], weights: str | None, key: str
    ) -> WorkerSpec:
        """What a worker needs to run a version.

        Args:
            version: The version.
            mode: What to run of it.
            weights: URL of its weights.
            key: Equal keys share a worker.
        """
        reference = version.predict if mode == "predict" else version.train
        if reference is None:
            raise ValueError(f"version {version.id} has nothing to {mode}")
        return WorkerSpec(
            key=key,
            source=self._folder / version.code,
            schema=worker_schema(version.openapi, mode),
            reference=reference,
            mode=mode,
            concurrency=version.concurrency if mode == "predict" else 1,
            weights=weights,
            single_use=mode == "train",
        )


def model_files(folder: Path, root: Path | None = None) -> Iterator[Path]:
    """The files of a model's folder that belong to a version of it.

    Args:
        folder: The folder.
        root: Where Local Replicate keeps its state, which may be inside of the folder.

    Raises:
        BrokenModel: A version cannot hold what is in the folder.
    """
    own = root and root.resolve()
    if own and folder.resolve() == own:
        raise BrokenModel(
            folder,
            "it is where Local Replicate keeps its own state",
            "Give the model or Local Replicate another folder.",
        )
    yield from _files(folder, without=own)


def digest(folder: Path) -> str:
    """SHA-256 over the sorted paths and contents of a folder's files, in hexadecimal."""
    listing = []
    for path in _files(folder):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        listing.append([path.relative_to(folder).as_posix(), content])
    return hashlib.sha256(json.dumps(sorted(listing)).encode()).hexdigest()


def version_id(code: str, weights: str | None = None) -> str:
    """The id of code with weights, both given as digests; plain code keeps its own."""
    return hashlib.sha256(f"{code} {weights}".encode()).hexdigest() if weights else code


def _inspect(copy: Path, source: Path, reading: Reading) -> CogModel:
    try:
        return inspect_folder(copy, reading=reading)
    except BrokenModel as error:
        # People know the folder that they gave, not the copy of it.
        parts = (error.problem, error.advice, error.detail)
        texts = (part.replace(str(copy), str(source)) for part in parts)
        raise BrokenModel(source, *texts) from None


def _files(folder: Path, without: Path | None = None) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(
            name for name in folders if name not in _IGNORED and (here / name).resolve() != without
        )
        if link := next((here / name for name in folders if (here / name).is_symlink()), None):
            raise BrokenModel(
                folder,
                f"{link} is a link to a folder, which a version cannot hold",
                "Copy what the model needs into its own folder.",
            )
        yield from (here / name for name in sorted(names) if (here / name).is_file())
