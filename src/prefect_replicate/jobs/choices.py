"""What a caller says of a call itself: its name, where it is written down, a way out of doubt."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from prefect_replicate.api.errors import BadInputError
from prefect_replicate.api.references import parse_id

# Text by name; what fsspec maps holds bytes.
Store: TypeAlias = MutableMapping[str, str] | MutableMapping[str, bytes] | MutableMapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choices:
    """What a caller may say, all of it optional.

    Attributes:
        adopt: Id of the job that this call has, whatever is written down.
        fresh: Another job may be made where it cannot be told whether there is one.
        job_key: The name of the call, by which it is found again.
        job_store: Where it is written down outside of a flow run.
    """

    adopt: str | None = None
    fresh: bool = False
    job_key: str | None = None
    job_store: Store | None = None

    def check(self, *, in_flow_run: bool) -> None:
        """See to it that there is sense in them, where the call is made.

        Raises:
            BadInputError: There is none; the message says why.
        """
        if self.adopt is not None:
            parse_id(self.adopt)
        if wrong := self._wrong(in_flow_run=in_flow_run):
            raise BadInputError(f"{wrong} Nothing was submitted.")

    def _wrong(self, *, in_flow_run: bool) -> str | None:
        if self.adopt is not None and self.fresh:
            return (
                "`adopt` says that there is a job and `fresh` that there may be another: give one."
            )
        if self.job_key is not None and not (isinstance(self.job_key, str) and self.job_key):
            return f"A job_key is a text that is not empty, not {self.job_key!r}."
        return self._wrong_in_flow_run() if in_flow_run else self._wrong_outside()

    def _wrong_in_flow_run(self) -> str | None:
        if self.job_store is not None:
            return (
                "In a flow run the call is written down on the flow run: leave `job_store` out, a "
                "`job_key` alone names the call there."
            )
        return None

    def _wrong_outside(self) -> str | None:
        if self.job_store is not None:
            if self.job_key is not None:
                return None
            return "A `job_store` says where the call is written down: give it a `job_key` too."
        if self.job_key is not None:
            return (
                "Outside of a flow run nothing is written down: give `job_key` a `job_store` too, "
                "or call it in a flow."
            )
        if self.adopt is not None or self.fresh:
            what = "adopt" if self.adopt is not None else "fresh"
            return (
                f"Outside of a flow run nothing is known of earlier calls, so `{what}` says "
                f"nothing: give it a `job_key` and a `job_store` too, or call it in a flow."
            )
        return None
