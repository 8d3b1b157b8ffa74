"""The flows of the tests' sites."""

from __future__ import annotations

import threading
from typing import Any

from flask import render_template_string, request
from flask.typing import ResponseReturnValue

from flowroute import Continuation, Flow, call, done, step, worker_step
from flowroute.flask import page
from tests.flask.support import Line


class CardRefusedError(Exception):
    """What a bank says."""


class SiteParcel(Flow):
    """Your parcel.

    The second line is for developers.
    """

    name: str

    @step(start=True)
    def pack(self) -> Continuation[Any]:
        """Pack it."""
        self.session.add(Line(text=f"packed {self.name}"))
        return self.send(1)

    @worker_step
    def send(self, weight: int) -> Continuation[Any]:
        self.session.add(Line(text=f"sent {self.name}"))
        return done(f"<p>{self.name} weighs {weight}</p>")


class SiteResult(Flow):
    """Ends at once, with what it was given."""

    @step(start=True)
    def end(self, value: Any) -> Continuation[Any]:
        return done(value)


class SiteCard(Flow):
    """A worker step that fails until it is told not to."""

    accepts = threading.Event()

    @worker_step(start=True)
    def charge(self) -> Continuation[str]:
        if not self.accepts.is_set():
            raise CardRefusedError("<b>no funds</b>")
        return done("charged")


FORM = """<title>{{ run.title }}</title><form method="post" action="{{ action }}">
{{ run.hidden_field() }}<p id="problem">{{ problem }}</p></form>
<a id="own" href="{{ run.url }}">{{ run.id }}</a><ol>{% for step in run.steps %}
<li data-name="{{ step.name }}">{{ step.state }}</li>{% endfor %}</ol>"""


class SiteForm(Flow):
    """Two questions."""

    street: str = ""

    @page(start=True)
    def address(self) -> ResponseReturnValue | Continuation[Any]:
        """Where do you live."""
        if request.method != "POST":
            return form()
        street = request.form.get("street", "")
        self.session.add(Line(text=f"address {street}"))
        if street == "raise":
            self.session.flush()
            raise LookupError("the page itself is broken")
        if not street:
            return form("Which street?"), 422
        self.street = street
        return self.confirm(street)

    @page
    def confirm(self, street: str) -> ResponseReturnValue | Continuation[Any]:
        """Is it right."""
        if request.method == "POST":
            self.session.add(Line(text=f"confirmed {street}"))
            return self.goodbye(street)
        return form(f"Is {street} right?")

    @page(final=True)
    def goodbye(self, street: str) -> str:
        """Goodbye."""
        return form(f"{request.method}: thank you, {street}")


def form(problem: str = "") -> str:
    """A page with a form on it, posted to the address that shows it."""
    return render_template_string(FORM, problem=problem, action="")


class SiteFailing(Flow):
    """Writes something, then fails."""

    @step(start=True)
    def begin(self) -> Continuation[None]:
        self.session.add(Line(text="by the step"))
        self.session.flush()
        if self.run.attempt:
            raise CardRefusedError("no")
        return done()


class SiteKept(Flow):
    """A page that says itself how long it may be kept, and what it depends on."""

    @page(start=True, final=True)
    def kept(self) -> ResponseReturnValue:
        return "kept", {"Cache-Control": "max-age=60", "Vary": "Accept-Language"}


class SiteSilent(Flow):
    """A page that forgets to return something."""

    @page(start=True)
    def silent(self) -> Any:
        if request.method == "POST":
            return self.end()
        return None

    @page(final=True)
    def end(self) -> str:
        return "end"


class SiteBroken(Flow):
    """A page that can not even be looked at."""

    @page(start=True)
    def broken(self) -> str | Continuation[Any]:
        if request.method == "POST":
            return self.end()
        raise LookupError("the page itself is broken")

    @page(final=True)
    def end(self) -> str:
        return "end"


class SiteWanderer(Flow):
    """A page that goes on as soon as it is looked at, and a worker step that makes a link."""

    @page(start=True)
    def hurry(self) -> Continuation[Any]:
        return self.travel()

    @worker_step
    def travel(self) -> Continuation[str]:
        return done("arrived")

    @worker_step(start=True)
    def mail(self) -> Continuation[str]:
        self.session.add(Line(text=render_template_string("{{ run.url }}")))
        return done("mailed")


class Gate:
    """Where a page waits until a test lets it go on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.calls = 0


class SiteGate(Flow):
    """A page whose POST takes as long as the test wants."""

    gate = Gate()

    @classmethod
    def reset(cls) -> Gate:
        """Close the gate."""
        cls.gate = Gate()
        return cls.gate

    @page(start=True)
    def ask(self) -> str | Continuation[Any]:
        if request.method != "POST":
            return form()
        self.gate.calls += 1
        self.gate.entered.set()
        assert self.gate.opened.wait(10)
        return self.end()

    @page(final=True)
    def end(self) -> str:
        return f"answered {self.gate.calls} times"


class SiteSteady(Flow):
    """A worker step that tells how far it is."""

    go = threading.Event()
    end = threading.Event()

    @worker_step(start=True)
    def work(self) -> Continuation[None]:
        assert self.go.wait(10)
        self.run.progress(1, 4, "a quarter")
        assert self.end.wait(10)
        return done()


class SiteQuestion(Flow):
    """A question, for any flow to call."""

    @page(start=True)
    def ask(self, what: str) -> ResponseReturnValue | Continuation[str]:
        """Ask."""
        if request.method == "POST":
            return self.check(request.form.get("answer", ""))
        return form(f"{what}?")

    @worker_step
    def check(self, answer: str) -> Continuation[str]:
        """Check the answer."""
        if answer == "wrong":
            raise LookupError("nobody knows this answer")
        return done(answer)


class SiteQuiz(Flow):
    """Asks by a sub-flow."""

    @page(start=True)
    def welcome(self) -> ResponseReturnValue | Continuation[Any]:
        """Welcome."""
        return self.ask() if request.method == "POST" else form("ready?")

    @step
    def ask(self) -> Continuation[Any]:
        """Ask the question."""
        return call(SiteQuestion().ask("why"), self.praise)

    @page(final=True)
    def praise(self, answer: str) -> str:
        """Praise."""
        return form(f"{answer}, well said")
