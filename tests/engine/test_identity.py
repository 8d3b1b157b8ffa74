"""Names of runs: UUIDs in the order of time that nobody can guess; names of processes."""

from __future__ import annotations

import os
import socket
import time
from itertools import pairwise
from uuid import UUID

import pytest

from flowroute.engine.identity import is_run_id, new_run_id, process_name

MANY = 5_000


@pytest.fixture(scope="module")
def ids() -> list[str]:
    """Many run ids, made one after the other."""
    return [new_run_id() for _ in range(MANY)]


def test_a_run_id_is_a_uuid_of_version_7(ids: list[str]) -> None:
    for text in ids:
        uuid = UUID(text)
        assert uuid.version == 7
        assert uuid.variant == "specified in RFC 4122"
        assert str(uuid) == text


def test_a_run_id_opens_with_the_milliseconds_since_1970() -> None:
    before = time.time_ns() // 1_000_000
    milliseconds = UUID(new_run_id()).int >> 80
    assert before <= milliseconds <= time.time_ns() // 1_000_000


def test_later_run_ids_sort_after_earlier_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_700_000_000_000_000_000]
    monkeypatch.setattr(time, "time_ns", lambda: now[0])
    ordered = []
    for _ in range(200):
        ordered.append(new_run_id())
        now[0] += 1_000_000
    assert all(earlier < later for earlier, later in pairwise(ordered))


def test_no_two_run_ids_are_the_same(ids: list[str]) -> None:
    assert len(set(ids)) == MANY


def test_every_other_bit_of_a_run_id_is_random(ids: list[str]) -> None:
    # 62 bits behind the variant and 12 behind the version: each is set in about half of them.
    random_bits = [bit for bit in range(76) if bit not in (62, 63)]
    assert len(random_bits) == 74
    numbers = [UUID(text).int for text in ids]
    for bit in random_bits:
        share = sum(number >> bit & 1 for number in numbers) / MANY
        assert 0.45 < share < 0.55, f"bit {bit} is set in {share:.0%}"


def test_the_random_bits_are_the_operating_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    monkeypatch.setattr(os, "urandom", lambda size: b"\xff" * size)
    assert new_run_id() == "00000000-0000-7fff-bfff-ffffffffffff"
    monkeypatch.setattr(os, "urandom", lambda size: b"\x00" * size)
    assert new_run_id() == "00000000-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "not-a-uuid",
        "00000000-0000-7000-8000-00000000000",
        "00000000-0000-7000-8000-0000000000000",
        "00000000-0000-7000-8000-00000000000g",
        "00000000000070008000000000000000",
        "{00000000-0000-7000-8000-000000000000}",
        "0000000A-0000-7000-8000-000000000000",
        "00000000-0000-7000-8000-00000000000\x00",
        "00000000-0000-7000-8000-000000000000\n",
        "' OR 1=1 --",
    ],
)
def test_only_the_one_spelling_of_a_uuid_can_be_a_run_id(text: str) -> None:
    assert not is_run_id(text)


def test_a_fresh_run_id_is_one(ids: list[str]) -> None:
    assert all(is_run_id(text) for text in ids)


def test_a_process_is_named_by_its_host_and_its_number() -> None:
    assert process_name() == f"{socket.gethostname()}:{os.getpid()}"
