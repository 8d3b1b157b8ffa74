"""Measure the figures.

    python -m benchmarks [--only NAME]... [--quick] [--output FILE]

Results go to benchmarks/results.json, and from there into docs/performance.md, docs/scaling.md
and the plots. Ends with 1 if a figure could not be measured; a bar that was missed is reported,
and no error.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from benchmarks import page, results
from benchmarks.conditions import conditions
from benchmarks.contest import ROOT
from benchmarks.figure import Figure
from benchmarks.laboratory import Laboratory
from benchmarks.registry import FIGURES


def say(began: float, text: str) -> None:
    """Print a line with the time since the beginning."""
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    sys.stdout.write(f"{minutes:3d}:{seconds:02d}  {text}\n")
    sys.stdout.flush()


def measured(
    lab: Laboratory, figure: Figure, machine: dict[str, Any], began: float
) -> list[dict[str, Any]]:
    """Measure one figure, and print each result as soon as it is there."""
    found: list[dict[str, Any]] = []
    for result in figure.measure(lab):
        stored = result.as_json()
        stored["conditions"] = {**stored["conditions"], **machine}
        found.append(stored)
        verdict = {None: "     ", True: "holds", False: "MISSED"}[stored["holds"]]
        unit = "" if stored["unit"] == "ratio" else f" {stored['unit']}"
        bar = f" (bar {stored['bar']})" if stored["bar"] else ""
        peers = ", ".join(f"{name}: {value:g}" for name, value in stored["peers"].items())
        text = f"{verdict:6} {stored['setting']}: {stored['value']:g}{unit}{bar}"
        say(began, text + (f"\n{' ' * 15}{peers}" if peers else ""))
    return found


def measure_all(figures: list[Figure], *, quick: bool, output: Path | None) -> int:
    """Measure figures, store what was found; returns the exit code."""
    began = time.monotonic()
    log = ROOT / "build" / "bench.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text("")
    failed: list[str] = []
    order = [figure.name for figure in FIGURES]
    with Laboratory(quick=quick, log=log) as lab:
        machine = conditions(lab.directory)
        say(began, json.dumps(machine, ensure_ascii=False))
        for figure in figures:
            say(began, f"-- {figure.name}: {figure.title}")
            try:
                found = measured(lab, figure, machine, began)
            except Exception:  # noqa: BLE001 - the others are measured all the same
                failed.append(figure.name)
                say(began, f"FAILED {figure.name}\n{traceback.format_exc()}")
                continue
            if output is not None:
                results.store(found, order, output)
    if output == results.PATH:
        from benchmarks import plots  # noqa: PLC0415 - tests run where Matplotlib is not installed

        page.write()
        plots.write(results.read())
        say(began, "docs/performance.md, docs/scaling.md and the plots are drawn anew")
    if failed:
        say(began, f"not measured: {', '.join(failed)}; what they printed is in {log}")
    return 1 if failed else 0


def end(_number: int, _frame: FrameType | None) -> NoReturn:
    """End as after Ctrl-C: with the servers stopped and the files deleted."""
    raise KeyboardInterrupt


def main() -> int:
    """Run the command line; returns the exit code."""
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)  # a shell's background jobs ignore it otherwise
    names = [figure.name for figure in FIGURES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=names, help="measure this figure")
    parser.add_argument("--quick", action="store_true", help="in seconds, stored only on request")
    parser.add_argument("--output", type=Path, help="where results go, if not to results.json")
    options = parser.parse_args()
    chosen = [figure for figure in FIGURES if not options.only or figure.name in options.only]
    output = options.output or (None if options.quick else results.PATH)
    return measure_all(chosen, quick=options.quick, output=output)


if __name__ == "__main__":
    sys.exit(main())
