"""The process of a contestant: it answers questions, a line of JSON each, on standard input.

    python -m benchmarks.contestant MODULE:FUNCTION ARGUMENTS

The function is a context manager that gives the object whose methods are asked.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from contextlib import AbstractContextManager
from typing import Any, TextIO


def serve(reference: str, arguments: dict[str, Any], answers: TextIO) -> None:
    """Make the contestant, and answer until standard input ends."""
    module, _, name = reference.partition(":")
    make = getattr(importlib.import_module(module), name)
    manager: AbstractContextManager[Any] = make(**arguments)
    with manager as contestant:
        answer(answers, result="ready")
        for line in sys.stdin:
            question = json.loads(line)
            try:
                method = getattr(contestant, question["method"])
                result = method(**question["arguments"])
            except Exception:  # noqa: BLE001 - the one who asked raises it
                answer(answers, error=traceback.format_exc())
            else:
                answer(answers, result=result)


def answer(answers: TextIO, **content: Any) -> None:
    """Write one line."""
    answers.write(json.dumps(content) + "\n")
    answers.flush()


def main() -> None:
    """Run the command line. What the contestant prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    reference, arguments = sys.argv[1:]
    try:
        serve(reference, json.loads(arguments), answers)
    except Exception:  # noqa: BLE001 - the one who asked raises it
        answer(answers, error=traceback.format_exc())
        sys.exit(1)


if __name__ == "__main__":
    main()
