"""The locks are checked against pyproject.toml, and for what only one machine knows."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text()
LOCK = "".join((ROOT / name).read_text() for name in ("requirements.lock", "bench.lock"))


class LockTool(Protocol):
    """tools/lock.py, which is a script and no part of a package."""

    faults: Callable[[str, str], list[str]]


@pytest.fixture(scope="module")
def tool() -> LockTool:
    """Return the script, loaded as a module."""
    spec = importlib.util.spec_from_file_location("lock", ROOT / "tools" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast("LockTool", module)


def test_the_committed_lock_is_in_step(tool: LockTool) -> None:
    assert tool.faults(PYPROJECT, LOCK) == []


def test_every_package_is_pinned_with_its_hashes() -> None:
    blocks = LOCK.split("\n    # via")[0:-1]
    assert len(blocks) > 50
    assert all("==" in block and "--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('"dill>=0.4"', '"dill>=99"', "it was made from other requirements"),
        ('"dill>=0.4"', '"dill>=99"', "which is not dill>=99"),
        ('"dill>=0.4"', '"not-locked>=1"', "it does not pin not-locked"),
        ('requires-python = ">=3.11"', 'requires-python = ">=3.12"', "other requirements"),
        ('"mypy>=', '"not-locked", "mypy>=', "it does not pin not-locked"),
    ],
)
def test_a_changed_requirement_needs_a_new_lock(
    tool: LockTool, old: str, new: str, fault: str
) -> None:
    assert old in PYPROJECT
    assert fault in "\n".join(tool.faults(PYPROJECT.replace(old, new), LOCK))


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://packages.example/simple",
        "--extra-index-url http://10.0.0.1/simple",
        "--find-links /opt/wheels",
        "dill @ file:///opt/wheels/dill-0.4.1-py3-none-any.whl",
        "dill @ git+ssh://git@host.example/dill",
        "-e /home/me/dill",
    ],
)
def test_an_address_or_a_path_in_the_lock_is_refused(tool: LockTool, line: str) -> None:
    assert f"names an address or a path: {line}" in "\n".join(
        tool.faults(PYPROJECT, f"{LOCK}\n{line}\n")
    )


def test_a_requirement_that_the_lock_lost_is_named(tool: LockTool) -> None:
    assert tool.faults(PYPROJECT, LOCK.replace("\ndill==", "\nother==")) == ["it does not pin dill"]
