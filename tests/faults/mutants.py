"""Bytes that are not our own: mutants of genuine checkpoints, none of which may be unpickled.

Each mutant goes to `Codec.decode` as the dispatcher would give it there, in a process that is under
`tests.faults.watch`; every genuine value holds a canary.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flowroute import Continuation, Engine, Flow, done, worker_step
from flowroute.engine.codec import HEAD_SIZE, PYTHON_TAG, STREAM_AT, Codec, place_of
from flowroute.engine.identity import new_run_id
from flowroute.errors import CheckpointTampered
from tests.engine.support import Base, Note, Shelf, payload, set_payload
from tests.faults.report import Report
from tests.faults.watch import STOCK, Canary, Watch, watching

KEYS: Final = ["the newest key of the mutants", "an older key that still verifies"]
RETIRED: Final = "a key that was retired"
SHARDS: Final = 8
"""Parts of a campaign, each with a seed of its own, so that processes can share the work."""
THROUGH_A_DATABASE: Final = 200
"""Mutants that are also stored, and met by an engine."""


# -- what is genuine -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes, and the place where they are found."""

    payload: bytes
    run_id: str
    seq: int
    python: str = PYTHON_TAG

    @property
    def parts(self) -> tuple[bytes, bytes, bytes]:
        """Head, MAC and stream."""
        return self.payload[:HEAD_SIZE], self.payload[HEAD_SIZE:STREAM_AT], self.payload[STREAM_AT:]


@dataclass(frozen=True)
class Corpus:
    """Genuine checkpoints of a few runs."""

    codec: Codec
    session: Session
    genuine: Sequence[Stored]
    retired: Sequence[Stored]
    """At the same places, signed with a key that no longer verifies."""
    places: frozenset[Stored] = field(default_factory=frozenset[Stored])
    """What must verify, and so is no mutant."""


def a_value(rng: random.Random, session: Session) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A value of a checkpoint: most are plain, some hold rows, some hold code."""
    arguments: dict[str, Any] = {
        "canary": Canary(),
        "order": {"total": Decimal("149.90"), "at": datetime(2026, 11, 23, tzinfo=UTC)},
        "lines": [{"sku": f"A-{n}", "price": rng.random()} for n in range(rng.randrange(12))],
        "text": rng.randbytes(rng.choice((0, 7, 90, 700))),
    }
    kind = rng.random()
    if kind < 0.2:
        arguments["row"] = session.get_one(Note, 1)
    elif kind < 0.4:
        arguments["code"] = lambda: 42
    return "charge", {"customer_id": rng.randrange(10**6)}, arguments


def make_corpus(rng: random.Random, session: Session) -> Corpus:
    """Checkpoints 0 to 4 of eight runs, some of them signed with the older key."""
    newest, older, retired = Codec(KEYS), Codec(KEYS[1:]), Codec([RETIRED])
    genuine: list[Stored] = []
    gone: list[Stored] = []
    for _ in range(8):
        run_id = new_run_id()
        for seq in range(5):
            value = a_value(rng, session)
            for codec, into in ((rng.choice((newest, older)), genuine), (retired, gone)):
                content = codec.encode(value, run_id=run_id, seq=seq, session=lambda: session)
                into.append(Stored(content, run_id, seq))
    return Corpus(newest, session, genuine, gone, frozenset(genuine))


# -- mutations -------------------------------------------------------------------------------------

Mutation: TypeAlias = Callable[[random.Random, Corpus, Stored], Stored]


def flip(rng: random.Random, _corpus: Corpus, one: Stored) -> Stored:
    """One to eight bits, anywhere."""
    content = bytearray(one.payload)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return replace(one, payload=bytes(content))


def truncate(rng: random.Random, _corpus: Corpus, one: Stored) -> Stored:
    """Less at either end, or nothing at all."""
    at = rng.randrange(len(one.payload))
    content = one.payload[:at] if rng.random() < 0.7 else one.payload[at + 1 :]
    return replace(one, payload=content)


def extend(rng: random.Random, corpus: Corpus, one: Stored) -> Stored:
    """More at either end or in the middle: noise, a whole pickle, its own bytes again."""
    more = rng.choice(
        (
            rng.randbytes(rng.randint(1, 40)),
            pickle.dumps(Canary()),
            one.payload,
            rng.choice(corpus.genuine).payload,
        )
    )
    at = rng.choice((0, HEAD_SIZE, STREAM_AT, len(one.payload), rng.randrange(len(one.payload))))
    return replace(one, payload=one.payload[:at] + more + one.payload[at:])


def other_run(rng: random.Random, corpus: Corpus, one: Stored) -> Stored:
    """The genuine bytes of another run, at the same number or another."""
    others = [each for each in corpus.genuine if each.run_id != one.run_id]
    same = [each for each in others if each.seq == one.seq]
    return replace(one, payload=rng.choice(same if rng.random() < 0.5 else others).payload)


def other_seq(rng: random.Random, corpus: Corpus, one: Stored) -> Stored:
    """Other genuine bytes of the same run, or the place of a number that never was."""
    if rng.random() < 0.3:
        return replace(one, seq=one.seq + rng.choice((-10, 10, 100, 2**31)) + rng.randrange(5))
    run = [each for each in corpus.genuine if each.run_id == one.run_id and each.seq != one.seq]
    return replace(one, payload=rng.choice(run).payload)


def retired_key(rng: random.Random, corpus: Corpus, one: Stored) -> Stored:
    """Genuine bytes of this very place, but for the key: retired, guessed, or empty."""
    if rng.random() < 0.5:
        at = corpus.genuine.index(one)
        return corpus.retired[at]
    head, _, stream = one.parts
    guess = Codec([rng.randbytes(rng.randint(1, 40))])
    place = place_of(head, one.run_id, one.seq, one.python)
    return replace(one, payload=head + guess.mac(place, stream) + stream)


def header(rng: random.Random, corpus: Corpus, one: Stored) -> Stored:
    """Header fields swapped: each of head, MAC and stream may be another checkpoint's."""
    head, mac, stream = one.parts
    other = rng.choice(corpus.genuine).parts
    kind = rng.randrange(6)
    if kind == 0:
        head = bytes((head[1], head[0]))
    elif kind == 1:
        head = bytes((rng.randrange(256), rng.randrange(256)))
    elif kind == 2:
        mac = rng.choice((other[1], bytes(32), mac[16:] + mac[:16], mac[::-1]))
    elif kind == 3:
        head, stream = other[0], other[2]
    elif kind == 4:
        return replace(one, python=rng.choice(("", "cp27", "cp399", "pp311", PYTHON_TAG + "0")))
    else:  # the fields of the place, spelt so that they read the same in a row
        return replace(one, run_id=one.run_id[:-1], python=one.run_id[-1] + one.python)
    return replace(one, payload=head + mac + stream)


