"""An employer with a task that takes long."""

# pyright: reportCallIssue=false
# Flask-SQLAlchemy does not tell type checkers what a model is made from.

from __future__ import annotations

import os
import time

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The base of the example's tables."""


db = SQLAlchemy(model_class=Base)

SECONDS = float(os.environ.get("EXAMPLE_SECONDS", "5"))
"""How long the complex task takes."""


class Employer(db.Model):
    """Somebody with a complex task."""

    __tablename__ = "employer"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    finished_tasks: Mapped[int] = mapped_column(default=0)

    def complex_task(self, seconds: float) -> None:
        """Take long, and say so."""
        print("Complex task started", flush=True)
        for part in range(5):
            print(f"Progress: {100 * part / 5:.0f}%", flush=True)
            time.sleep(seconds / 5)
        self.finished_tasks += 1  # saved: the task has the row, not a copy of it
        print("Complex task finished", flush=True)


def get_employer(name: str) -> Employer:
    """The employer of this name, hired if there is none yet."""
    employer = db.session.scalar(select(Employer).filter_by(name=name))
    if employer is None:
        employer = Employer(name=name)
        db.session.add(employer)
        db.session.flush()
    return employer
