"""The codec: values survive, signatures bind them to their place, sizes are bounded."""

from __future__ import annotations

import collections
import copyreg
import dataclasses
import decimal
import enum
import fractions
import hmac
import logging
import pathlib
import pickle
import re
import uuid
import zoneinfo
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any, Generic, NamedTuple, TypeVar

import dill
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowroute.engine.codec import PYTHON_TAG, Codec, place_of
from flowroute.engine.signing import Signatures
from flowroute.errors import (
    CheckpointTampered,
    CheckpointUnreadable,
    ConfigurationError,
    ForeignPython,
    PayloadTooLarge,
    SecretKeyMissing,
    TokenInvalid,
    UnstorableValue,
)

CODEC = Codec(["a key"])
T = TypeVar("T")


def no_session() -> Any:
    pytest.fail("the session was asked for, and there is no row")


def encode(value: Any, codec: Codec = CODEC, run_id: str = "run", seq: int = 1) -> bytes:
    return codec.encode(("pay", {}, {"value": value}), run_id=run_id, seq=seq, session=no_session)


def decode(payload: bytes, codec: Codec = CODEC, run_id: str = "run", seq: int = 1) -> Any:
    value = codec.decode(payload, run_id=run_id, seq=seq, python=PYTHON_TAG, session=no_session)
    assert value[:2] == ("pay", {})
    return value[2]["value"]


class Colour(enum.Enum):
    RED = "red"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: int = 0


@dataclasses.dataclass
class Cart:
    items: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Money:
    amount: decimal.Decimal
    currency: str


class Address(pydantic.BaseModel):
    street: str
    lines: list[str] = []
    _checked: bool = pydantic.PrivateAttr(default=False)


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slotted) and other.value == self.value

    __hash__ = None  # type: ignore[assignment]  # equality by a value that changes

    def __repr__(self) -> str:
        return f"Slotted({self.value!r})"


