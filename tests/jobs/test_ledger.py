"""What follows from what is written about a call; and a walk through all that can go wrong.

The walk drives the real decisions (`ledger.read`, `ledger.next_step`, `orphans.sort`) through a
model of Prefect's server, of Replicate and of the network, on a clock of its own. What goes wrong
is read from bytes: zero is whatever goes well.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count, product
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_replicate.api.errors import JobFateUnknown, LedgerError
from prefect_replicate.api.resources import Prediction
from prefect_replicate.jobs import ledger, orphans
from prefect_replicate.jobs.ledger import (
    Claim,
    End,
    Margins,
    Named,
    Step,
    ToClaim,
    ToLook,
    ToWatch,
    Unwanted,
    Void,
)

KEY, OTHER_KEY = "a" * 26, "b" * 26
CLAIM = Claim(nonce="n", fingerprint="f", api="https://api", account="user us")
VOID = Void(reason="refused")
JOB = Named(id="j", claim=1, attempt="first")
NONE = Named(id=None, how="canceled in the UI", attempt="first")


def rows(**of: Claim | Void | Named | End) -> dict[str, str]:
    """Rows of `KEY`, by what comes after it: g01_c01 is claim 1 of generation 1."""
    return {
        ledger.prefix(KEY) + name.replace("_", "-"): row.model_dump_json()
        for name, row in of.items()
    }


def step(written: dict[str, str], attempt: str = "second", process: str = "another") -> Step:
    return ledger.next_step(ledger.read(written), attempt, process)


def test_a_call_that_nothing_is_written_about_is_to_be_claimed() -> None:
    assert step({}) == ToClaim(1, 1)


def end(status: str, *, retryable: bool = False, attempt: str = "first", by: str = "one") -> End:
    return End(status=status, retryable=retryable, attempt=attempt, process=by)


ENDS = {
    "": None,
    "succeeded": end("succeeded"),
    "failed": end("failed"),
    "canceled": end("canceled"),
    "aborted": end("aborted"),
    "retryable": end("failed", retryable=True),
}
WRITTEN = list(product(["", "claim", "void"], ["", "job", "tombstone"], ENDS))


@pytest.mark.parametrize("again", ["same", "same process", "same attempt", "from outside"])
@pytest.mark.parametrize(("claimed", "named", "ended"), WRITTEN)
def test_every_combination_of_rows_has_its_step(
    claimed: str, named: str, ended: str, again: str
) -> None:
    written: dict[str, Claim | Void | Named | End] = {}
    if claimed:
        written["g01_c01"] = CLAIM
    if claimed == "void":
        written["g01_v01"] = VOID
    if named:
        written["g01_job"] = JOB if named == "job" else NONE
    if (last := ENDS[ended]) is not None:
        written["g01_end"] = last
    attempt = "first" if again in {"same", "same attempt"} else "second"
    process = "one" if again in {"same", "same process"} else "another"
    failed_for_good = ended in {"failed", "canceled", "aborted"}
    expected: Step
    match named, claimed:
        case "job", _:
            anew = ended == "retryable" or (failed_for_good and again == "from outside")
            expected = ToClaim(2, 1) if anew else ToWatch(1, "j", last)
        case "tombstone", _:
            asked_for_again = attempt == "second"
            expected = ToClaim(2, 1) if asked_for_again else Unwanted(1, "canceled in the UI")
        case _, "claim":
            expected = ToLook(1, 1, CLAIM)
        case _, "void":
            expected = ToClaim(1, 2)
        case _:
            expected = ToClaim(1, 1)
    assert step(rows(**written), attempt, process) == expected


def test_only_the_last_claim_counts_and_the_next_has_the_next_number() -> None:
    # Claim 1 was found to have made nothing; that is not written down.
    assert step(rows(g01_c01=CLAIM, g01_c02=CLAIM)) == ToLook(1, 2, CLAIM)
    assert step(rows(g01_c01=CLAIM, g01_c02=CLAIM, g01_v02=VOID)) == ToClaim(1, 3)
    assert step(rows(g01_c01=CLAIM, g01_c02=CLAIM, g01_v01=VOID)) == ToLook(1, 2, CLAIM)


def test_only_the_newest_generation_counts() -> None:
    again = end("failed", retryable=True)
    first: dict[str, Claim | Void | Named | End]
    first = {"g01_c01": CLAIM, "g01_job": JOB, "g01_end": again}
    assert step(rows(**first, g02_c01=CLAIM)) == ToLook(2, 1, CLAIM)
    second = Named(id="k")
    assert step(rows(**first, g02_c01=CLAIM, g02_job=second)) == ToWatch(2, "k", None)
    good = rows(**first, g02_c01=CLAIM, g02_job=second, g02_end=end("succeeded"))
    assert step(good) == ToWatch(2, "k", end("succeeded"))
    bad = rows(**first, g02_c01=CLAIM, g02_job=second, g02_end=end("failed", attempt="second"))
    assert step(bad) == ToWatch(2, "k", end("failed", attempt="second"))
    assert step(bad, "third") == ToClaim(3, 1)


@pytest.mark.parametrize("number", [1, 9, 10, 99, 100, 101, 1000])
def test_every_number_that_is_written_is_read(number: int) -> None:
    claims = {ledger.name(KEY, number, "c", each): CLAIM.model_dump_json() for each in (1, number)}
    assert step(claims) == ToLook(number, number, CLAIM)
    void = {ledger.name(KEY, number, "v", number): VOID.model_dump_json()}
    assert step(claims | void) == ToClaim(number, number + 1)
    job = {ledger.name(KEY, number, "job"): JOB.model_dump_json()}
    assert step(claims | job) == ToWatch(number, "j", None)


def test_a_generation_after_the_99th_is_the_newest() -> None:
    old = {ledger.name(KEY, 99, "job"): JOB.model_dump_json()}
    new = {ledger.name(KEY, 100, "job"): Named(id="new").model_dump_json()}
    assert step(old | new) == ToWatch(100, "new", None)


def test_the_order_of_rows_makes_no_difference() -> None:
    written = rows(g02_c02=CLAIM, g01_job=JOB, g02_c01=CLAIM, g02_v01=VOID, g01_c01=CLAIM)
    assert ledger.read(written) == ledger.read(dict(reversed(written.items())))


def test_no_two_rows_have_one_name() -> None:
    numbers = (1, 2, 10, 11, 100, 110)
    names = [
        row
        for key, generation in product((KEY, OTHER_KEY), numbers)
        for row in (
            ledger.name(key, generation, "job"),
            ledger.name(key, generation, "end"),
            *(ledger.name(key, generation, "c", number) for number in numbers),
            *(ledger.name(key, generation, "v", number) for number in numbers),
        )
    ]
    names += [ledger.held("j1"), ledger.held("j11")]
    assert len(set(names)) == len(names)


def test_the_rows_of_a_call_begin_as_those_of_no_other() -> None:
    longer = KEY + "0"
    assert ledger.name(KEY, 1, "job").startswith(ledger.prefix(KEY))
    for other in (OTHER_KEY, longer):
        assert not ledger.name(other, 1, "job").startswith(ledger.prefix(KEY))
    assert not ledger.held(KEY).startswith(ledger.prefix(KEY))


@pytest.mark.parametrize("name", ["mail-x", "slot-x", "held-x"])
def test_rows_of_another_purpose_are_no_concern_of_a_call(name: str) -> None:
    assert step({f"pr-{name}": "not even JSON"}) == ToClaim(1, 1)


DAMAGED = ["", "null", "[]", "7", '"text"', "{", '{"v": 1}', '{"v": "one"}', "\x00", "{}"]


@pytest.mark.parametrize("kind", ["c01", "v01", "job", "end"])
@pytest.mark.parametrize("value", DAMAGED)
def test_a_damaged_row_stops_everything(kind: str, value: str) -> None:
    row = f"{ledger.prefix(KEY)}g01-{kind}"
    with pytest.raises(LedgerError, match=rf"'{row}' is damaged.*Nothing was submitted"):
        ledger.read(rows(g01_c02=CLAIM) | {row: value})


@pytest.mark.parametrize("kind", ["c01", "v01", "job", "end"])
def test_a_row_of_a_newer_format_asks_for_an_upgrade(kind: str) -> None:
    row = f"{ledger.prefix(KEY)}g01-{kind}"
    newer = json.dumps({"v": ledger.FORMAT + 1, "unknown": True})
    with pytest.raises(LedgerError, match=rf"'{row}' was written by a newer .*Nothing was submit"):
        ledger.read({row: newer})


@pytest.mark.parametrize("row", [CLAIM, VOID, JOB, NONE, end("failed")])
def test_what_is_written_is_read_back(row: Claim | Void | Named | End) -> None:
    names = {Claim: "c01", Void: "v01", Named: "job", End: "end"}
    name = f"{ledger.prefix(KEY)}g01-{names[type(row)]}"
    found = ledger.read({name: row.model_dump_json()})[0]
    assert row in (found.claims.get(1), found.voids.get(1), found.job, found.end)


def test_a_field_that_is_not_known_is_no_damage() -> None:
    written = json.dumps(JOB.model_dump() | {"more": 1})
    assert step({ledger.name(KEY, 1, "job"): written}) == ToWatch(1, "j", None)


def test_a_claim_has_made_nothing_when_all_its_margins_are_over() -> None:
    assert Margins().quarantine == 10 + 30 + 15 + 30
    assert Margins(send=1, answer=2, accept=3, list=4).quarantine == 10


MARGINS = Margins()
START = datetime(2026, 5, 1, tzinfo=UTC)
WANTED = orphans.wanted({"text": "hello"}, model="owner/name")
SHORTEST_LIFE = 600
T = TypeVar("T")
# Yields the seconds that it waits; in the meantime anything may happen.
Doing = Generator[float, None, T]


class Refused(Exception):
    """Replicate did not take a create, or the call was canceled."""


class Luck:
    """What goes wrong, by bytes: zero is the first choice. When they are used up all goes well."""

    def __init__(self, told: bytes) -> None:
        self._left = iter(told)

    def pick(self, *options: T) -> T:
        return options[next(self._left, 0) % len(options)]

    def fails(self, one_in: int) -> bool:
        return next(self._left, 0) % one_in == one_in - 1


@dataclass
class Made:
    """A job at Replicate; `by` is the call and generation that asked for it, or nobody of ours."""

    job: Prediction
    by: tuple[str, int] | None
    listed: float
    fails: bool = False
    canceled: bool = False


@dataclass
class World:
    """Prefect's rows, Replicate's jobs, and whoever is at work, on one clock.

    Attributes:
        luck: What goes wrong.
        hooked: Jobs have webhooks; otherwise they are told apart by their lives.
        alike: Nothing tells the jobs of two calls apart.
        late: Processes sleep, and Replicate takes and lists jobs, beyond all margins.
    """

    luck: Luck
    hooked: bool
    late: bool = False
    alike: bool = False
    now: float = 0.0
    rows: dict[str, tuple[str, float]] = field(default_factory=dict)
    made: dict[str, Made] = field(default_factory=dict)
    posted: set[tuple[str, int, int]] = field(default_factory=set)
    closed: set[tuple[str, int, int]] = field(default_factory=set)
    obtained: list[tuple[str, int, str]] = field(default_factory=list)
    names: Iterator[int] = field(default_factory=lambda: count(1))
    queue: list[tuple[float, int, Generator[float]]] = field(default_factory=list)

    def begin(self, work: Generator[float], after: float = 0.0) -> None:
        heapq.heappush(self.queue, (self.now + after, next(self.names), work))

    def go_on(self) -> None:
        """Until nobody is at work."""
        while self.queue:
            self.now, _, work = heapq.heappop(self.queue)
            for wait in work:
                self.begin(work, wait)
                break

    def clock(self) -> datetime:
        """Replicate's, which is ahead of Prefect's."""
        return START + timedelta(seconds=self.now + 7)

    def named(self) -> dict[str, str]:
        """The job of each generation that has one, by the name of its row."""
        jobs = {row: json.loads(of) for row, (of, _) in self.rows.items() if row.endswith("-job")}
        return {row: job["id"] for row, job in jobs.items() if job["id"]}

    def accept(self, made: Made, after: float, unlisted: float) -> Generator[float]:
        """Replicate takes a create, whatever has become of who sent it."""
        yield after
        at, life = self.clock(), made.job.deadline
        deadline = at + (life - START) if life else None
        made.job = made.job.model_copy(update={"created_at": at, "deadline": deadline})
        made.listed = self.now + unlisted
        self.made[made.job.id] = made

    def cancel(self, job_id: str) -> None:
        assert job_id not in self.named().values(), "a job that counts is canceled"
        self.made[job_id].canceled = True


def prediction(job_id: str, *, life: int | None = None, hook: str | None = None) -> Prediction:
    deadline = START + timedelta(seconds=life) if life else None
    told: dict[str, Any] = {"model": "owner/name", "input": {"text": "hello"}, "webhook": hook}
    return Prediction(id=job_id, status="processing", deadline=deadline, **told)


@dataclass
class Attempt:
    """One run of a flow that makes one call, as `submit` does it."""

    world: World
    key: str
    name: str
    process: str
    life: int
    read_at: float = 0.0
    others: set[str] = field(default_factory=set)

    def run(self) -> Generator[float]:
        """The call, tried again by its task."""
        for _ in range(4):
            try:
                generation, job_id = yield from self.obtain()
            except (LedgerError, JobFateUnknown, Refused):
                yield self.world.luck.pick(1.0, 30.0)
                continue
            self.world.obtained.append((self.key, generation, job_id))
            if (yield from self.see_it_end(generation, job_id)):
                return

    def see_it_end(self, generation: int, job_id: str) -> Doing[bool]:
        yield self.world.luck.pick(10.0, 60.0)
        made = self.world.made[job_id]
        status = "canceled" if made.canceled else "failed" if made.fails else "succeeded"
        ended = end(status, retryable=status == "failed", attempt=self.name, by=self.process)
        with suppress(LedgerError):
            yield from self.write(ledger.name(self.key, generation, "end"), ended.model_dump_json())
        return status != "failed"

    def obtain(self) -> Doing[tuple[int, str]]:
        while True:
            written = yield from self.read(ledger.prefix(self.key))
            self.read_at = self.world.now
            generations = ledger.read({row: value for row, (value, _) in written.items()})
            self.others |= {each.job.id for each in generations if each.job and each.job.id}
            match ledger.next_step(generations, self.name, self.process):
                case ToWatch(generation, job_id, _):
                    return generation, job_id
                case Unwanted():
                    raise Refused
                case ToClaim(generation, number):
                    found = yield from self.create(generation, number)
                case ToLook(generation, number, claim):
                    row = ledger.name(self.key, generation, "c", number)
                    found = yield from self.find(generation, number, claim, written[row][1])
            if found:
                return generation, found

    def create(self, generation: int, number: int) -> Doing[str | None]:
        claimed = yield from self.claim(generation, number)
        if claimed is None:
            return None
        made = yield from self.post(generation, *claimed)
        if made is None:
            return None
        return (yield from self.keep(generation, made.job.id, claimed[1]))

    def claim(self, generation: int, number: int) -> Doing[tuple[int, Claim] | None]:
        while True:
            begun = self.world.now
            # A claim has a webhook or a life of its own, a generation at the least.
            webhook = f"https://example.com/pr-mail-{next(self.world.names)}"
            life = self.life + 6 * generation
            claim = CLAIM.model_copy(
                update={
                    "nonce": str(next(self.world.names)),
                    "webhook": webhook if self.world.hooked else None,
                    "life": None if self.world.hooked else life,
                    "wanted": WANTED,
                }
            )
            row = ledger.name(self.key, generation, "c", number)
            if not (yield from self.write(row, claim.model_dump_json())):
                stored = (yield from self.read(row)).get(row)
                if stored is None or Claim.model_validate_json(stored[0]).nonce != claim.nonce:
                    return None
            yield self.world.luck.pick(0.0, 0.0, 0.0, 11.0, 60.0)
            late = self.world.now - begun > MARGINS.send
            if not late and begun - self.read_at <= 1:
                return number, claim
            recorded = yield from self.recorded(generation)
            if not late and recorded is None and self.world.now - begun <= MARGINS.send:
                return number, claim
            yield from self.void(generation, number)
            if recorded:
                return None
            number += 1

    def post(self, generation: int, number: int, claim: Claim) -> Doing[Made | None]:
        luck, world = self.world.luck, self.world
        yield luck.pick(0.0, 0.0, 200.0) if world.late else 0.0
        self.may_post(generation, number, claim)
        fate = luck.pick("answered", "answered", "lost", "late", "never", "refused")
        if fate == "refused":
            yield from self.void(generation, number)
            raise Refused
        if fate != "never":
            made = Made(
                prediction(f"j{next(world.names)}", life=claim.life, hook=claim.webhook),
                (self.key, generation),
                listed=0.0,
                fails=luck.fails(one_in=3),
            )
            beyond = 90.0 if world.late else 0.0
            takes = luck.pick(0.1, 5.0, 29.0)
            if fate == "late":
                takes = MARGINS.answer + luck.pick(0.1, MARGINS.accept - 0.1, 14.0 + beyond)
            lag = luck.pick(0.0, 1.0, MARGINS.list - 0.1, 29.0 + beyond)
            world.begin(world.accept(made, takes, lag))
            if fate == "answered":
                yield takes + 0.5
                return made
        yield MARGINS.answer
        return None

    def may_post(self, generation: int, number: int, claim: Claim) -> None:
        """One create a claim, of its own, and after all before it have certainly made nothing."""
        row = ledger.name(self.key, generation, "c", number)
        assert Claim.model_validate_json(self.world.rows[row][0]).nonce == claim.nonce
        assert (self.key, generation, number) not in self.world.posted
        assert all((self.key, generation, n) in self.world.closed for n in range(1, number))
        self.world.posted.add((self.key, generation, number))

    def find(self, generation: int, number: int, claim: Claim, written: float) -> Doing[str | None]:
        began = self.world.now
        while True:
            age = max(self.world.now - began, int(self.world.now) - written - 2)
            found = yield from self.look(claim, age)
            # What several calls may have proves nothing until all that may have it is listed.
            told = not self.world.alike or age > MARGINS.quarantine
            if found and found.mine and told:
                mine = found.mine.id
                kept = yield from self.keep(generation, mine, claim, "adopted")
                if kept or mine not in self.others:
                    return kept
                continue
            if age > MARGINS.quarantine:
                if found is None or found.possible:
                    raise JobFateUnknown("?")
                self.world.closed.add((self.key, generation, number))
                return (yield from self.create(generation, number + 1))
            yield min(10.0, max(0.1, MARGINS.quarantine - age))

    def look(self, claim: Claim, age: float) -> Doing[orphans.Found | None]:
        yield self.world.luck.pick(0.1, 5.0)
        since = self.world.clock() - timedelta(seconds=age + 120)
        listed = [made.job for made in self.world.made.values() if made.listed <= self.world.now]
        yield self.world.luck.pick(0.1, 0.1, 10.0)
        if self.world.luck.fails(one_in=4):
            return None
        return orphans.sort(claim, listed[::-1], since, self.others)

    def keep(
        self, generation: int, job_id: str, claim: Claim, how: str = "created"
    ) -> Doing[str | None]:
        """Hold a job that nothing proves, record it, and cancel it if another counts."""
        row = ledger.name(self.key, generation, "job")
        value = Named(id=job_id, how=how, attempt=self.name).model_dump_json()
        while True:
            try:
                if not claim.webhook and not (yield from self.hold(job_id)):
                    self.others.add(job_id)
                    return None
                if (yield from self.write(row, value)):
                    self.may_have(generation, job_id)
                    return job_id
                stored = yield from self.recorded(generation)
            except LedgerError:
                yield 1.0
                continue
            if stored is None or stored.id != job_id:
                self.world.cancel(job_id)
                return None
            return job_id

    def may_have(self, generation: int, job_id: str) -> None:
        by = self.world.made[job_id].by
        assert by, "somebody else's job is adopted"
        if self.world.hooked:
            assert by == (self.key, generation), "the job of another call is adopted"

    def hold(self, job_id: str) -> Doing[bool]:
        row, mine = ledger.held(job_id), json.dumps([self.key])
        if (yield from self.write(row, mine)):
            return True
        return (yield from self.read(row))[row][0] == mine

    def void(self, generation: int, number: int) -> Doing[None]:
        self.world.closed.add((self.key, generation, number))
        row = ledger.name(self.key, generation, "v", number)
        with suppress(LedgerError):
            yield from self.write(row, VOID.model_dump_json())

    def recorded(self, generation: int) -> Doing[Named | None]:
        row = ledger.name(self.key, generation, "job")
        stored = (yield from self.read(row)).get(row)
        return Named.model_validate_json(stored[0]) if stored else None

    def read(self, prefix: str) -> Doing[dict[str, tuple[str, float]]]:
        yield self.world.luck.pick(0.1, 0.1, 3.0)
        found = {row: of for row, of in self.world.rows.items() if row.startswith(prefix)}
        yield self.world.luck.pick(0.1, 0.1, 3.0)
        if self.world.luck.fails(one_in=10):
            raise LedgerError
        return found

    def write(self, row: str, value: str) -> Doing[bool]:
        """Whether it is new. Prefect's client sends again what got no answer."""
        fate = self.world.luck.pick(*["answered"] * 5, "sent twice", "lost", "never")
        yield self.world.luck.pick(0.1, 0.1, 3.0)
        new = row not in self.world.rows and fate != "never"
        if new:
            self.world.rows[row] = (value, self.world.now)
        yield self.world.luck.pick(0.1, 0.1, 3.0)
        if fate in {"lost", "never"}:
            raise LedgerError
        return new and fate != "sent twice"


