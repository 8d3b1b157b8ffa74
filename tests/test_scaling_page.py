"""The SQL in docs/scaling.md is run as an operator would, and runs go on afterwards."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from flowroute import Continuation, Engine, Flow, done, step

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
BLOCKS = re.findall(
    r"^```sql\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)
SETTINGS, THRESHOLDS, PARTITIONS, UNFINISHED = BLOCKS


class Kept(Flow, name="scaling_page.Kept"):
    """Three checkpoints."""

    @step(start=True)
    def one(self) -> Continuation[str]:
        return self.two()

    @step
    def two(self) -> Continuation[str]:
        return done("kept")


@pytest.fixture
def engine(postgres_url: str) -> Engine:
    engine = Engine(
        postgres_url,
        executor="inline",
        secret_keys=["a secret key of the tests"],
        retention=timedelta(0),
    )
    engine.create_all()
    return engine


def execute(engine: Engine, text: str) -> None:
    with engine.database.engine.begin() as connection:
        script = re.sub(r"--.*|\b(BEGIN|COMMIT);", "", text)
        for statement in filter(str.strip, script.split(";")):
            connection.exec_driver_sql(statement)


def scalar(engine: Engine, query: str) -> int:
    with engine.database.engine.connect() as connection:
        return int(connection.exec_driver_sql(query).scalar_one())


@pytest.mark.postgres
def test_runs_go_on_with_partitioned_checkpoints_and_retention_deletes_them(engine: Engine) -> None:
    with engine:
        before = engine.start(Kept().one())
        execute(engine, PARTITIONS)
        after = engine.start(Kept().one())
        for run in (before, after):
            assert run.result == "kept"
            assert [each.seq for each in run.checkpoints] == [0, 1, 2]
        assert scalar(engine, "SELECT count(*) FROM flowroute_checkpoint") == 6
        assert engine.recover().deleted == 2
        assert scalar(engine, "SELECT count(*) FROM flowroute_checkpoint") == 0


@pytest.mark.postgres
def test_a_run_lies_in_the_partition_of_the_month_in_which_it_started(engine: Engine) -> None:
    with engine:
        execute(engine, PARTITIONS)
        rest = "SELECT count(*) FROM ONLY flowroute_checkpoint_rest"
        month = "SELECT count(*) FROM ONLY flowroute_checkpoint_2026_11"
        engine.start(Kept().one())
        begin, end = (_id_of(datetime(2026, each, 1, tzinfo=UTC)) for each in (11, 12))
        assert begin in PARTITIONS
        assert end in PARTITIONS
        inside = (
            datetime(2026, 11, 1, tzinfo=UTC)
            <= datetime.now(UTC)
            < datetime(2026, 12, 1, tzinfo=UTC)
        )
        assert (scalar(engine, month), scalar(engine, rest)) == ((3, 0) if inside else (0, 3))


@pytest.mark.postgres
def test_the_settings_and_the_query_for_unfinished_runs_are_sql_that_works(engine: Engine) -> None:
    with engine:
        execute(engine, SETTINGS + THRESHOLDS)
        engine.start(Kept().one())
        assert scalar(engine, UNFINISHED) == 0


def _id_of(instant: datetime) -> str:
    digits = f"{int(instant.timestamp() * 1000):012x}"
    return str(sa.Uuid().python_type(f"{digits}{'0' * 20}"))
