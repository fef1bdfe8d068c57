"""`eventsync sandbox`: a pretend vendor in the foreground, until it is interrupted."""

import asyncio
import signal
from pathlib import Path

import click
from click.core import ParameterSource

from eventsync.sandbox.errors import OptionsError, StateError
from eventsync.sandbox.faults import Faults
from eventsync.sandbox.openings import VENDORS, opening_of
from eventsync.sandbox.options import DEFAULT_API_KEY, SandboxOptions
from eventsync.sandbox.quota import QuotaLimits
from eventsync.sandbox.serving import serve
from eventsync.sandbox.signing import Signing


class _FaultsType(click.ParamType[Faults]):
    name = "NAME=NUMBER,…"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Faults:
        if isinstance(value, Faults):
            return value
        try:
            return Faults.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _TargetType(click.ParamType[tuple[str, str]]):
    name = "KIND=URL"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        kind, separator, url = str(value).partition("=")
        if not separator or not url.startswith(("http://", "https://")):
            self.fail("write it as KIND=URL, for example appointment=http://127.0.0.1:8080/…", param, ctx)
        return kind, url


_EXAMPLES = """\b
Examples:
  eventsync sandbox --rate 0                # quiet: its control API at /_sandbox/ makes things happen
  eventsync sandbox --faults drop=0.03,duplicate=0.2 --webhook-url appointment=http://127.0.0.1:8080/…
  eventsync connections add intakeq --org 1 --base-url http://127.0.0.1:8090/api/v1 --api-key sandbox-api-key
  eventsync sandbox --vendor colectiva --rate 0 --hmac-secret invented --webhook-url payment=http://127.0.0.1:8080/…
"""


@click.command("sandbox", epilog=_EXAMPLES)
@click.option("--vendor", type=click.Choice(VENDORS), default="intakeq", show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8090, show_default=True, help="0: a free one.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed invents the same data.")
@click.option("--clients", type=click.IntRange(1), default=200, show_default=True, help="Of an IntakeQ practice.")
@click.option("--appointments", type=click.IntRange(0), default=1_000, show_default=True,
              help="Of an IntakeQ practice.")  # fmt: skip
@click.option("--rate", "rate_per_s", type=click.FloatRange(0), default=1.0, show_default=True,
              help="Actions per second; 0 leaves the vendor quiet.")  # fmt: skip
@click.option("--silent-share", type=click.FloatRange(0, 1, max_open=True), default=0.1, show_default=True,
              help="Share of the actions that send no webhook.")  # fmt: skip
@click.option("--speed", type=click.FloatRange(0), default=1.0, show_default=True,
              help="How fast the sandbox's clock runs; 0: it stands until its control API moves it.")  # fmt: skip
@click.option("--faults", type=_FaultsType(), default=Faults(),
              help="For example drop=0.03,duplicate=0.2,reorder=0.2,api_error=0.01,api_lost=0.1.")  # fmt: skip
@click.option("--quota-per-minute", type=click.IntRange(0), help="0: none; left out, as the vendor has it.")
@click.option("--quota-per-day", type=click.IntRange(0), help="0: none; left out, as the vendor has it.")
@click.option("--api-key", default=DEFAULT_API_KEY, show_default=True)
@click.option("--practice-id", help="Of an IntakeQ practice, 24 hex digits; derived from the seed when left out.")
@click.option("--webhook-url", "targets", type=_TargetType(), multiple=True,
              help="Where webhooks of a kind go (IntakeQ: appointment, intake, note, invoice; Colectiva: payment); "
                   "may be repeated.")  # fmt: skip
@click.option("--hmac-secret", help="Sign webhooks with it, in the vendor's form.")
@click.option("--state", "state_path", type=click.Path(dir_okay=False, path_type=Path),
              help="A file that keeps the data across restarts.")  # fmt: skip
def sandbox_command(  # noqa: PLR0913  one argument an option
    *,
    vendor: str,
    host: str,
    port: int,
    seed: int,
    clients: int,
    appointments: int,
    rate_per_s: float,
    silent_share: float,
    speed: float,
    faults: Faults,
    quota_per_minute: int | None,
    quota_per_day: int | None,
    api_key: str,
    practice_id: str | None,
    targets: tuple[tuple[str, str], ...],
    hmac_secret: str | None,
    state_path: Path | None,
) -> None:
    """Run a pretend vendor with invented data: its API, its webhooks, its quirks, and faults on request.

    Its own control API lies under /_sandbox/. Stop it with Ctrl-C.
    """
    _refuse_foreign_options(vendor)
    options = SandboxOptions(
        vendor=vendor,
        host=host,
        port=port,
        seed=seed,
        clients=clients,
        appointments=appointments,
        api_key=api_key,
        practice_id=practice_id,
        speed=speed,
        faults=faults,
        quota=_quota(vendor, quota_per_minute, quota_per_day),
        signing=None if hmac_secret is None else Signing(secret=hmac_secret),
        webhook_targets=dict(targets),
        rate_per_s=rate_per_s,
        silent_share=silent_share,
        state_path=state_path,
    )
    try:
        asyncio.run(_serve_until_signal(options))
    except (OptionsError, StateError) as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"cannot serve on {host}:{port}: {error.strerror}") from error


def _refuse_foreign_options(vendor: str) -> None:
    """An option that was given but says nothing of the vendor must not pass in silence."""
    context = click.get_current_context()
    for name in sorted(opening_of(vendor).foreign):
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name.replace('_', '-')} says nothing of {vendor}; leave it out")


def _quota(vendor: str, per_minute: int | None, per_day: int | None) -> QuotaLimits:
    own = opening_of(vendor).quota
    return QuotaLimits(
        per_minute=own.per_minute if per_minute is None else per_minute or None,
        per_day=own.per_day if per_day is None else per_day or None,
    )


async def _serve_until_signal(options: SandboxOptions) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with serve(options) as running:
        click.echo(f"API          {running.api_url}")
        click.echo(f"API key      {running.api_key}")
        if running.practice_id is not None:
            click.echo(f"practice id  {running.practice_id}")
        click.echo(f"control      {running.control_url}")
        await stop.wait()
        click.echo("stopping")