def splice(rng: random.Random, corpus: Corpus, one: Stored) -> Stored:
    """Parts of two genuine ones, cut anywhere."""
    other = rng.choice(corpus.genuine)
    at, other_at = rng.randrange(len(one.payload)), rng.randrange(len(other.payload))
    return replace(one, payload=one.payload[:at] + other.payload[other_at:])


def hostile(rng: random.Random, corpus: Corpus, one: Stored) -> Stored:
    """A stream of an attacker's, under a genuine head and MAC or none."""
    head, mac, _ = one.parts
    token = corpus.codec.sign(one.run_id, "rq job").rpartition(".")[2].encode()
    mac = rng.choice((mac, b"", bytes(32), token[:32], rng.randbytes(32)))
    stream = pickle.dumps(("charge", {}, {"canary": Canary()}), rng.randrange(6))
    return replace(one, payload=rng.choice((head, b"", b"\x01\x00")) + mac + stream)


MUTATIONS: Final[tuple[Mutation, ...]] = (
    *(flip, truncate, extend, other_run, other_seq, retired_key, header, splice, hostile),
)


# -- the trial -------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of the mutants."""

    tried: Counter[str] = field(default_factory=Counter[str])
    broken: list[str] = field(default_factory=list[str])
    reached: int = 0
    controls: int = 0
    """Genuine payloads that were read, and that the watch noticed."""


def decode(corpus: Corpus, stored: Stored) -> Any:
    """Read as the dispatcher does."""
    return corpus.codec.decode(
        stored.payload,
        run_id=stored.run_id,
        seq=stored.seq,
        python=stored.python,
        session=lambda: corpus.session,
    )


def try_mutant(corpus: Corpus, stored: Stored, watch: Watch, what: str, tally: Tally) -> None:
    """A mutant is refused as tampered with, and nobody on the watch noticed anything."""
    before = watch.reached
    outcome = "was read"
    try:
        decode(corpus, stored)
    except CheckpointTampered:
        outcome = ""
    except Exception as error:  # noqa: BLE001  # told with what repeats it
        outcome = f"raised {type(error).__name__}: {error}"
    if watch.reached != before:
        tally.reached += 1
        outcome += " and reached the unpickler"
    if outcome:
        tally.broken.append(f"{what} {outcome}: {stored}")


def try_controls(corpus: Corpus, watch: Watch, tally: Tally) -> None:
    """Genuine payloads are read, and the watchmen notice: else there is no watch."""
    for one in corpus.genuine:
        before = replace(watch)
        decode(corpus, one)
        tally.controls += watch.doors > before.doors and watch.songs > before.songs
    if tally.controls != len(corpus.genuine):
        tally.broken.append(f"the watch noticed {tally.controls} of {len(corpus.genuine)} readings")
    before = replace(watch)
    pickle._loads(pickle.dumps(Canary()))  # type: ignore[attr-defined]  # noqa: SLF001  # a door without a watchman
    if watch.songs == before.songs or watch.doors != before.doors:
        tally.broken.append("the canary did not sing")
    STOCK(io.BytesIO(pickle.dumps(Canary()))).load()
    if watch.classes == before.classes:
        tally.broken.append("nobody hears of the names that an unpickler looks up")


