"""Visitors: they start runs, look how these go on, answer pages and cancel."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import requests

from flowroute.engine.schema import FINISHED, RUNNING

OPEN: Final = 2
"""Most unfinished runs of one visitor."""
SHAPES: Final = (
    *("Inline", "Middle", "Several", "Retried", "Timer", "Slow", "Outlasting"),
    *("CallsMiddle", "SentTogether"),
    *("Form",) * 10,
)
"""What a visitor chooses from."""
CANCELLED: Final = 0.15
"""Which part of the runs that need a worker is cancelled at once."""
CANCELLED_AT_WORK: Final = 0.1
"""How often one that is seen at work is."""
ANSWER_SECONDS: Final = 8.0
JSON: Final = {"Accept": "application/json"}


@dataclass(slots=True)
class Accepted:
    """A start that was answered with success."""

    key: str
    shape: str
    run_id: str
    url: str


@dataclass
class Visitor:
    """One client with a session of its own; `run` is its thread."""

    url: str
    name: str
    roll: random.Random
    hurried: bool = False
    """Starts only runs that end in the request, one after another."""
    accepted: list[Accepted] = field(default_factory=list[Accepted])
    broken: list[str] = field(default_factory=list[str])
    answers: int = 0
    """Pages that were answered; each is answered twice at once."""
    cancels: int = 0
    unanswered: int = 0
    """Requests that a killed process or a refused write did not answer."""
    starting: bool = True
    _away: bool = False
    """Nobody listened at the last request."""
    _open: list[Accepted] = field(default_factory=list[Accepted])
    _unsure: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @property
    def settled(self) -> bool:
        """Whether every start was answered, and every run was seen at its end."""
        return not (self.starting or self._unsure or self._open)

    def run(self, over: threading.Event) -> None:
        """Use the site until it is over."""
        try:
            self._use(over)
        except Exception as error:  # noqa: BLE001 - a load that ends early would prove nothing
            self.broken.append(f"visitor {self.name} gave up: {error!r}")

    def _use(self, over: threading.Event) -> None:
        self._session = requests.Session()
        self._session.headers.update(JSON)
        with ThreadPoolExecutor(2) as self._pool, self._session:
            while not over.is_set():
                if self._unsure:
                    self._start(*self._unsure[-1], times=1)
                elif self.starting:
                    # A run that needs no worker never waits in line, so there may be more of these.
                    shapes = SHAPES if len(self._open) < OPEN and not self.hurried else ("Inline",)
                    key = f"{self.name}-{len(self.accepted)}-{self.roll.random()}"
                    twice = bool(self.accepted) and self.roll.random() < 0.25
                    self._start(key, self.roll.choice(shapes), 2 if twice else 1)
                for each in list(self._open):
                    self._look(each)
                over.wait(0.5 if self._away else 0.1)

    def _start(self, key: str, shape: str, times: int) -> None:
        if (key, shape) not in self._unsure:
            self._unsure.append((key, shape))
        address = f"/start/{shape}/{key}"
        answers = list(self._pool.map(lambda _: self._post(address), range(times)))
        found = {each["id"]: each for each in answers if each}
        if len(found) > 1:
            self.broken.append(f"key {key} of {shape} has the runs {sorted(found)}")
        if not found:
            return  # and ask again: it may have been accepted all the same
        for run_id, answer in found.items():
            accepted = Accepted(key, shape, run_id, answer["url"])
            self.accepted.append(accepted)
            self._open.append(accepted)
            if shape != "Inline" and self.roll.random() < CANCELLED:
                self._cancel(run_id)
        self._unsure.remove((key, shape))

    def _cancel(self, run_id: str) -> None:
        self.cancels += self._post(f"/cancel/{run_id}", {}) is not None

    def _look(self, run: Accepted) -> None:
        state = self._ask("GET", f"{run.url}/state")
        if state is None:
            return
        if state["state"] in FINISHED:
            self._open.remove(run)
        elif state["waiting_for"] == "page":
            form = {"answer": "yes"}
            both = list(self._pool.map(lambda _: self._post(run.url, form), range(2)))
            self.answers += any(each is not None for each in both)
        elif state["state"] == RUNNING and self.roll.random() < CANCELLED_AT_WORK:
            self._cancel(run.run_id)

    def _post(self, address: str, form: dict[str, str] | None = None) -> Any:
        return self._ask("POST", address, form)

    def _ask(self, method: str, address: str, form: dict[str, str] | None = None) -> Any:
        """The JSON of an answer; None if the request came to nothing, as some do meanwhile."""
        try:
            answer = self._session.request(
                method, self.url + address, data=form, timeout=ANSWER_SECONDS, allow_redirects=False
            )
        except requests.RequestException as error:
            self.unanswered += 1
            self._away = isinstance(error, requests.ConnectionError)
            return None
        self._away = False
        if answer.status_code >= 400:
            self.unanswered += 1
            return None
        if answer.is_redirect:
            return {"redirected": answer.headers["Location"]}
        if "application/json" in answer.headers.get("Content-Type", ""):
            return answer.json()
        return {"text": answer.text}


class Load:
    """A few visitors at once.

    Args:
        url: the site.
        seed: decides what they do.
        visitors: how many start runs of all shapes.
        hurried: how many more start only runs that end in the request.
    """

    def __init__(self, url: str, seed: int, visitors: int = 6, hurried: int = 3) -> None:
        self._over = threading.Event()
        self.visitors = [
            Visitor(
                url,
                f"v{number}",
                random.Random(f"{seed} {number}"),  # noqa: S311  # guards nothing
                hurried=number >= visitors,
            )
            for number in range(visitors + hurried)
        ]
        self._threads = [
            threading.Thread(target=each.run, args=(self._over,), daemon=True)
            for each in self.visitors
        ]

    def begin(self) -> None:
        """Let them come."""
        for thread in self._threads:
            thread.start()

    def start_nothing_more(self) -> None:
        """They only look and answer from now on."""
        for each in self.visitors:
            each.starting = False

    @property
    def settled(self) -> bool:
        """Whether nobody waits for anything any more."""
        return all(each.settled for each in self.visitors)

    def end(self) -> None:
        """Send them away."""
        self._over.set()
        until = time.monotonic() + 3 * ANSWER_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
