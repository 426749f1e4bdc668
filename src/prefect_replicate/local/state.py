"""The database of Local Replicate: one SQLite file, one table for each kind of record.

A row is a record as JSON, beside the columns that it is found by. Used from one thread only.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

from prefect_replicate.local.records import Deployment, Model, Run, StoredFile, Version

# Asked for with every prediction, and long: a version holds its schema.
_FROZEN = frozenset({Version})

Record = TypeVar("Record", Model, Version, Deployment, StoredFile, Run)


class Table(Generic[Record]):
    """All records of one kind.

    Args:
        db: The connection.
        name: Name of the table.
        kind: The record's class.
        key: Fields that name a record.
        fixed: Further fields to search by, which never change.
        changing: Further fields to search by.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        name: str,
        kind: type[Record],
        key: tuple[str, ...],
        *,
        fixed: tuple[str, ...] = (),
        changing: tuple[str, ...] = (),
    ) -> None:
        self._db, self._name, self._key = db, name, key
        self._read: Callable[[str], Record] = _reader(kind)
        self._columns = key + fixed + changing
        self._fields = [field.name for field in fields(kind)]
        marks = ", ".join("?" * (len(self._columns) + 1))
        # Only what may differ: an index costs as much for the same value as for another.
        updates = ", ".join(f"{column} = excluded.{column}" for column in (*changing, "document"))
        self._put = (
            f"INSERT INTO {name} ({', '.join(self._columns)}, document) VALUES ({marks})"  # noqa: S608 - names come from this file
            f" ON CONFLICT DO UPDATE SET {updates}"
        )
        columns = ", ".join(f"{column} TEXT" for column in self._columns)
        db.execute(
            f"CREATE TABLE IF NOT EXISTS {name} (seq INTEGER PRIMARY KEY AUTOINCREMENT, {columns},"
            f" document TEXT NOT NULL, UNIQUE ({', '.join(key)}))"
        )
        for column in fixed + changing:
            db.execute(f"CREATE INDEX IF NOT EXISTS {name}_{column} ON {name} ({column}, seq)")

    def put(self, record: Record) -> None:
        """Add a record, or replace the one of the same key, which keeps its place in order."""
        values: list[str] = [getattr(record, column) for column in self._columns]
        # Not by asdict(), which copies all that is inside first.
        document = json.dumps({name: getattr(record, name) for name in self._fields})
        self._db.execute(self._put, [*values, document])

    def get(self, *key: str) -> Record | None:
        """The record of this key."""
        where = dict(zip(self._key, key, strict=True))
        found = self.newest(where, limit=1)
        return found[0][1] if found else None

    def delete(self, *key: str) -> None:
        """Remove the record of this key, if it is there."""
        condition = " AND ".join(f"{column} = ?" for column in self._key)
        self._db.execute(f"DELETE FROM {self._name} WHERE {condition}", key)  # noqa: S608 - names come from this file

    def newest(
        self,
        where: Mapping[str, str] | None = None,
        *,
        limit: int = -1,
        before: int | None = None,
        since: int | None = None,
        made: tuple[str | None, str | None] = (None, None),
    ) -> list[tuple[int, Record]]:
        """Records with their places, newest first.

        Args:
            where: Values that columns must have.
            limit: How many at most.
            before: Only places below this one.
            since: Only places above this one, and of those the nearest.
            made: Only with `created_at` from the first (inclusive) to the second (exclusive).
        """
        conditions: dict[str, str | int | None] = {
            "seq < ?": before,
            "seq > ?": since,
            "created_at >= ?": made[0],
            "created_at < ?": made[1],
            **{f"{column} = ?": value for column, value in (where or {}).items()},
        }
        used: dict[str, str | int] = {
            condition: value for condition, value in conditions.items() if value is not None
        }
        order = "ASC" if since is not None else "DESC"
        rows = self._db.execute(
            f"SELECT seq, document FROM {self._name}"  # noqa: S608 - names come from this file
            f" WHERE {' AND '.join(used) or 'TRUE'} ORDER BY seq {order} LIMIT ?",
            [*used.values(), limit],
        ).fetchall()
        found = [(seq, self._read(document)) for seq, document in rows]
        return found if since is None else found[::-1]


def _reader(kind: type[Record]) -> Callable[[str], Record]:
    """What makes records of documents; the same one again of those that cannot change."""

    def read(document: str) -> Record:
        return kind(**json.loads(document))

    return lru_cache(maxsize=64)(read) if kind in _FROZEN else read


class State:
    """Everything that outlives the server.

    Args:
        path: The SQLite file; made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)  # inputs are in it
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        # A power cut may lose the last moments, but never breaks the file.
        self._db.execute("PRAGMA synchronous = NORMAL")
        self.models = Table(self._db, "models", Model, ("owner", "name"))
        self.versions = Table(self._db, "versions", Version, ("owner", "name", "id"))
        self.deployments = Table(self._db, "deployments", Deployment, ("owner", "name"))
        self.files = Table(self._db, "files", StoredFile, ("id",))
        self.runs = Table(
            self._db, "runs", Run, ("id",), fixed=("kind", "created_at"), changing=("status",)
        )

    def put_version(self, version: Version, model: Model) -> None:
        """Add a version as its model's newest, and the model itself; all of it or nothing."""
        with self.together():
            self.models.put(model)
            self.versions.delete(version.owner, version.name, version.id)
            self.versions.put(version)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write all of what is put inside, or nothing; faster than one by one, and no awaits."""
        self._db.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Finish writing and let go of the file."""
        self._db.close()
