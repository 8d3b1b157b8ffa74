"""A small part of the campaign of mutants, and that it would notice a codec that is careless."""

from __future__ import annotations

import contextlib
import io

import pytest

from flowroute.engine.signing import Signatures
from tests.engine.conftest import make_tables
from tests.faults import mutants
from tests.faults.watch import STOCK


def test_no_mutant_of_a_genuine_checkpoint_reaches_the_unpickler(database_url: str) -> None:
    make_tables(database_url)
    report = mutants.campaign(database_url, seed=20, mutants=4_000, processes=1)
    assert report.clean, report.broken
    assert report.points == 4_000
    assert report.notes["unpickler_reached"] == 0
    assert set(report.notes["mutants"]) == {"stored", *(m.__name__ for m in mutants.MUTATIONS)}


def test_the_campaign_notices_a_codec_that_verifies_nothing(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tables(sqlite_url)
    monkeypatch.setattr(Signatures, "verify", lambda *_: True)
    report = mutants.campaign(sqlite_url, seed=20, mutants=300, processes=1)
    assert not report.clean
    assert report.notes["unpickler_reached"] > 100


def test_the_campaign_notices_a_codec_that_verifies_after_it_has_read(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tables(sqlite_url)
    genuine = Signatures.verify

    def read_first(self: Signatures, mac: bytes, place: bytes, content: bytes) -> bool:
        with contextlib.suppress(Exception):
            STOCK(io.BytesIO(content)).load()
        return genuine(self, mac, place, content)

    monkeypatch.setattr(Signatures, "verify", read_first)
    report = mutants.campaign(sqlite_url, seed=20, mutants=300, processes=1)
    assert not report.clean
    assert report.notes["unpickler_reached"] > 100
