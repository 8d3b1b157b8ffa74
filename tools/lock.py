"""Write the locks from pyproject.toml, or check that they are in step with it.

    python tools/lock.py write [--upgrade]
    python tools/lock.py check

requirements.lock pins every package of every extra and of the development groups; bench.lock those
of the group `bench`, which `make bench` installs on top, at the same versions where both name one.
They pin with hashes, for every platform and Python that the project supports, and name no host:
they install from whatever index a machine is set up for. `check` needs no network: a lock's first
lines hold a digest of the requirements it was made from.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
#: Each lock, and what of pyproject.toml it pins.
LOCKS = {
    "requirements.lock": ("pyproject.toml", "--all-extras", "--group", "dev"),
    "bench.lock": ("--group", "bench", "--constraint", "requirements.lock"),
}
DIGEST = "# requirements of pyproject.toml: sha256:"
#: A lock made on one machine must mean the same on another: no addresses, no local paths.
FOREIGN = re.compile(r"\b(?:https?|file|git|ssh)[+:]|@ |--(?:index|extra-index|find-links)|\s/\w")


def requirements(pyproject: str) -> dict[str, object]:
    """Return what of a pyproject.toml decides what the lock holds."""
    tables = tomllib.loads(pyproject)
    project = tables["project"]
    return {
        "python": project["requires-python"],
        "dependencies": project["dependencies"],
        "extras": project["optional-dependencies"],
        "groups": tables["dependency-groups"],
    }


def digest(pyproject: str) -> str:
    """Return the digest of the requirements of a pyproject.toml."""
    text = json.dumps(requirements(pyproject), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def faults(pyproject: str, lock: str) -> list[str]:
    """Return, a sentence each, why the locks, one after another, are not of this pyproject.toml."""
    found: list[str] = []
    made_from = {line for line in lock.splitlines() if line.startswith(DIGEST)}
    if made_from != {f"{DIGEST}{digest(pyproject)}"}:
        found.append("it was made from other requirements")
    found += [
        f"line {number} names an address or a path: {line.strip()}"
        for number, line in enumerate(lock.splitlines(), 1)
        if FOREIGN.search(line)
    ]
    pins = [Requirement(line.rstrip(" \\")) for line in lock.splitlines() if "==" in line[:80]]
    for wanted in map(Requirement, _direct(requirements(pyproject))):
        versions = [p for p in pins if canonicalize_name(p.name) == canonicalize_name(wanted.name)]
        if not versions:
            found.append(f"it does not pin {wanted.name}")
        for pin in versions:
            version = str(pin.specifier).removeprefix("==")
            if not wanted.specifier.contains(version, prereleases=True):
                found.append(f"it pins {pin}, which is not {wanted}")
    return found


def _direct(tables: dict[str, object]) -> list[str]:
    """Return every requirement text in nested lists and tables, includes left out."""
    texts: list[str] = []
    todo: list[object] = [tables["dependencies"], tables["extras"], tables["groups"]]
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, list):
            todo += value
        elif isinstance(value, dict) and "include-group" not in value:
            todo += value.values()
    return texts


def write(*options: str) -> None:
    """Make the locks; versions stay as they are unless the requirements rule them out."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    lowest = str(requirements(pyproject)["python"]).removeprefix(">=")
    head = f"# Made by `make lock`; do not edit.\n{DIGEST}{digest(pyproject)}\n"
    for name, what in LOCKS.items():
        command = [sys.executable, "-m", "uv", "pip", "compile", *what, "--quiet"]
        command += ["--output-file", name, "--universal", "--python-version", lowest]
        command += ["--generate-hashes", "--no-emit-index-url", "--no-emit-find-links"]
        command += ["--no-header", *options]
        subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603 - no input
        lock = ROOT / name
        lock.write_text(head + lock.read_text())


def read() -> str:
    """Return the committed locks, one after another."""
    return "".join((ROOT / name).read_text() for name in LOCKS)


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit code."""
    match arguments:
        case ["write"] | ["write", "--upgrade"]:
            write(*arguments[1:])
        case ["check"]:
            pass
        case _:
            sys.stderr.write(f"{__doc__}\n")
            return 2
    found = faults((ROOT / "pyproject.toml").read_text(), read())
    for fault in found:
        sys.stderr.write(f"{' and '.join(LOCKS)}: {fault}; run `make lock`\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
