"""Example 4 and 5: functions that call one another, with a complex task among them."""

from __future__ import annotations

from flowroute import Continuation, Flow, done, step, worker_step

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
