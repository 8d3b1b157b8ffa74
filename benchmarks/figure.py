"""What a figure is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.laboratory import Laboratory
from benchmarks.measuring import Measures


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table that must hold.

    Parameters:
        name: As `make bench ONLY=` takes it.
        title: What is measured, for people.
        measure: Measures it in a laboratory.
    """

    name: str
    title: str
    measure: Callable[[Laboratory], Measures]
