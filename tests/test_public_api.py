"""The public names: what they are, what importing them loads, and that their types travel along."""

from __future__ import annotations

import importlib.resources
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import flowroute
from flowroute import errors

ROOT = Path(__file__).parents[1]

#: What none of the engine may need.
LEAVES = {"flask", "werkzeug", "rq", "redis", "socketio", "engineio", "flask_socketio"}


def loaded_by(statement: str) -> set[str]:
    """The names of all modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(found.stdout))


def test_importing_flowroute_loads_nothing_before_a_name_is_asked_for() -> None:
    modules = loaded_by("import flowroute")
    assert not {"sqlalchemy", "pydantic", "dill", "flowroute.engine"} & modules
    with pytest.raises(AttributeError, match="module 'flowroute' has no attribute 'Flwo'"):
        _ = flowroute.Flwo


def test_the_public_names_load_no_framework_and_no_queue() -> None:
    modules = loaded_by("from flowroute import *")
    assert "flowroute.engine.engine" in modules
    assert {name.partition(".")[0] for name in modules} & LEAVES == set()
    assert not any(name.startswith(("flowroute.flask", "flowroute.rq")) for name in modules)


def test_a_flow_runs_without_framework_and_queue(tmp_path: Path) -> None:
    program = f"""
from flowroute import Continuation, Engine, Flow, done, step

class Greet(Flow):
    @step(start=True)
    def hello(self, name: str) -> Continuation[str]:
        return done(f"Hello, {{name}}")

with Engine("sqlite:///{tmp_path}/flows.db", executor="inline", secret_keys=["k" * 32]) as engine:
    engine.create_all()
    assert engine.start(Greet().hello("you")).result == "Hello, you"
"""
    modules = loaded_by(program)
    assert {name.partition(".")[0] for name in modules} & LEAVES == set()


def test_flask_and_rq_are_loaded_by_their_leaves_only() -> None:
    assert {"flask", "socketio"} <= loaded_by("import flowroute.flask")
    modules = loaded_by("import flowroute.rq")
    assert {"rq", "redis"} <= modules
    assert "flask" not in modules


def test_every_public_name_exists_and_is_listed() -> None:
    assert sorted(flowroute.__all__) == list(flowroute.__all__)
    names: dict[str, object] = {}
    exec("from flowroute import *", names)  # noqa: S102  # as a user would
    assert set(flowroute.__all__) <= names.keys()
    assert dir(flowroute) == flowroute.__all__


@pytest.mark.parametrize("name", [n for n in flowroute.__all__ if n != "__version__"])
def test_every_public_name_says_what_it_is(name: str) -> None:
    documentation = getattr(flowroute, name).__doc__
    assert documentation
    assert documentation[0].isupper()


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "flask-flowroute"
    assert project["version"] == flowroute.__version__


def test_the_types_are_shipped() -> None:
    assert importlib.resources.files("flowroute").joinpath("py.typed").is_file()


def test_every_error_belongs_to_one_tree() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    raised = [cls for cls in classes if issubclass(cls, BaseException)]
    assert len(raised) >= 25
    for cls in raised:
        assert issubclass(cls, errors.FlowrouteError | errors.Interruption), cls
        assert cls.__doc__


def test_an_interruption_is_not_swallowed_by_except_exception() -> None:
    for cls in (errors.LeaseLost, errors.StepTimeout):
        assert issubclass(cls, errors.Interruption)
        assert not issubclass(cls, Exception)


def test_an_error_carries_the_run_and_the_step_beside_its_sentence() -> None:
    error = errors.RunNotFound("There is no run '7'.", run_id="7")
    assert (str(error), error.run_id, error.step) == ("There is no run '7'.", "7", None)
    refused = errors.UnstorableValue("A lock.", path="state['x']", run_id="7", step="charge")
    assert (refused.path, refused.run_id, refused.step) == ("state['x']", "7", "charge")
    assert isinstance(errors.RunNotFound(""), LookupError)
    assert isinstance(errors.WaitTimeout(""), TimeoutError)
    assert isinstance(refused, TypeError)


def test_a_definition_error_lists_every_problem() -> None:
    one = errors.DefinitionError("Checkout", ["shop.py:3: no."])
    assert str(one) == "Checkout is not a flow yet: 1 problem.\n  shop.py:3: no."
    two = errors.DefinitionError("Checkout", ["shop.py:3: no.", "shop.py:4: nor."])
    assert re.fullmatch(r"Checkout is not a flow yet: 2 problems\.\n  .*\n  .*", str(two))
    assert (two.flow, len(two.problems)) == ("Checkout", 2)