def living(world: World, key: str, life: int, number: int = 1) -> Generator[float]:
    """A flow run: an attempt that may be killed at any step, or be run beside another."""
    luck = world.luck
    process = luck.pick(f"process {number}", "process 1")
    attempt = Attempt(world, key, f"attempt {number}", process, life)
    killed = luck.pick(*[0] * 20, *range(1, 61))
    again = living(world, key, life, number + 1) if number < 3 else None
    beside = luck.pick(None, None, None, 5.0, 40.0, 90.0)
    if again and beside:
        world.begin(again, beside)
    for steps, wait in enumerate(attempt.run(), 1):
        yield wait
        if steps == killed:
            break
    if again and not beside:
        world.begin(again, luck.pick(0.5, 30.0, 100.0))


def canceled_by_hand(world: World, key: str) -> Generator[float]:
    yield world.luck.pick(3.0, 30.0, 60.0, 100.0)
    by_hand = Named(id=None, how="canceled", attempt="attempt 1").model_dump_json()
    world.rows.setdefault(ledger.name(key, 1, "job"), (by_hand, world.now))


def foreign(world: World, life: int) -> Generator[float]:
    """The same input from somebody else: before, or meanwhile."""
    yield world.luck.pick(0.0, 40.0)
    job = prediction(f"foreign{next(world.names)}")
    hook = world.luck.pick(None, "https://example.org")
    longer = START + timedelta(seconds=life + world.luck.pick(30, 600))
    told = {"webhook": hook, "deadline": world.luck.pick(None, longer)}
    world.begin(world.accept(Made(job.model_copy(update=told), None, 0.0), 0.0, 0.0))