class Reduced:
    """Says itself how it is pickled."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.opened = object()

    def __reduce__(self) -> tuple[Any, ...]:
        return Reduced, (self.value,)


class Registered:
    """Registered with copyreg by a test, after the codec has met it."""

    def __init__(self, value: int) -> None:
        self.value = value


class CartError(Exception):
    def __init__(self, cart: str, *, code: int = 0) -> None:
        super().__init__(cart)
        self.code = code


VALUES: list[object] = [
    None,
    False,
    0,
    0.0,
    -0.0,
    "",
    b"",
    [],
    {},
    (),
    set(),
    frozenset(),
    10**100,
    float("inf"),
    1 + 2j,
    "a\ud800b\0ü😀",
    b"\x00\xff",
    bytearray(b"xyz"),
    {1, 2},
    frozenset({"a"}),
    {None: 1, (1, 2): {3}},
    range(3),
    ...,
    int,
    type(None),
    decimal.Decimal("1.10"),
    fractions.Fraction(1, 3),
    date(2026, 11, 23),
    time(12, 30, tzinfo=UTC),
    datetime(2026, 11, 23, 17, 30, tzinfo=UTC),
    datetime(2026, 11, 23, 17, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    timezone(timedelta(hours=1)),
    timedelta(seconds=1.5),
    uuid.UUID(int=7),
    pathlib.PurePosixPath("/srv/file"),
    re.compile("a+"),
    Colour.RED,
    Access.READ | Access.WRITE,
    Point(1),
    Cart(["tea"]),
    Money(decimal.Decimal("9.90"), "EUR"),
    Address(street="12 St James's Square", lines=["x"]),
    Page[int](items=[1]),
    Page[Address](items=[Address(street="s")]),
    Slotted([1]),
    collections.OrderedDict(a=1, b=2),
    collections.Counter("abca"),
    collections.defaultdict(list, a=[1]),
    collections.deque([1, 2], maxlen=5),
    collections.ChainMap({"a": 1}, {"b": 2}),
    slice(1, 2, 3),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_equal_and_of_the_same_type(value: object) -> None:
    found = decode(encode(value))
    assert type(found) is type(value)
    assert repr(found) == repr(value)
    # There is no equality across the two, and they are the same by their repr.
    assert found == value or isinstance(value, collections.ChainMap)


def test_private_attributes_of_a_pydantic_model_come_back() -> None:
    address = Address(street="s")
    address._checked = True  # noqa: SLF001  # what this test is about
    assert decode(encode(address))._checked is True  # noqa: SLF001


def test_a_parametrised_pydantic_model_is_the_very_class_again() -> None:
    def inside() -> type[Page[dict[str, Cart]]]:
        return Page[dict[str, Cart]]  # its name is in no module

    assert type(decode(encode(inside()(items=[])))) is inside()


def test_an_exception_comes_back_with_its_arguments_and_attributes() -> None:
    found = decode(encode(CartError("empty", code=3)))
    assert (type(found), found.args, found.code) == (CartError, ("empty",), 3)


def test_one_object_held_twice_is_one_object_again() -> None:
    cart = Cart()
    first, second = decode(encode([cart, {"again": cart}]))
    assert first is second["again"]


def test_a_value_that_holds_itself_comes_back() -> None:
    cart = Cart()
    cart.items.append(cart)  # type: ignore[arg-type]  # a cycle
    found = decode(encode(cart))
    assert found.items[0] is found


def test_the_users_own_reduce_is_honoured() -> None:
    found = decode(encode(Reduced(7)))
    assert found.value == 7


def test_what_is_registered_with_copyreg_later_is_honoured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert decode(encode(Registered(1))).value == 1
    monkeypatch.setitem(
        copyreg.dispatch_table, Registered, lambda it: (Registered, (it.value + 100,))
    )
    assert decode(encode(Registered(1))).value == 101
    assert decode(encode([Registered(1), lambda: None]))[0].value == 101  # dill's pickler too


atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.datetimes(timezones=st.just(UTC))
    | st.dates()
    | st.timedeltas()
    | st.uuids()
    | st.sampled_from(Colour)
    | st.builds(Money, st.decimals(allow_nan=False), st.text(max_size=3))
)
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=8), inner, max_size=5)
        | st.tuples(inner, inner)
        | st.builds(Slotted, inner)
    ),
    max_leaves=20,
)


@given(values)
def test_any_nesting_of_values_comes_back(value: object) -> None:
    assert decode(encode(value)) == value


@given(values)
def test_dill_writes_any_nesting_of_values_as_the_fast_pickler_does(value: object) -> None:
    found, function = decode(encode([value, lambda: 5]))
    assert found == value
    assert function() == 5


def test_threads_share_a_codec() -> None:
    def back_and_forth(n: int) -> bool:
        plain, code = encode([n, Cart([str(n)])]), encode([n, lambda: n])
        return bool(decode(plain) == [n, Cart([str(n)])] and decode(code)[1]() == n)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(back_and_forth, range(400)))


def test_a_stream_without_rows_is_what_dill_reads() -> None:
    value = ("pay", {"n": 1}, {"cart": Cart(["tea"]), "f": lambda n: n + 1})
    payload = CODEC.encode(value, run_id="run", seq=1, session=no_session)
    step, state, arguments = dill.loads(payload[34:])  # noqa: S301  # our own bytes
    assert (step, state, arguments["cart"]) == ("pay", {"n": 1}, Cart(["tea"]))
    assert arguments["f"](1) == 2


# -- signatures ------------------------------------------------------------------------------------


def test_the_signature_is_an_hmac_sha256_over_all_that_matters() -> None:
    payload = encode(1, run_id="ab", seq=12)
    key = hmac.digest(b"a key", b"flowroute checkpoint", "sha256")
    place = payload[:2] + f"12 2 {len(PYTHON_TAG)} ab{PYTHON_TAG}".encode()
    assert payload[2:34] == hmac.digest(key, place + payload[34:], "sha256")


@pytest.mark.parametrize(
    ("run_id", "seq", "python"),
    [("other", 1, PYTHON_TAG), ("run", 2, PYTHON_TAG), ("run", 1, "cp27")],
)
def test_a_checkpoint_is_valid_only_where_it_belongs(run_id: str, seq: int, python: str) -> None:
    with pytest.raises(CheckpointTampered, match="no valid signature") as caught:
        CODEC.decode(encode(1), run_id=run_id, seq=seq, python=python, session=no_session)
    assert caught.value.run_id == run_id


@given(
    st.lists(
        st.tuples(st.text(max_size=6), st.integers(0, 10**6), st.text(max_size=6)),
        min_size=2,
        max_size=2,
        unique=True,
    )
)
def test_no_two_places_are_signed_as_the_same_text(places: list[tuple[str, int, str]]) -> None:
    first, second = (place_of(b"\x01\x00", *place) for place in places)
    assert not first.startswith(second)


@pytest.mark.parametrize("size", [0, 1, 2, 33, 34])
def test_a_payload_that_is_cut_off_is_refused(size: int) -> None:
    with pytest.raises(CheckpointTampered):
        decode(encode(1)[:size])


def test_a_newer_key_signs_and_older_keys_still_verify() -> None:
    old, both, new = Codec(["old"]), Codec([b"new", "old"]), Codec(["new"])
    assert decode(encode(1, old), both) == 1
    assert decode(encode(1, both), both) == 1
    assert decode(encode(1, both), new) == 1
    with pytest.raises(CheckpointTampered):
        decode(encode(1, both), old)


def test_a_retired_key_no_longer_verifies() -> None:
    with pytest.raises(CheckpointTampered, match="put the old one back"):
        decode(encode(1, Codec(["old"])), Codec(["new"]))


@pytest.mark.parametrize("keys", [[], [""], ["good", b""]])
def test_a_missing_key_is_refused_in_a_sentence(keys: list[str | bytes]) -> None:
    with pytest.raises(SecretKeyMissing, match="FLOWROUTE_SECRET_KEYS"):
        Codec(keys)


@pytest.mark.parametrize("keys", ["one key", b"one key"], ids=["str", "bytes"])
def test_a_text_is_not_taken_for_a_list_of_keys(keys: Sequence[Any]) -> None:
    with pytest.raises(ConfigurationError, match=re.escape("write [key]")):
        Codec(keys)


def authentic(
    stream: bytes, *, version: int = 1, flags: int = 0, python: str = PYTHON_TAG
) -> bytes:
    head = bytes((version, flags))
    return head + CODEC.mac(place_of(head, "run", 1, python), stream) + stream


def test_a_checkpoint_of_a_later_format_is_refused_with_both_versions_named() -> None:
    payload = authentic(pickle.dumps(1), version=2)
    with pytest.raises(CheckpointUnreadable, match=r"format 2.* reads format 1"):
        decode(payload)


# -- the interpreter -------------------------------------------------------------------------------


def test_the_python_tag_names_this_interpreter() -> None:
    assert re.fullmatch(r"(cp|pp)3\d+", PYTHON_TAG)


def test_code_of_another_python_is_not_loaded() -> None:
    payload = authentic(encode(lambda: 1)[34:], flags=1, python="cp39")
    with pytest.raises(ForeignPython, match=r"cp39 wrote, and this process is "):
        CODEC.decode(payload, run_id="run", seq=1, python="cp39", session=no_session)


def test_values_without_code_cross_to_another_python() -> None:
    payload = authentic(encode(Cart(["tea"]))[34:], python="cp39")
    value = CODEC.decode(payload, run_id="run", seq=1, python="cp39", session=no_session)
    assert value[2] == {"value": Cart(["tea"])}


@pytest.mark.parametrize(
    ("value", "holds_code"),
    [
        (Cart(), False),
        (slice(1), False),  # dill writes it, and it holds no code
        (len, False),
        (encode, False),
        (lambda: 1, True),
        ([{"deep": lambda: 1}], True),
    ],
)
def test_only_code_by_value_is_marked_as_such(value: object, *, holds_code: bool) -> None:
    assert bool(encode(value)[1] & 1) is holds_code


# -- sizes -----------------------------------------------------------------------------------------


def test_a_large_checkpoint_is_refused_and_the_largest_argument_named() -> None:
    codec = Codec(["k"], max_bytes=10_000)
    value = ("pay", {"note": "n" * 2_000}, {"small": 1, "report": b"x" * 9_000})
    with pytest.raises(PayloadTooLarge) as caught:
        codec.encode(value, run_id="run", seq=1, session=no_session)
    error = caught.value
    assert (error.path, error.run_id, error.step) == ("arguments['report']", "run", "pay")
    assert "more than 10 kB" in str(error)
    assert "arguments['report'] with 9 kB" in str(error)


def test_an_argument_beyond_the_limit_is_not_written_to_its_end() -> None:
    written = []

    class Endless(list[int]):
        def __iter__(self) -> Any:
            for each in range(10**9):
                written.append(each)
                yield each

    globals()["Endless"], Endless.__qualname__ = Endless, "Endless"
    with pytest.raises(PayloadTooLarge, match=r"state\['n'\] with more than 100 kB"):
        Codec(["k"], max_bytes=100_000).encode(
            ("pay", {"n": Endless()}, {}), run_id="run", seq=1, session=no_session
        )
    assert len(written) < 1_000_000


def test_the_limit_is_met_exactly() -> None:
    size = len(encode("x" * 5_000))
    assert len(encode("x" * 5_000, Codec(["k"], max_bytes=size))) == size
    with pytest.raises(PayloadTooLarge):
        encode("x" * 5_000, Codec(["k"], max_bytes=size - 1))


def test_code_by_value_is_bounded_too() -> None:
    with pytest.raises(PayloadTooLarge, match=r"arguments\['value'\]"):
        encode([lambda: 1, b"x" * 5_000], Codec(["k"], max_bytes=5_000))


def test_a_result_is_called_a_result() -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        Codec(["k"], max_bytes=900).encode(
            ("", {}, {"result": "x" * 1_000}), run_id="run", seq=1, session=no_session
        )
    assert (caught.value.path, caught.value.step) == ("result", None)


def test_a_checkpoint_above_the_warning_size_is_logged_with_its_largest_part(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, logger="flowroute")
    codec = Codec(["k"], max_bytes=3_000_000, warn_bytes=1_000_000)
    encode("x" * 900_000, codec)
    assert not caplog.records
    encode("x" * 1_500_000, codec, run_id="r7", seq=4)
    (record,) = caplog.records
    assert "Checkpoint r7/4 has 1.5 MB" in record.getMessage()
    assert "arguments['value'] with 1.5 MB" in record.getMessage()


def test_a_checkpoint_is_warned_of_from_512_kilobytes_and_refused_from_2_megabytes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, logger="flowroute")
    overhead = len(encode("x" * 100_000)) - 100_000
    encode("x" * (512_000 - overhead))
    assert not caplog.records
    encode("x" * (512_001 - overhead))
    (record,) = caplog.records
    assert "arguments['value'] with 512 kB" in record.getMessage()
    assert len(encode("x" * (2_000_000 - overhead))) == 2_000_000
    with pytest.raises(PayloadTooLarge, match=r"more than 2\.0 MB.*arguments\['value'\]"):
        encode("x" * (2_000_001 - overhead))


def test_sizes_below_a_kilobyte_are_told_in_bytes() -> None:
    with pytest.raises(PayloadTooLarge, match="more than 100 bytes"):
        encode("x" * 1_000, Codec(["k"], max_bytes=100))


# -- tokens ----------------------------------------------------------------------------------------


def test_a_token_gives_back_its_text() -> None:
    token = CODEC.sign("01JD/7", "job")
    assert re.fullmatch(r"01JD/7\.[A-Za-z0-9_-]{43}", token)
    assert CODEC.unsign(token, "job") == "01JD/7"


@given(st.text("abz059._~!$&'()*+,;=:@/-"))
def test_any_text_that_a_url_carries_can_be_signed(text: str) -> None:
    assert CODEC.unsign(CODEC.sign(text, "url"), "url") == text


@pytest.mark.parametrize("text", ["a b", "a%20b", "ä", "a?b", "a#b", 'a"b', "a\n", "<x>"])
def test_a_text_that_a_url_would_escape_can_not_be_signed(text: str) -> None:
    with pytest.raises(ValueError, match="can not hold"):
        CODEC.sign(text, "url")


@pytest.mark.parametrize("purpose", ["url", "jo", "", "job "])
def test_a_token_is_worth_nothing_for_another_purpose(purpose: str) -> None:
    with pytest.raises(TokenInvalid):
        CODEC.unsign(CODEC.sign("01JD/7", "job"), purpose)


def test_any_change_of_a_token_makes_it_invalid() -> None:
    token = CODEC.sign("01JD/7", "job")
    for index in range(len(token)):
        for other in "A_.b":
            if token[index] != other:
                with pytest.raises(TokenInvalid):
                    CODEC.unsign(token[:index] + other + token[index + 1 :], "job")
        with pytest.raises(TokenInvalid):
            CODEC.unsign(token[:index] + token[index + 1 :], "job")


@pytest.mark.parametrize(
    "token", [None, 7, b"a.b", [], {}, "", ".", "a", "a.b", "é.b", "\ud800"], ids=ascii
)
def test_anything_else_is_an_invalid_token(token: object) -> None:
    with pytest.raises(TokenInvalid):
        CODEC.unsign(token, "job")


def test_tokens_follow_the_rotation_of_keys() -> None:
    old, both, new = Codec(["old"]), Codec(["new", "old"]), Codec(["new"])
    assert both.unsign(old.sign("x", "job"), "job") == "x"
    assert new.unsign(both.sign("x", "job"), "job") == "x"
    with pytest.raises(TokenInvalid):
        new.unsign(old.sign("x", "job"), "job")


def test_the_mac_of_a_checkpoint_is_no_token_and_the_other_way_round() -> None:
    signatures = Signatures(["k"])
    mac = signatures.mac(b"", b"text")
    token = signatures.sign("text", "checkpoint").partition(".")[2]
    assert not signatures.verify(token.encode(), b"", b"text")
    assert mac.hex() not in token
    with pytest.raises(TokenInvalid):
        signatures.unsign(f"text.{mac.hex()}", "checkpoint")


def test_an_error_on_writing_names_run_and_step() -> None:
    with pytest.raises(UnstorableValue) as caught:
        encode(iter_forever())
    assert (caught.value.run_id, caught.value.step) == ("run", "pay")


def iter_forever() -> Any:
    while True:
        yield 1
