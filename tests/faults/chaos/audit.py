"""The tables after the faults: what is lost, doubled or stuck."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from flowroute.engine.schema import DONE, FINISHED, checkpoint_table, run_table
from tests.faults.chaos.flows import EFFECTS, Effect

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.faults.chaos.load import Accepted
    from tests.faults.report import Report

effect_table: Final = sa.inspect(Effect).local_table


def unfinished(engine: sa.Engine) -> set[str]:
    """The runs that are at no end."""
    open_ones = sa.select(run_table.c.id).where(run_table.c.state.not_in(FINISHED))
    with engine.connect() as connection:
        return set(connection.execute(open_ones).scalars())


def audit(engine: sa.Engine, accepted: Iterable[Accepted], report: Report) -> None:
    """Count the damage into a report."""
    with engine.connect() as connection:
        runs = {row.id: row for row in connection.execute(sa.select(run_table))}
        effects: dict[str, list[tuple[int, str]]] = defaultdict(list)
        columns = effect_table.c
        for run_id, seq, name in connection.execute(
            sa.select(columns.run_id, columns.seq, columns.step)
        ):
            effects[run_id].append((seq, name))
        checkpoints: dict[str, list[int]] = defaultdict(list)
        columns = checkpoint_table.c
        for run_id, seq in connection.execute(sa.select(columns.run_id, columns.seq)):
            checkpoints[run_id].append(seq)
    report.notes["runs"] = len(runs)
    report.notes["effects"] = sum(len(each) for each in effects.values())
    report.notes["states"] = dict(Counter(row.state for row in runs.values()))
    for start in accepted:
        if start.run_id not in runs:
            report.lost.append(f"run {start.run_id} of {start.shape}: accepted, and not there")
    for orphan in effects.keys() - runs.keys():
        report.broken.append(f"run {orphan}: effects, and no run")
    keys = Counter((row.flow, row.key) for row in runs.values() if row.key is not None)
    report.doubled += [f"key {key}: {count} runs" for key, count in keys.items() if count > 1]
    called = Counter((row.parent_id, row.parent_seq) for row in runs.values() if row.parent_id)
    report.doubled += [
        f"run {parent} called {count} sub-flows at seq {seq}"
        for (parent, seq), count in called.items()
        if count > 1
    ]
    report.lost += [
        f"run {row.id} called a sub-flow that is not there"
        for row in runs.values()
        if row.flow == "CallsMiddle" and row.seq > 0 and (row.id, 1) not in called
    ]
    for run_id, row in runs.items():
        _check(row, sorted(effects[run_id]), sorted(checkpoints[run_id]), report)


def _check(
    row: sa.Row[Any],
    effects: Sequence[tuple[int, str]],
    checkpoints: Sequence[int],
    report: Report,
) -> None:
    """Compare one run with what it left."""
    where = f"run {row.id} of {row.flow}, {row.state} at seq {row.seq}"
    if list(checkpoints) != list(range(row.seq + 1)):
        report.lost.append(f"{where}: checkpoints {checkpoints}")
    doubles = [each for each, count in Counter(effects).items() if count > 1]
    report.doubled += [f"{where}: effect {each} more than once" for each in doubles]
    # The step at each checkpoint that was left behind has had its effect, and no other has.
    expected = list(enumerate(EFFECTS[row.flow]))
    passed = expected[: row.seq]
    report.lost += [f"{where}: no effect {each}" for each in passed if each not in effects]
    report.broken += [
        f"{where}: effect {each} without its checkpoint" for each in effects if each not in passed
    ]
    if row.state == DONE and row.seq != len(expected):
        report.lost.append(f"{where}: done before its end")
    if row.state == "failed":
        report.broken.append(f"{where}: {row.error}")
    if row.state not in FINISHED:
        report.stuck.append(f"{where}, waits for {row.waiting_for}, attempt {row.attempt}")
