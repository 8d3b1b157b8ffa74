"""Example 4 and 5: functions that call one another, with a complex task among them.

Example 6: a flow that hands over to another, and goes on with its result.
"""

from __future__ import annotations

from flask import render_template_string, request
from flask.typing import ResponseReturnValue

from flowroute import Continuation, Flow, call, done, step, worker_step
from flowroute.flask import page

from .models import SECONDS, Employer


class Hello(Flow):
    """Say hello to everybody."""

    number: int

    @step(start=True)
    def func1(self, employer: Employer, hello_world: str) -> Continuation[str]:
        """Say hello to the world."""
        print(hello_world, flush=True)
        return self.func2(employer, "hello moon")

    @step
    def func2(self, employer: Employer, hello_moon: str) -> Continuation[str]:
        """Say hello to the moon."""
        print(hello_moon, flush=True)
        return self.work(employer, "hello star")

    @worker_step
    def work(self, employer: Employer, hello_star: str) -> Continuation[str]:
        """Do the complex task."""
        employer.complex_task(seconds=SECONDS)
        return self.func3(hello_star)

    @step
    def func3(self, hello_star: str) -> Continuation[str]:
        """Say hello to the star."""
        print(hello_star, flush=True)
        return done(f"Example {self.number} finished")


class Contract(Flow):
    """Draft a contract and have it signed."""

    @step(start=True)
    def draft(self, employer: Employer) -> Continuation[str]:
        """Draft the contract."""
        print("contract drafted", flush=True)
        return call(Signing().ask(employer.name), self.file, employer)

    @step
    def file(self, signature: str, employer: Employer) -> Continuation[str]:
        """File the signed contract."""
        print(f"contract filed, signed by {signature}", flush=True)
        return done(f"Example 6 finished: {employer.name} is signed by {signature}")


class Signing(Flow):
    """Have something signed; good for contracts and for much else."""

    @page(start=True)
    def ask(self, what: str) -> ResponseReturnValue | Continuation[str]:
        """Ask for a name."""
        if name := request.form.get("name"):
            return self.verify(name)
        return render_template_string(
            """<title>Sign</title><form method="post" action="{{ run.url }}">
            {{ run.hidden_field() }}<label>Sign {{ what }}: <input name="name"></label>
            <button>Sign</button></form>""",
            what=what,
        )

    @worker_step
    def verify(self, name: str) -> Continuation[str]:
        """Verify the signature."""
        print(f"signature of {name} verified", flush=True)
        return done(name.title())
