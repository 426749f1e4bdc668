"""Upload a file to Replicate once, however many inputs and attempts it is for.

What was uploaded is remembered for each client, that is, for each token, in this process.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from weakref import WeakKeyDictionary, WeakValueDictionary

from prefect_replicate.api import calls
from prefect_replicate.api.client import Client
from prefect_replicate.api.errors import NotFoundError
from prefect_replicate.api.resources import File
from prefect_replicate.jobs.contents import Content
from prefect_replicate.jobs.flow_run import run_logger

# A job may wait for hardware before it reads its files. Replicate keeps them for a day or an hour.
GOOD_FOR = timedelta(minutes=15)

_MOST_KNOWN = 1000

# SHA-256, name and media type: what a model can tell one file from another by.
_Key: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Known:
    """A file at Replicate, and when it was last seen there, by the monotonic clock."""

    file: File
    seen: float


@dataclass(slots=True, weakref_slot=True)
class _Memory:
    """What one client has uploaded, the latest used last; and who is uploading now.

    Attributes:
        digests: SHA-256 of what is at a URL.
    """

    digests: OrderedDict[str, str] = field(default_factory=OrderedDict)
    known: OrderedDict[_Key, _Known] = field(default_factory=OrderedDict)
    busy: WeakValueDictionary[_Key, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def remember(self, key: _Key, file: File) -> File:
        self.known[key] = _Known(file, time.monotonic())
        self.known.move_to_end(key)
        self.note(file.urls.get, key[0])
        if len(self.known) > _MOST_KNOWN:
            self.known.popitem(last=False)
        return file

    def note(self, url: str, digest: str) -> None:
        self.digests[url] = digest
        while len(self.digests) > _MOST_KNOWN:
            self.digests.popitem(last=False)


_memories: WeakKeyDictionary[Client, _Memory] = WeakKeyDictionary()


def note(client: Client, file: File) -> None:
    """Remember what is in a file that somebody has uploaded."""
    if digest := file.checksums.get("sha256"):
        _memories.setdefault(client, _Memory()).note(file.urls.get, digest)


def digest_at(client: Client, url: str) -> str | None:
    """The SHA-256 of an upload by its URL, if it is one that went through this process."""
    memory = _memories.get(client)
    return memory.digests.get(url) if memory else None


def good_for_a_job(file: File, now: datetime) -> bool:
    """Whether a file will live long enough for a job to read it."""
    expires = file.expires_at
    if expires is None:
        return True
    return (expires if expires.tzinfo else expires.replace(tzinfo=UTC)) > now + GOOD_FOR


async def upload_once(client: Client, content: Content, asked: float) -> File:
    """Upload a file, or find that it is at Replicate from before.

    Args:
        client: Whose file it is.
        content: The file.
        asked: When the caller's own caller asked, by the monotonic clock. What was seen at
            Replicate since then is not looked for again, so many that ask at once share a look.

    Raises:
        ReplicateError: It could not be uploaded, or not be looked for.
    """
    memory = _memories.setdefault(client, _Memory())
    key = (content.sha256, content.name, content.kind)
    async with memory.busy.setdefault(key, asyncio.Lock()):
        known = memory.known.get(key)
        if known and known.seen >= asked:
            return known.file
        if known and await _still_there(client, known.file):
            return memory.remember(key, known.file)
        file = await client.send(calls.files_create(content.upload()))
        run_logger().info("Uploaded %s (%d bytes)", content.name, content.size)
        return memory.remember(key, file)


async def _still_there(client: Client, file: File) -> bool:
    if not good_for_a_job(file, datetime.now(UTC)):
        return False
    try:
        found = await client.send(calls.files_get(file.id))
    except NotFoundError:
        return False
    return good_for_a_job(found, datetime.now(UTC))
