"""Arguments as people may see them: redacted, cut, and always JSON that a database takes."""

# ruff: noqa: S106  # no passwords of anything

from __future__ import annotations

import enum
import json
import string
from collections import OrderedDict, deque, namedtuple
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column

from flowroute.engine.description import (
    DEPTH_LIMIT,
    ITEM_LIMIT,
    TEXT_LIMIT,
    VALUE_LIMIT,
    describe,
)
from tests.engine.support import Base, Note


def shown(value: object) -> Any:
    """What is shown of one value."""
    return describe({"value": value})["value"]


class Rows(MappedAsDataclass, DeclarativeBase):
    """Rows that are dataclasses, too."""


class Badge(Rows):
    __tablename__ = "badge_of_description"

    id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class Colour(enum.IntEnum):
    RED = 1


class Size(enum.StrEnum):
    SMALL = "small"


@dataclass
class Card:
    number: str
    cvc: str
    owner: object = None
    internal: str = field(default="hidden", repr=False)


class Account(BaseModel):
    name: str
    password: str
    pin: SecretStr = SecretStr("1234")
    internal: str = Field(default="hidden", repr=False)


class Login(NamedTuple):
    user: str
    passphrase: str


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, True, False, 0, -3, 2**63, 1.5, 0.0, "", "text", "ä€𝄞"])
def test_what_json_has_too_is_shown_as_it_is(value: object) -> None:
    assert shown(value) == value
    assert type(shown(value)) is type(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (Decimal("9.99"), "Decimal('9.99')"),
        (date(2026, 11, 23), "datetime.date(2026, 11, 23)"),
        (Colour.RED, "<Colour.RED: 1>"),
        (Size.SMALL, "small"),
        (b"12345", "[5 bytes]"),
        (bytearray(3), "[3 bytes]"),
        (2**64, "18446744073709551616"),
        (Card, "<class 'tests.engine.test_description.Card'>"),
    ],
)
def test_what_json_has_not_is_shown_as_text(value: object, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    "value", [[1, "a"], (1, "a"), deque([1, "a"]), OrderedDict([(1, 0), ("a", 0)]).keys()]
)
def test_a_sequence_is_shown_as_a_list(value: object) -> None:
    expected = "odict_keys([1, 'a'])" if "keys" in type(value).__name__ else [1, "a"]
    assert shown(value) == expected


def test_a_set_is_shown_as_a_list() -> None:
    assert sorted(shown({1, 2, 3})) == [1, 2, 3]
    assert shown(frozenset([4])) == [4]


def test_keys_become_text() -> None:
    assert shown({1: "a", (2, 3): "b"}) == {"1": "a", "(2, 3)": "b"}


def test_objects_with_fields_are_shown_by_field() -> None:
    point = namedtuple("point", "x y")  # noqa: PYI024  # an old one has no types
    assert shown(point(1, [2])) == {"x": 1, "y": [2]}
    assert shown(Card("1", "2", owner=(1,))) == {"number": "1", "cvc": "[redacted]", "owner": [1]}


def test_a_row_is_shown_by_its_key_without_asking_the_database(sqlite_url: str) -> None:
    engine = sa.create_engine(sqlite_url)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        note = Note(text="a")
        session.add(note)
        session.commit()
    # Detached and expired: to read its text would raise.
    assert shown(note) == "Note 1"
    assert shown([note]) == ["Note 1"]
    engine.dispose()


def test_a_row_that_is_a_dataclass_is_shown_by_its_key_too(sqlite_url: str) -> None:
    engine = sa.create_engine(sqlite_url)
    Rows.metadata.create_all(engine)
    with Session(engine) as session:
        badge = Badge(id="a", number=7, text="t")
        session.add(badge)
        session.commit()
    assert shown(badge) == "Badge a, 7"
    engine.dispose()


def test_a_row_that_has_no_key_yet_is_shown_as_it_shows_itself() -> None:
    assert shown(Note(text="a")).startswith("<tests.engine.support.Note object at ")


# -- secrets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "PASSWD",
        "passphrase",
        "db_pwd",
        "client_secret",
        "accessToken",
        "api_key",
        "apikey",
        "credentials",
        "Authorization",
        "session_cookie",
        "private_key",
        "cvc",
        "cvv2",
        "card_number",
        "cardNumber",
    ],
)
def test_what_sounds_like_a_secret_is_redacted(name: str) -> None:
    assert describe({name: "hunter2"}) == {name: "[redacted]"}
    assert shown([{name: ["hunter2"]}]) == [{name: "[redacted]"}]


@pytest.mark.parametrize("name", ["card", "number", "key", "author", "passenger", "company"])
def test_what_does_not_sound_like_a_secret_is_shown(name: str) -> None:
    assert describe({name: "x"}) == {name: "x"}


def test_secrets_inside_objects_are_redacted() -> None:
    account = Account(name="Ada", password="hunter2")
    assert shown(account) == {
        "name": "Ada",
        "password": "[redacted]",
        "pin": "SecretStr('**********')",
    }
    assert shown(Login("ada", "hunter2")) == {"user": "ada", "passphrase": "[redacted]"}


