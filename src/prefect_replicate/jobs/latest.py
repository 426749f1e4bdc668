"""Models as they were when a flow run first asked, so that all its calls mean one version."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from uuid import UUID
from weakref import WeakKeyDictionary

from prefect_replicate.api import calls
from prefect_replicate.api.client import Client
from prefect_replicate.api.references import Name
from prefect_replicate.api.resources import Model
from prefect_replicate.jobs.flow_run import flow_run_id, run_logger

# Models that are remembered for one token, over all flow runs of the process.
_MOST = 1000


@dataclass(slots=True)
class _Looked:
    model: Model | None = None
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)


_known: WeakKeyDictionary[Client, OrderedDict[tuple[UUID, Name], _Looked]] = WeakKeyDictionary()


async def look_up(client: Client, name: Name) -> Model:
    """A model with its latest version: read once in a flow run, however many of its calls ask.

    Outside of a flow run it is read each time.

    Raises:
        NotFoundError: There is no such model.
    """
    run = flow_run_id()
    if run is None:
        return await _read(client, name)
    known = _known.setdefault(client, OrderedDict())
    looked = known.setdefault((run, name), _Looked())
    known.move_to_end((run, name))
    if len(known) > _MOST:
        known.popitem(last=False)
    async with looked.looking:
        looked.model = looked.model or await _read(client, name)
    return looked.model


def forget(client: Client, model: str) -> None:
    """Read a model, "owner/name", again when it is asked for: it has a new version."""
    known = _known.get(client, OrderedDict())
    for key in [key for key in known if str(key[1]) == model]:
        del known[key]


async def _read(client: Client, name: Name) -> Model:
    model = await client.send(calls.models_get(name))
    if model.latest_version and not model.is_official:
        run_logger().info("Latest version of %s is %s", name, model.latest_version.id)
    return model