def walked(told: bytes, *, hooked: bool, late: bool = False, apart: int = 3) -> World:
    """A world in which everybody is done; two calls' lives are so many seconds apart."""
    world = World(Luck(told), hooked, late, alike=apart == 0)
    for at, key in enumerate((KEY, OTHER_KEY)[: world.luck.pick(1, 2)]):
        life = SHORTEST_LIFE + at * apart
        world.begin(living(world, key, life))
        if world.luck.fails(one_in=4):
            world.begin(canceled_by_hand(world, key))
    if world.luck.fails(one_in=3):
        world.begin(foreign(world, SHORTEST_LIFE))
    world.go_on()
    return world


def one_job_counts(world: World) -> None:
    """Whoever obtained a job of a generation obtained the one that is written, and of no other."""
    named = world.named()
    for key, generation, job_id in world.obtained:
        assert named[ledger.name(key, generation, "job")] == job_id
    assert len(set(named.values())) == len(named)


def made_for(world: World) -> Counter[tuple[str, int]]:
    return Counter(made.by for made in world.made.values() if made.by)


def the_last_try(world: World, key: str, life: int = SHORTEST_LIFE) -> bool:
    """Whether a flow run in which nothing goes wrong any more gets a job."""
    world.luck = Luck(b"")
    world.obtained.clear()
    world.begin(Attempt(world, key, "last", "last", life).run())
    world.go_on()
    return bool(world.obtained)


