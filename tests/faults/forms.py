"""Fifty visitors' clicks at the same moment, on the form of one run's page."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

from flask import Flask, got_request_exception, request
from flask.typing import ResponseReturnValue

from flowroute import Continuation, Flow
from flowroute.flask import page
from tests.faults.crashes import Mutation
from tests.faults.doors import open_site
from tests.faults.forks import fork
from tests.faults.report import Report
from tests.flask.flows import form
from tests.flask.support import Line, Site, at_once, form_field

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from flowroute import Run

Answer: TypeAlias = tuple[int, str]
"""A status, and where it leads to, or what went wrong."""


class FormsAsking(Flow):
    """Asks twice."""

    @page(start=True)
    def address(self) -> ResponseReturnValue | Continuation[Any]:
        """Where do you live."""
        if request.method != "POST":
            return form()
        self.session.add(Line(text=f"address {request.form['who']}"))
        return self.confirm()

    @page
    def confirm(self) -> ResponseReturnValue | Continuation[Any]:
        """Is it right."""
        if request.method != "POST":
            return form()
        self.session.add(Line(text=f"confirmed {request.form['who']}"))
        return self.goodbye()

    @page(final=True)
    def goodbye(self) -> str:
        """Goodbye."""
        return "goodbye"


CLICKS = 50
PROCESSES = 5
ROUNDS = 6
"""Runs of each kind of round."""


def simultaneous_posts(
    database: str,
    url: str,
    *,
    seed: int,
    share: float = 1.0,
    rounds: int = ROUNDS,
    shapes: tuple[object, ...] = (),  # noqa: ARG001  # as of every campaign that controls are of
    mutation: Mutation | None = None,
) -> Report:
    """Send one page's form many times at once, by threads and by processes with threads.

    Parameters:
        database: sqlite or postgresql.
        url: An empty database.
        seed: Names the visitors.
        share: How many of the rounds, 1 for all.
        rounds: How many runs for each number of processes.
        shapes: None.
        mutation: A deliberate mistake.
    """
    report = Report("simultaneous posts", database, seed)
    chance = random.Random(seed)  # noqa: S311  # it has to repeat
    answers: Counter[str] = Counter()
    for number in range(max(1, round(rounds * share))):
        for processes in (1, PROCESSES):
            who = f"visitor {chance.random()}"
            what = f"round {number}, {CLICKS} posts from {processes} processes"
            act = _acting(url, who, processes, mutation)
            began = time.monotonic()
            found, wrong = fork(act).result()
            report.heal_seconds.append(time.monotonic() - began)
            report.points += CLICKS + 1
            report.injected += CLICKS  # one of them is what the page waits for
            answers += found
            for kind, each in wrong:
                getattr(report, kind).append(f"{what}: {each}")
    report.notes = {f"answered {answer}": times for answer, times in sorted(answers.items())}
    return report


def _acting(
    url: str, who: str, processes: int, mutation: Mutation | None
) -> Callable[[], tuple[Counter[str], list[tuple[str, str]]]]:
    return lambda: _round(url, who, processes, mutation)


def _round(
    url: str, who: str, processes: int, mutation: Mutation | None
) -> tuple[Counter[str], list[tuple[str, str]]]:
    """In a child: one run, and many posts of its first form; the answers, and what is wrong."""
    logging.disable(logging.CRITICAL)
    with open_site(url) as site:
        site.route("/ask", lambda: site.flows.respond(FormsAsking().address(), key=who))
        visitor = site.client()
        address = visitor.post("/ask").location
        assert address is not None
        fields = form_field(visitor.get(address)) | {"who": who}
        with site.app.app_context():
            [run] = site.flows.engine.runs(limit=1)
            if mutation is not None:
                mutation(site.flows.engine)
            for engine in site.db.engines.values():
                engine.dispose()  # processes are forked from here
        sent: list[Answer] = []
        if processes == 1:
            sent = _click(site, visitor, address, fields, CLICKS)
        else:
            wait, go = os.pipe()

            def part() -> list[Answer]:
                os.close(go)
                os.read(wait, 1)  # ends when everybody has closed the other end
                return _click(site, visitor, address, fields, CLICKS // processes)

            children = [fork(part) for _ in range(processes)]
            os.close(go)
            for child in children:
                sent += child.result()
            os.close(wait)
        sent += _click(site, visitor, address, fields, 1)  # and once more, too late
        wrong = [*_wrong_answers(sent), *_wrong_rows(site, run, who)]
        return Counter(str(status) for status, _ in sent), wrong


def _click(
    site: Site, visitor: FlaskClient, address: str, fields: dict[str, str], times: int
) -> list[Answer]:
    """Send a form many times at once, from as many tabs of one visitor.

    It goes to the run's own address, or to that of the application which showed it.
    """
    errors: list[str] = []

    def remember(_app: Flask, exception: BaseException, **_: object) -> None:
        errors.append(f"{type(exception).__name__}: {exception}"[:300])

    barrier = threading.Barrier(times)
    tabs = [site.client_like(visitor) for _ in range(times)]

    def click(number: int) -> tuple[int, str | None]:
        barrier.wait()
        answer = tabs[number].post(("/ask", address)[number % 2], data=fields)
        return answer.status_code, answer.location

    with got_request_exception.connected_to(remember, site.app):
        sent = list(at_once(times, click))
    said = "; ".join(sorted(set(errors)))
    return [
        (status, said if status >= HTTPStatus.INTERNAL_SERVER_ERROR else location or "")
        for status, location in sent
    ]


def _wrong_answers(sent: list[Answer]) -> list[tuple[str, str]]:
    """An answer leads to where the run is, or refuses in words; it is no error of ours."""
    found: list[tuple[str, str]] = []
    if len(sent) != CLICKS + 1:
        found.append(("lost", f"{len(sent)} answers to {CLICKS + 1} posts"))
    for (status, said), times in Counter(sent).items():
        led = status == HTTPStatus.SEE_OTHER and said
        refused = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
        if not (led or refused):
            found.append(("broken", f"{times} times answered {status}: {said}"))
    if all(status != HTTPStatus.SEE_OTHER for status, _ in sent):
        found.append(("lost", "nobody was led to where the run is"))
    return found


def _wrong_rows(site: Site, run: Run[Any], who: str) -> list[tuple[str, str]]:
    """The page's effect is there once, with one checkpoint; the page after it is not answered."""
    found: list[tuple[str, str]] = []
    lines = [line for line in site.lines if line.endswith(who)]
    if lines.count(f"address {who}") != 1:
        kind = "doubled" if lines else "lost"
        found.append((kind, f"the page's effect is there {lines.count(f'address {who}')} times"))
    if f"confirmed {who}" in lines:
        found.append(("doubled", "a form was taken for an answer to the page after its own"))
    with site.app.app_context():
        record, stored = run.record, [checkpoint.seq for checkpoint in run.checkpoints]
    if stored != [0, 1]:
        found.append(("doubled" if len(stored) > 1 else "lost", f"its checkpoints are {stored}"))
    if (record.state, record.waiting_for, record.step) != ("waiting", "page", "confirm"):
        found.append(("stuck", f"it is {record.state} ({record.waiting_for}) at {record.step}"))
    return found
