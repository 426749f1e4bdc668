"""The mailbox of a waiting flow run: rows among its inputs on the Prefect server.

A receiver puts them there and a waiter takes them out, so neither has to know where the other
runs. A mail says that a job has ended and not what it made: whoever reads it reads the job.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound
from prefect.logging.loggers import get_logger
from pydantic import BaseModel, ValidationError

from prefect_replicate.api.resources import TERMINAL

logger = get_logger("prefect_replicate")

_PREFIX = "pr-mail-"
_ADDRESS = re.compile(r"/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/(pr-mail-[a-z0-9]{26})")
_ADDRESS_LENGTH = 1 + 36 + 1 + len(_PREFIX) + 26
_CHARACTERS = string.ascii_lowercase + string.digits
_FORMAT = 1
# Bytes of JSON. A model may record any number of metrics, and a row of inputs is not made for that.
_MOST_METRICS = 20_000
# Rows; a job ends once, and there are four ways.
_MOST_ROWS = 4


@dataclass(frozen=True, slots=True)
class Address:
    """Where mail about one job goes: a flow run, and a key that nobody can guess."""

    flow_run_id: UUID
    key: str


@dataclass(frozen=True, slots=True)
class Mail:
    """What a webhook said: this job has ended so.

    Attributes:
        id: Of the prediction or training.
        status: A terminal one.
        metrics: As the job has them; empty where they are too many to keep.
    """

    id: str
    status: str
    metrics: Mapping[str, Any] = field(default_factory=dict)


def new_mail_key() -> str:
    """A key for one job: 134 random bits in what Prefect takes as the key of an input."""
    return _PREFIX + "".join(secrets.choice(_CHARACTERS) for _ in range(26))


def webhook_url(public_url: str, address: Address) -> str:
    """The URL to give to Replicate, so that what it says comes to this address."""
    return f"{public_url.rstrip('/')}/{address.flow_run_id}/{address.key}"


def another_mailbox(url: str) -> str:
    """The URL of a mailbox in the same flow run that nobody has been told yet."""
    return f"{url.rpartition('/')[0]}/{new_mail_key()}"


def address_of(url: str) -> Address | None:
    """The address in a URL or a path: its last two segments. None if they are no address."""
    match = _ADDRESS.fullmatch(url[-_ADDRESS_LENGTH:])
    return Address(UUID(match[1]), match[2]) if match else None


def row(address: Address, mail: Mail) -> tuple[str, str]:
    """Key and value of the flow-run input that a mail becomes.

    The key has the job and the status, so a duplicate meets the row of the first. What was sent
    here about another job has a row of its own, and takes nobody's place.
    """
    metrics = dict(mail.metrics)
    if len(json.dumps(metrics)) > _MOST_METRICS:
        metrics = {}
    value = {"v": _FORMAT, "id": mail.id, "status": mail.status, "metrics": metrics}
    return f"{address.key}-{mail.id}-{mail.status}", json.dumps(value)


class _Row(BaseModel, strict=True):
    v: int
    id: str
    status: str
    metrics: dict[str, Any] = {}


def mail_in(address: Address, key: str, value: str) -> Mail | None:
    """The mail in a flow-run input. None if the row is damaged or not one of ours."""
    try:
        read = _Row.model_validate_json(value)
    except ValidationError:
        return None
    ours = key == f"{address.key}-{read.id}-{read.status}" and read.status in TERMINAL
    return Mail(read.id, read.status, read.metrics) if ours and read.v == _FORMAT else None


async def post(client: PrefectClient, address: Address, mail: Mail) -> bool:
    """Put a mail in a mailbox.

    Returns:
        Whether it is new there. Prefect's server refuses a second row of the same key, also when
        several receivers write it at once.

    Raises:
        ObjectNotFound: There is no such flow run (any more).
        httpx.HTTPError: The Prefect server cannot be reached, or does not do it.
    """
    key, value = row(address, mail)
    try:
        await client.create_flow_run_input(address.flow_run_id, key=key, value=value)
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.CONFLICT:
            return False
        if error.response.status_code == httpx.codes.NOT_FOUND:
            raise ObjectNotFound(http_exc=error) from error
        raise
    return True


async def read(client: PrefectClient, address: Address, job_id: str) -> Mail | None:
    """The mail about a job in a mailbox, None while there is none.

    A row that is damaged is passed over with a line in the log.

    Args:
        client: Of the Prefect server that the flow run is on.
        address: Where the job's webhook was sent to.
        job_id: A webhook's signature does not cover its address, so whoever has seen one can send
            it here: mail about other jobs is not even looked at.

    Raises:
        httpx.HTTPError: The Prefect server cannot be reached.
    """
    about = f"{address.key}-{job_id}-"
    rows = await client.filter_flow_run_input(
        address.flow_run_id, key_prefix=about, limit=_MOST_ROWS, exclude_keys=set()
    )
    for each in rows:
        if mail := mail_in(address, each.key, each.value):
            return mail
        _ignore(address.flow_run_id, each.key)
    return None


@lru_cache(maxsize=1000)
def _ignore(flow_run_id: UUID, key: str) -> None:
    """Say once that a row is passed over: a waiter looks every few seconds, for hours."""
    logger.warning("Mail %r of flow run %s cannot be read: ignored", key, flow_run_id)