def test_what_an_object_leaves_out_of_its_repr_is_left_out() -> None:
    text = json.dumps(describe({"a": Card("1", "2"), "b": Account(name="a", password="b")}))
    assert "internal" not in text
    assert "hidden" not in text


def test_secrets_too_deep_to_be_shown_are_not_shown() -> None:
    deep: object = {"password": "hunter2"}
    for _ in range(DEPTH_LIMIT):
        deep = [deep]
    assert "hunter2" not in json.dumps(describe({"deep": deep}))
    account = Account(name="Ada", password="hunter2")
    assert "hunter2" not in json.dumps(describe({"deep": [[[[account]]]]}))


# -- limits ----------------------------------------------------------------------------------------


def test_a_long_text_is_cut() -> None:
    assert shown("x" * TEXT_LIMIT) == "x" * TEXT_LIMIT
    assert shown("x" * (TEXT_LIMIT + 1)) == "x" * (TEXT_LIMIT - 1) + "…"
    assert len(shown({"k" * 1000: Decimal("1." + "3" * 1000)}).popitem()[1]) == TEXT_LIMIT


def test_a_long_collection_is_cut_and_says_how_long_it_is() -> None:
    assert shown(list(range(ITEM_LIMIT))) == list(range(ITEM_LIMIT))
    assert shown(list(range(ITEM_LIMIT + 3)))[ITEM_LIMIT:] == ["… 3 more"]
    many = shown({str(n): n for n in range(ITEM_LIMIT + 3)})
    assert len(many) == ITEM_LIMIT + 1
    assert many["…"] == "3 more"


def test_deep_nesting_is_cut_and_says_what_is_there() -> None:
    assert shown([[[[[1, 2]]]]]) == [[[["[list of 2]"]]]]
    assert shown([[[[{"a": 1}, (1, 2, 3), Card("1", "2"), 5]]]]) == [
        [[["[dict of 1]", "[tuple of 3]", "[Card of 3]", 5]]]
    ]


def test_wide_and_deep_values_are_cut_in_all() -> None:
    wide = [[[["x" * 1000] * 20] * 20] * 20] * 20
    text = json.dumps(describe({"a": wide, "b": wide, "c": [1, 2]}))
    assert len(text) < VALUE_LIMIT * (TEXT_LIMIT + 20)
    assert shown(wide)[-1] == "… 19 more"


def test_a_value_that_contains_itself_is_cut() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert shown(loop) == [[[["[list of 1]"]]]]


# -- objects that resist ---------------------------------------------------------------------------


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class HostileMapping(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        raise OSError

    def __iter__(self) -> Iterator[str]:
        raise OSError

    def __len__(self) -> int:
        return 1


class HostileKey:
    def __str__(self) -> str:
        raise KeyError


class Slippery:
    """As a proxy that has no object at the moment."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_an_object_that_raises_is_named_and_the_rest_is_shown() -> None:
    assert describe({"a": Hostile(), "b": 2}) == {
        "a": "<Hostile, which could not be shown: RuntimeError>",
        "b": 2,
    }
    assert shown([1, Hostile(), HostileMapping()]) == [
        1,
        "<Hostile, which could not be shown: RuntimeError>",
        "<HostileMapping, which could not be shown: OSError>",
    ]
    assert shown({HostileKey(): 1}) == "<dict, which could not be shown: KeyError>"
    assert shown(Slippery()) == "<Slippery, which could not be shown: RuntimeError>"


def test_an_integer_too_long_to_be_written_is_named() -> None:
    assert shown(10**5000) == "<int, which could not be shown: ValueError>"


# -- always ----------------------------------------------------------------------------------------

texts = st.text(st.characters(codec=None, categories=None), max_size=300) | st.sampled_from(
    ["\x00", "\ud800", "a\x00b" * 100, "password"]
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    texts,
    st.binary(),
    st.decimals(),
    st.datetimes(timezones=st.just(UTC)),
    st.sampled_from([Colour.RED, object]),
    st.builds(HostileMapping),
    st.integers(0, 9).map(lambda digit: digit + 10**5000),
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=30)
        | st.dictionaries(texts | st.integers() | st.booleans(), inner, max_size=30)
        | st.tuples(inner, inner)
        | st.frozensets(texts)
        | st.builds(Card, texts, texts, inner)
    ),
    max_leaves=100,
)
names = st.text(string.ascii_lowercase + "_", min_size=1, max_size=20)


@given(st.dictionaries(names, values, max_size=6))
def test_a_description_is_always_json_bounded_and_free_of_nul(arguments: dict[str, Any]) -> None:
    described = describe(arguments)
    text = json.dumps(described, allow_nan=False)
    assert json.loads(text) == described
    assert described.keys() == arguments.keys()
    assert "\\u0000" not in text
    json.dumps(described, ensure_ascii=False).encode()  # no lone surrogate
    assert len(json.dumps(described, ensure_ascii=False)) < VALUE_LIMIT * (2 * TEXT_LIMIT + 50)
    assert all(len(string) <= TEXT_LIMIT for string in _strings(described))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (key, *_strings(item))


def test_an_instant_is_shown() -> None:
    assert shown(datetime(2026, 1, 1, tzinfo=UTC)).startswith("datetime.datetime(2026, 1, 1")
