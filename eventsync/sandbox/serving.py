"""Puts a sandbox together from its options and serves it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from eventsync.sandbox.clock import SandboxClock
from eventsync.sandbox.control import PREFIX, ControlApi
from eventsync.sandbox.delivery import WebhookSender
from eventsync.sandbox.errors import StateError
from eventsync.sandbox.gate import ApiGate
from eventsync.sandbox.ledger import Ledger
from eventsync.sandbox.openings import Opening, opening_of
from eventsync.sandbox.options import SandboxOptions
from eventsync.sandbox.quota import Quota, QuotaLimits
from eventsync.sandbox.sandbox import Sandbox, check_targets
from eventsync.sandbox.script import ApiScript
from eventsync.sandbox.state import SavedState, encode_state, load_state, save_state
from eventsync.sandbox.stats import Stats
from eventsync.sandbox.traffic import Traffic, TrafficMix
from eventsync.sandbox.vendor import PretendVendor

_MAX_BODY_BYTES = 1 << 20
_SHUTDOWN_S = 2.0


@dataclass(frozen=True, slots=True)
class RunningSandbox:
    """Where a sandbox is reached, and the sandbox itself for use in the same process."""

    base_url: str  # http://host:port
    api_url: str  # base of the vendor's API, what a connection is given
    control_url: str
    api_key: str
    practice_id: str | None  # None where the vendor's webhooks carry no account
    sandbox: Sandbox


@asynccontextmanager
async def serve(options: SandboxOptions) -> AsyncIterator[RunningSandbox]:
    """Run a sandbox until the block is left; its practice is then saved if a path was given.

    Raises OptionsError for options that cannot be, StateError for an unusable state file, OSError for a taken port.
    """
    clock = options.clock or SandboxClock(_start_ms(options), options.speed)
    opening = opening_of(options.vendor)
    vendor = _open_vendor(opening, options, clock)
    check_targets(vendor, options.webhook_targets)
    sandbox = _compose(options, vendor, clock, opening.quota)
    async with AsyncExitStack() as stack:
        if options.state_path is not None:
            await stack.enter_async_context(_saving(options.state_path, sandbox, options.save_every_s))
        await stack.enter_async_context(sandbox.sender.running())
        runner = web.AppRunner(
            _application(sandbox), handle_signals=False, access_log=None, shutdown_timeout=_SHUTDOWN_S
        )
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, options.host, options.port).start()
        stack.push_async_callback(sandbox.stop_traffic)
        if options.rate_per_s > 0:
            await sandbox.start_traffic(options.rate_per_s, TrafficMix(silent_share=options.silent_share))
        yield _running(options, vendor, sandbox, runner)


def _start_ms(options: SandboxOptions) -> int:
    return int(time.time() * 1000) if options.start_ms is None else options.start_ms


def _open_vendor(opening: Opening, options: SandboxOptions, clock: SandboxClock) -> PretendVendor:
    """The saved practice or a new one; the clock is moved on to the saved one's time."""
    saved = None if options.state_path is None else load_state(options.state_path, options.vendor)
    if saved is not None:
        clock.advance(max(saved.now_ms - clock.now_ms(), 0))
        try:
            return opening.saved(saved.data)
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"{options.state_path} is damaged; remove it to start anew") from error
    return opening.new(options, clock.now_ms())


def _compose(
    options: SandboxOptions, vendor: PretendVendor, clock: SandboxClock, default_quota: QuotaLimits
) -> Sandbox:
    stats, ledger = Stats(), Ledger(options.ledger_limit)
    sender = WebhookSender(
        targets=options.webhook_targets,
        faults=options.faults,
        rng=random.Random(f"{options.seed}:webhook faults"),
        stats=stats,
        signing=options.signing,
        signature_form=vendor.signature_form,
        limits=options.sender,
    )
    gate = ApiGate(
        form=vendor.api,
        script=ApiScript(vendor.api.routes),
        api_key=options.api_key,
        quota=Quota(default_quota if options.quota is None else options.quota),
        faults=options.faults,
        rng=random.Random(f"{options.seed}:api faults"),
        clock=clock,
        stats=stats,
    )
    traffic = Traffic(
        vendor=vendor,
        sender=sender,
        clock=clock,
        rng=random.Random(f"{options.seed}:traffic:{vendor.serial}"),
        stats=stats,
        ledger=ledger,
    )
    return Sandbox(
        default_quota=default_quota,
        vendor=vendor,
        clock=clock,
        sender=sender,
        gate=gate,
        traffic=traffic,
        stats=stats,
        ledger=ledger,
    )


def _application(sandbox: Sandbox) -> web.Application:
    api = web.Application(middlewares=[sandbox.gate.middleware()], client_max_size=_MAX_BODY_BYTES)
    sandbox.vendor.add_routes(api, sandbox.clock.now_ms)
    app = web.Application()
    app.add_subapp(sandbox.vendor.api.prefix, api)
    app.add_subapp(PREFIX, ControlApi(sandbox).application())
    return app


def _running(options: SandboxOptions, vendor: PretendVendor, sandbox: Sandbox, runner: web.AppRunner) -> RunningSandbox:
    port = runner.addresses[0][1]
    host = f"[{options.host}]" if ":" in options.host else options.host
    base_url = f"http://{host}:{port}"
    return RunningSandbox(
        base_url=base_url,
        api_url=base_url + vendor.api.prefix,
        control_url=base_url + PREFIX,
        api_key=options.api_key,
        practice_id=vendor.account_id,
        sandbox=sandbox,
    )


def _encoded(sandbox: Sandbox) -> bytes:
    state = SavedState(sandbox.clock.now_ms(), sandbox.vendor.to_state())
    return encode_state(sandbox.vendor.name, state)


@asynccontextmanager
async def _saving(path: Path, sandbox: Sandbox, every_s: float) -> AsyncIterator[None]:
    """Save from time to time, and at the end whatever happened."""
    stop = asyncio.Event()
    saver = asyncio.create_task(_save_until(stop, path, sandbox, every_s))
    try:
        yield
    finally:
        stop.set()  # not cancelled: a write under way in its thread must end before the last one begins
        await saver
        save_state(path, _encoded(sandbox))


async def _save_until(stop: asyncio.Event, path: Path, sandbox: Sandbox, every_s: float) -> None:
    saved_revision = -1
    while not stop.is_set():
        revision = sandbox.vendor.revision
        if revision != saved_revision:
            try:
                await asyncio.to_thread(save_state, path, _encoded(sandbox))
                saved_revision = revision
            except OSError:  # a full disk may have room again; the last save, on leaving, does raise
                sandbox.stats.failed_saves += 1
        with suppress(TimeoutError):
            async with asyncio.timeout(every_s):
                await stop.wait()
