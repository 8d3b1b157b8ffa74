"""Finding an engine by name, and each way in which that can go wrong."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from flowroute import Engine
from flowroute.errors import ConfigurationError
from flowroute.loading import load_engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCE = """
from flask import Flask
from flowroute import Engine

engine = Engine("sqlite:///flows.db", secret_keys=["secret"])
app = Flask(__name__)

class Flows:
    def __init__(self):
        self.engine = engine

    @property
    def broken(self):
        raise RuntimeError("no application context")

flows = Flows()
number = 7

def make():
    return engine

def make_number():
    return 7

def make_of(settings):
    return engine

def fail():
    raise ValueError("no settings")
"""


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A project in the working directory."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "flows.py").write_text(SOURCE)
    (tmp_path / "shop" / "lacking.py").write_text("import a_library_that_is_not_there")
    (tmp_path / "shop" / "wrong.py").write_text("engine = 1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


@pytest.mark.parametrize("reference", ["shop.flows:engine", "shop.flows:flows.engine"])
def test_an_engine_is_found_in_the_working_directory(reference: str) -> None:
    with load_engine(reference) as engine:
        assert isinstance(engine, Engine)
        assert load_engine(reference) is engine


def test_a_function_that_makes_the_engine_is_called() -> None:
    with load_engine("shop.flows:make") as engine:
        assert isinstance(engine, Engine)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("shop.flows", r"does not say where the engine is. Write module:attribute"),
        (":engine", r"does not say where"),
        ("shop.flows:", r"does not say where"),
        ("shop/flows.py:engine", r"does not say where"),
        ("shop.flows:engine()", r"does not say where"),
        ("shopp.flows:engine", r"no module 'shopp' .*start the program from your project"),
        ("shop.flow:engine", r"no module 'shop\.flow' "),
        ("shop.lacking:engine", r"importing shop\.lacking failed.*a_library_that_is_not_there"),
        ("shop.wrong:engine", r"importing shop\.wrong failed.*ZeroDivisionError"),
        ("shop.flows:engin", r"no attribute 'engin' .*Did you mean 'engine'\?"),
        ("shop.flows:flows.engin", r"shop\.flows\.flows has no attribute 'engin'"),
        ("shop.flows:zzz", r"no attribute 'zzz' \(from 'shop\.flows:zzz'\)\.$"),
        ("shop.flows:flows.broken", r"reading shop\.flows\.flows\.broken failed.*no application"),
        ("shop.flows:number", r"is a builtins\.int, not an Engine\.$"),
        ("shop.flows:app", r"is a flask\.app\.Flask, not an Engine"),
        ("shop.flows:flows", r"is a shop\.flows\.Flows, .*may be what you mean: .*flows\.engine$"),
        ("shop.flows:make_number", r"returned a builtins\.int, not an Engine"),
        ("shop.flows:make_of", r"is a builtins\.function, not an Engine"),
        ("shop.flows:fail", r"calling it failed.*ValueError: no settings"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(reference: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_engine(reference)

    assert repr(reference)[1:-1] in str(caught.value)