misfortunes = st.binary(min_size=250, max_size=250)
walks = settings(derandomize=True, database=None, deadline=None, max_examples=400)


@pytest.mark.parametrize("hooked", [True, False])
def test_where_nothing_goes_wrong_there_is_one_job(hooked: bool) -> None:
    world = walked(b"", hooked=hooked)
    assert {(key, generation) for key, generation, _ in world.obtained} == {(KEY, 1)}
    assert made_for(world) == {(KEY, 1): 1}


class EveryWriteTwice(Luck):
    """Prefect's first answer to every write is lost, and its client sends it again."""

    def pick(self, *options: T) -> T:
        return next((each for each in options if each == "sent twice"), options[0])


@pytest.mark.parametrize("hooked", [True, False])
def test_a_row_that_is_refused_since_it_is_ones_own_costs_neither_time_nor_job(
    hooked: bool,
) -> None:
    world = World(EveryWriteTwice(b""), hooked)
    world.begin(Attempt(world, KEY, "one", "one", SHORTEST_LIFE).run())
    world.go_on()
    assert len(world.obtained) == 1
    assert made_for(world) == {(KEY, 1): 1}
    assert not any(made.canceled for made in world.made.values())
    assert world.now < MARGINS.quarantine / 2


@pytest.mark.parametrize("hooked", [True, False])
@walks
@given(misfortunes)
def test_whatever_goes_wrong_a_call_makes_one_job_and_gets_it(hooked: bool, told: bytes) -> None:
    world = walked(told, hooked=hooked)
    one_job_counts(world)
    assert all(count == 1 for count in made_for(world).values())
    # Somebody else's look-alike may keep it from being known.
    if all(made.by for made in world.made.values()):
        assert the_last_try(world, KEY), "the call stays without a job"
        one_job_counts(world)


@walks
@given(misfortunes)
def test_calls_that_cannot_be_told_apart_share_no_job_and_make_none_too_many(told: bytes) -> None:
    world = walked(told, hooked=False, apart=0)
    one_job_counts(world)
    claimed = {tuple(row.split("-")[1:3]) for row in world.rows if "-c01" in row}
    assert made_for(world).total() <= len(claimed)


@pytest.mark.parametrize("hooked", [True, False])
@walks
@given(misfortunes)
def test_beyond_all_margins_still_one_job_counts_and_is_never_canceled(
    hooked: bool, told: bytes
) -> None:
    one_job_counts(walked(told, hooked=hooked, late=True))