def try_shard(seed: str, mutants: int) -> Tally:
    """A part of a campaign: as many mutants, from a corpus of its own."""
    rng = random.Random(seed)  # noqa: S311  # to be repeatable
    bind = sa.create_engine("sqlite://")
    Base.metadata.create_all(bind)
    tally = Tally()
    with Session(bind) as session, watching() as watch:
        session.add(Note(id=1, text="of a corpus"))
        session.commit()
        corpus = make_corpus(rng, session)
        try_controls(corpus, watch, tally)
        while tally.tried.total() < mutants:
            mutation = rng.choice(MUTATIONS)
            mutant = mutation(rng, corpus, rng.choice(corpus.genuine))
            if mutant in corpus.places:
                continue  # two flips of one bit, or the same bytes chosen again
            tally.tried[mutation.__name__] += 1
            try_mutant(corpus, mutant, watch, f"{mutation.__name__} of shard {seed}", tally)
    bind.dispose()
    return tally


# -- through a database ----------------------------------------------------------------------------


class Mutated(Flow):
    """A run whose bookmark is exchanged while it waits for a worker."""

    @worker_step(start=True)
    def work(self, canary: Any) -> Continuation[bool]:
        return done(isinstance(canary, Canary))


def try_stored(url: str, rng: random.Random, count: int, tally: Tally) -> None:
    """Mutants in the database block their runs, stay as they are, and the genuine bytes heal."""
    with Engine(url, executor=Shelf(), secret_keys=KEYS) as engine, watching() as watch:
        runs = [engine.start(Mutated().work(Canary())) for _ in range(count)]
        genuine = [Stored(payload(engine, run), run.id, 0) for run in runs]
        with Session(engine.database.engine) as session:
            corpus = Corpus(engine.codec, session, genuine, genuine)
            mutations = [each for each in MUTATIONS if each not in (retired_key, other_seq)]
            for number, run in enumerate(runs):
                mutation = mutations[number % len(mutations)]
                mutant = mutation(rng, corpus, genuine[number])
                if mutant.payload == genuine[number].payload:
                    mutant = flip(rng, corpus, genuine[number])
                    if mutant.payload == genuine[number].payload:
                        continue
                set_payload(engine, run, mutant.payload)
                before = watch.reached
                engine.advance(run.id, 0)
                tally.tried["stored"] += 1
                error = run.error
                if watch.reached != before:
                    tally.reached += 1
                    tally.broken.append(f"{mutation.__name__} in the database was unpickled")
                if run.state != "blocked" or error is None or error.type != "CheckpointTampered":
                    tally.broken.append(f"{mutation.__name__}: {run.id} is {run.state}: {error}")
                if payload(engine, run) != mutant.payload:
                    tally.broken.append(f"{mutation.__name__}: the bytes of {run.id} were changed")
                set_payload(engine, run, genuine[number].payload)
                if run.state == "blocked":
                    run.retry()
                engine.advance(run.id, 0)
                if run.state != "done" or run.result is not True:
                    tally.broken.append(f"{run.id} did not go on with its genuine bytes")


# -- the campaign ----------------------------------------------------------------------------------


def campaign(
    database: str, *, seed: int, mutants: int = 1_000_000, processes: int | None = None
) -> Report:
    """Try mutants, most of them at the codec and some through a database.

    Args:
        database: URL of a database with flowroute's tables.
        seed: repeats the campaign.
        mutants: how many.
        processes: how many processes share the work; None: one for each processor.

    Returns:
        The report; a mutant that was read, or that reached an unpickler, is among `broken`.
    """
    report = Report("mutants", sa.make_url(database).get_backend_name(), seed)
    began = time.monotonic()
    stored = min(THROUGH_A_DATABASE, mutants // 100)
    shards = SHARDS if mutants >= 100_000 else 1
    sizes = [(mutants - stored + shard) // shards for shard in range(shards)]
    seeds = [f"{seed}/{shard}" for shard in range(shards)]
    processes = min(shards, processes or os.cpu_count() or 1)
    if processes == 1:
        tallies = [try_shard(*each) for each in zip(seeds, sizes, strict=True)]
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
            tallies = list(pool.map(try_shard, seeds, sizes))
    through = Tally()
    try_stored(database, random.Random(seed), stored, through)  # noqa: S311  # to be repeatable
    kinds: Counter[str] = Counter()
    for tally in (*tallies, through):
        kinds += tally.tried
        report.broken += tally.broken
    report.points = report.injected = kinds.total()
    report.notes = {
        "mutants": dict(sorted(kinds.items())),
        "unpickler_reached": sum(tally.reached for tally in (*tallies, through)),
        "genuine_read": sum(tally.controls for tally in tallies),
        "seconds": round(time.monotonic() - began, 1),
    }
    return report
