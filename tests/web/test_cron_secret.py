"""CRON_SECRET opens the endpoints that say so, and nothing else; without it, only admins do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from eventsync.domain.errors import Misconfigured
from eventsync.settings import load_settings
from eventsync.wiring.process import Process
from web.api_site import Site
from web.played_worker import PlayedWorker, completed
from web.sync_site import hasty_site
from web.test_api_access import guarded_routes

SECRET = "c2VjcmV0LW9mLXRoZS1jcm9uLWpvYg=="
CRON = "/api/cron/sync-practiceq-appointments"


@pytest.fixture(autouse=True)
def cron_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process read it from its environment, as it is named there."""
    monkeypatch.setenv("CRON_SECRET", f"{SECRET}\n")


@pytest.fixture
async def secretless(site: Site, api_process: Process) -> AsyncIterator[Site]:
    """The same site, where no CRON_SECRET is set."""
    async with hasty_site(site, api_process) as served:
        yield served


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_secret_starts_the_daily_run(site: Site, method: str) -> None:
    async with PlayedWorker(site.pool).working(lambda _: completed()) as done:
        answer = await site.call(method, CRON, SECRET)
    assert (answer.status, answer.json["success"]) == (200, True)
    assert [run.triggered_by for run in done] == ["cron", "cron"]


async def test_an_admin_starts_it_too_and_others_are_told_that_they_may_not(site: Site) -> None:
    async with PlayedWorker(site.pool).working(lambda _: completed()):
        assert (await site.post(CRON, site.admin)).status == 200
    for token in (site.practice.operator, site.practice.viewer):
        for method in ("GET", "POST"):
            answer = await site.call(method, CRON, token)
            assert (answer.status, answer.code) == (403, "role_not_allowed")


@pytest.mark.parametrize(
    "sent",
    [
        None,
        "Bearer ",
        "Bearer nobodys",
        f"Bearer {SECRET[:-1]}",
        f"Bearer {SECRET[1:]}",
        f"Bearer {SECRET}=",
        f"Bearer {SECRET.lower()}",
        f"Bearer {SECRET} {SECRET}",
        "Bearer schl\u00fcssel",
        f"Basic {SECRET}",
        SECRET,
    ],
)
async def test_what_is_not_the_secret_opens_nothing(site: Site, sent: str | None) -> None:
    headers = [] if sent is None else [("Authorization", sent)]
    answer = await site.call("POST", CRON, None, headers=headers)
    assert answer.status == 401
    assert answer.code in {"missing_token", "invalid_token"}
    assert await PlayedWorker(site.pool).runs.recent() == []


async def test_the_secret_in_a_query_or_twice_is_none(site: Site) -> None:
    twice = [("Authorization", f"Bearer {SECRET}")] * 2
    assert (await site.call("POST", CRON, None, headers=twice)).status == 401
    assert (await site.call("POST", CRON, None, query={"token": SECRET})).status == 401


async def test_the_secret_opens_nothing_else(site: Site, api_process: Process) -> None:
    others = [(method, path) for method, path in guarded_routes(api_process) if path != CRON]
    assert len(others) >= 12
    for method, path in (*others, ("DELETE", CRON), ("PUT", CRON), ("POST", CRON + "/"), ("POST", "/api/cron/other")):
        answer = await site.call(method, path, SECRET)
        assert (answer.status, answer.code) == (401, "invalid_token"), (method, path)


async def test_without_a_secret_only_admins_come_in(secretless: Site) -> None:
    for token in (SECRET, "", None):
        assert (await secretless.post(CRON, token)).status == 401
    assert (await secretless.post(CRON, secretless.practice.operator)).status == 403
    assert (await secretless.post(CRON, secretless.admin)).status == 202


async def test_the_secret_is_told_nowhere(site: Site, api_process: Process) -> None:
    with capture_logs() as logs:
        answers = [await site.call("POST", path, SECRET) for path in ("/api/v1/nothing", "/api/v1/events")]
        answers.append(await site.call("POST", CRON, SECRET, data=b"{wrong"))
    assert SECRET not in str([answer.json for answer in answers])
    assert SECRET not in str(logs)
    assert SECRET not in repr(api_process.options.settings)


async def test_the_secret_may_mean_one_organization(site: Site) -> None:
    async with PlayedWorker(site.pool).working(lambda _: completed()) as done:
        assert (await site.call("POST", CRON, SECRET, org="practice-2")).status == 200
    assert [run.connection_id for run in done] == [site.other.connection_id]
    unknown = await site.call("POST", CRON, SECRET, org="nobody")
    assert (unknown.status, unknown.code) == (404, "unknown_organization")


def test_an_empty_secret_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for empty in ("", " ", "\n"):
        monkeypatch.setenv("CRON_SECRET", empty)
        assert load_settings().cron_secret is None


def test_a_secret_that_no_header_can_carry_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for wrong in ("schlüssel", "two\nlines"):
        monkeypatch.setenv("CRON_SECRET", wrong)
        with pytest.raises(Misconfigured, match=r"\n  CRON_SECRET: ") as caught:
            load_settings()
        assert wrong not in str(caught.value)
