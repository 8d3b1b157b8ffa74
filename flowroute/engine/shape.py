"""The shape of a step graph as it was probably meant, for checks that look at the whole of it."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Iterable, Mapping

from flowroute.engine.references import Fault, Guide, Trail
from flowroute.engine.step import END


class Shape:
    """Which step leads to which. What is misspelt is taken for what it resembles.

    Parameters:
        guide: The flow.
        trails: What was read in the code of each step.
    """

    def __init__(self, guide: Guide, trails: Mapping[str, Trail]) -> None:
        self.starts = [name for name, step in guide.steps.items() if step.start]
        self.onward: dict[str, set[str]] = {}
        """Where each step hands over to."""
        self.successors: dict[str, set[str]] = {}
        """The same, and where it goes on an error."""
        self.ends = {END} | {name for name, step in guide.steps.items() if step.final}
        """Where runs end, or perhaps do: a step may lead to something unknown."""
        names = [*guide.steps, END]
        for name, step in guide.steps.items():
            said = trails[name].targets_of(step)
            if step.to is None:
                said += [bad.name for bad in trails[name].faults if bad.fault is Fault.UNKNOWN]
            targets = [_target(each, names) for each in said]
            if None in targets:
                self.ends.add(name)
            self.onward[name] = {target for target in targets if target}
            failing = _target(step.on_error, names) if step.on_error else None
            self.successors[name] = self.onward[name] | ({failing} if failing else set())

    def reach(self, names: Iterable[str]) -> set[str]:
        """What can be reached from any of these steps, themselves included."""
        found = set(names)
        queue = deque(found)
        while queue:
            new = self.successors.get(queue.popleft(), set()) - found
            found |= new
            queue.extend(new)
        return found

    def before(self, name: str) -> list[str]:
        """The other steps that lead to this one."""
        return [
            other for other, after in self.successors.items() if name in after and other != name
        ]

    def nowhere(self) -> list[str]:
        """The steps that hand over to nothing, and are no end."""
        return [name for name, after in self.onward.items() if not after and name not in self.ends]

    def circles(self) -> list[list[str]]:
        """The innermost circles that no end can be reached from, each as a way around it.

        What merely leads to such a circle is stuck because of it, and left out.
        """
        found: list[list[str]] = []
        told = set(self.nowhere())
        for name in self.successors:
            reached = self.reach([name])
            stuck = not reached & self.ends
            innermost = stuck and all(name in self.reach([other]) for other in reached)
            if innermost and not reached & told:
                told |= reached
                found.append(self._round_trip(name))
        return found

    def _round_trip(self, name: str) -> list[str]:
        came_from: dict[str, str] = {}
        queue = deque([name])
        while name not in came_from:
            here = queue.popleft()
            for there in sorted(self.successors[here] - came_from.keys()):
                came_from[there] = here
                queue.append(there)
        way = [name, came_from[name]]
        while way[-1] != name:
            way.append(came_from[way[-1]])
        return way[::-1]


def meant(name: str, names: Iterable[str]) -> str | None:
    """The one of some names that was probably meant by a misspelt one, or None."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return close[0] if close else None


def _target(name: str, names: Iterable[str]) -> str | None:
    return name if name in names else meant(name, names)
