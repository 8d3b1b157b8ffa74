"""A small part of the campaign of requests, and that it would notice a careless door."""

from __future__ import annotations

from typing import Any

import pytest
from flask import redirect, request

from flowroute.engine import flow
from flowroute.flask import extension
from flowroute.flask.tasks import Task
from tests.faults import doors
from tests.flask.flows import SiteCard, SiteForm, SiteParcel, SiteResult


@pytest.fixture(autouse=True)
def flows_of_the_site(own_flows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flows of the site are known as well."""
    del own_flows  # which has forgotten them by now
    for each in (SiteCard, SiteForm, SiteParcel, SiteResult):
        monkeypatch.setitem(flow._flows, each.__name__, each)  # noqa: SLF001


@pytest.mark.slow
def test_no_request_is_an_error_of_ours_or_moves_what_it_must_not(sqlite_url: str) -> None:
    report = doors.campaign(sqlite_url, seed=20, requests_sent=300)
    assert report.clean, report.broken
    assert report.points == 300
    assert set(report.notes["requests"]) >= {
        *("flowroute.show", "flowroute.submit", "flowroute.state", "flowroute.retry"),
        *("order", "pay", "doubled", "led", "view"),
    }
    assert set(report.notes["answers"]) >= {"200", "303", "404", "405", "500"}


def raises(self: Task[Any]) -> Any:
    """An error in a view."""
    raise KeyError(self)


def leads_away(address: str) -> Any:
    """A redirect off the site, where a request has a body."""
    return redirect(f"//evil.example{address}" if request.content_length else address, 303)


@pytest.mark.parametrize(
    ("where", "name", "careless", "noticed"),
    [
        (Task, "__call__", raises, "raised KeyError"),
        (extension, "see_other", leads_away, "leads to '//evil.example"),
    ],
)
def test_the_campaign_notices_a_door_that_is(
    sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    where: Any,
    name: str,
    careless: Any,
    noticed: str,
) -> None:
    monkeypatch.setattr(where, name, careless)
    report = doors.campaign(sqlite_url, seed=20, requests_sent=120)
    assert any(noticed in each for each in report.broken)
