"""What a process says of itself at its port: the parts that are not ready, and figures of its metrics."""

from __future__ import annotations

import aiohttp

from servers.eventually import eventually

_TIMEOUT = aiohttp.ClientTimeout(total=10)


async def unready_parts(base_url: str) -> set[str]:
    """Ask which parts are not ready now, whether or not the process as a whole is."""
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as http, http.get(f"{base_url}/readyz") as answer:
        parts: dict[str, dict[str, object]] = (await answer.json())["parts"]
        return {name for name, part in parts.items() if not part["ready"]}


async def says_that_it_lacks(base_url: str, part: str, *, within_s: float = 30.0) -> None:
    """Wait until the process says that a part is not ready."""

    async def says_so() -> bool:
        return part in await unready_parts(base_url)

    await eventually(says_so, within_s)


async def says_that_all_is_well(base_url: str, *, within_s: float = 30.0) -> None:
    """Wait until every part of the process is ready, those that do not block included."""

    async def says_so() -> bool:
        unready = await unready_parts(base_url)
        assert not unready
        return True

    await eventually(says_so, within_s)


async def spooled_events(base_url: str) -> float:
    """Tell how many webhooks the process has put into its spool since it started."""
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as http, http.get(f"{base_url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    counts = [line for line in lines if line.startswith("eventsync_events_received_total") and 'store="spool"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in counts)
