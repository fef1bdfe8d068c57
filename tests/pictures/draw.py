"""Draws the README's pictures from the product at work: `make pictures`."""

from __future__ import annotations

import asyncio
import io
import re
import sys
import tempfile
from pathlib import Path

import uvloop
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from eventsync.cli.live import LiveView
from eventsync.postgres.migrations import migrate
from eventsync.settings import Settings
from eventsync.wiring import Role, keyring_of
from eventsync.wiring.demo import DemoOptions, keep_busy, open_demo
from eventsync.wiring.home import DatabaseHome
from eventsync.wiring.process import ProcessOptions, open_process

_WITHOUT_REMOTE_FONTS = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
_FRAMES = 60
_FRAME_S = 0.5


async def draw_live_view(settings: Settings, target: str) -> None:
    """Run everything with a busy pretend practice for half a minute, and keep the last frame."""
    async with DatabaseHome(settings) as home:
        await migrate(home.url)
        options = ProcessOptions(
            settings=settings,
            roles=frozenset(Role),
            database_url=home.url,
            keyring=keyring_of(settings),
            port=0,
        )
        async with (
            open_process(options) as process,
            open_demo(process, DemoOptions(rate_per_s=25)) as demo,
            process.running(),
            keep_busy(process, demo, process.servers[0].address),
        ):
            console = Console(record=True, width=110, file=io.StringIO())
            view = LiveView(process, demo, console)
            for _ in range(_FRAMES):
                await view.frame()
                await asyncio.sleep(_FRAME_S)
            console.print(await view.frame())
    console.save_svg(target, code_format=_WITHOUT_REMOTE_FONTS, title="eventsync up --sandbox")


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory(prefix="evs-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        Path(folder).chmod(0o711)  # the embedded server's user must get through, where we are root
        runner.run(draw_live_view(Settings(data_dir=Path(folder) / "data"), sys.argv[1]))
