"""Where outputs are kept."""

from __future__ import annotations

from typing import Any

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import Field

from prefect_replicate.blocks.credentials import DOCUMENTATION, LOGO
from prefect_replicate.jobs.engine import engine
from prefect_replicate.outputs.store import Store


class OutputStorage(Block):
    """A folder for outputs, in any storage that fsspec knows.

    Attributes:
        url: fsspec URL or local path of the folder.
        options: fsspec's options for that storage, such as keys; kept as secrets.

    Example:
        ```python
        from prefect_replicate import OutputStorage

        storage = OutputStorage.load("BLOCK_NAME")
        storage.verify()
        ```
    """

    _block_type_name = "Output Storage"
    _block_type_slug = "replicate-output-storage"
    _logo_url = LOGO
    _documentation_url = DOCUMENTATION
    _description = "A folder for outputs, in any storage that fsspec knows."

    url: str = Field(
        description="fsspec URL or local path of the folder, such as 's3://bucket/prefix'."
    )
    options: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        description="Options that fsspec needs for this storage, such as keys.",
    )

    @property
    def store(self) -> Store:
        """The folder as something to write to."""
        options: dict[str, Any] = self.options.get_secret_value()
        return Store(self.url, options)

    def verify(self) -> None:
        """Write a small file and remove it again.

        Raises:
            BadInputError: The storage cannot be written.
        """
        engine().run(self.store.verify)

    async def averify(self) -> None:
        """As `verify`."""
        await engine().arun(self.store.verify)
