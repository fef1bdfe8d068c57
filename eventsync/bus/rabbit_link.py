"""The link to RabbitMQ: connecting, calls under a deadline, and the driver's errors told in our own words.

Every call to the driver runs inside `broker_call`, so this is the one place that knows how aio-pika fails.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import aio_pika
import aiormq
import aiormq.abc
from aio_pika.abc import AbstractConnection

from eventsync.domain.errors import Misconfigured, Transient

_CLOSING_TIMEOUT_S = 3.0
_ABANDONING_TIMEOUT_S = 0.5  # for a link that has left a call unanswered already
_LAST_WORD_S = 0.2  # in which the driver itself says of what a link died
_NOT_ALLOWED = 530  # AMQP 0-9-1's reply code for a virtual host that does not exist


class BrokerSilent(Transient):
    """RabbitMQ did not answer in time: the link is half-open, the broker is blocked, or a queue has no leader."""


@asynccontextmanager
async def broker_call(
    doing: str, timeout_s: float, over: aiormq.abc.AbstractConnection | None = None
) -> AsyncIterator[None]:
    """Run driver calls under a deadline; `doing` completes "... failed" in the error.

    Raises Transient for whatever the driver raises and, soon, when the connection `over` which they run is lost;
    BrokerSilent (a Transient) when the deadline passes.
    """
    task = asyncio.current_task()
    cancellations = task.cancelling() if task else 0
    try:
        async with asyncio.timeout(timeout_s) as deadline:
            with _ended_with(over, deadline):
                yield
    except asyncio.CancelledError as error:
        # When a link dies, the driver cancels its own futures: only a request to *this* task is ours.
        if task is None or task.cancelling() > cancellations:
            raise
        raise Transient(f"{doing} failed: the link to RabbitMQ was lost") from error
    except TimeoutError as error:
        if over is not None and over.is_closed:
            raise Transient(f"{doing} failed: the link to RabbitMQ was lost") from error
        raise BrokerSilent(f"{doing} failed: no answer from RabbitMQ within {timeout_s:g} s") from error
    except (aiormq.AMQPError, OSError, RuntimeError) as error:  # RuntimeError: the driver's "... closed"
        raise Transient(f"{doing} failed: {describe(error)}") from error
    except Exception as error:
        if type(error) is not Exception:  # a bug of ours keeps its own name
            raise
        # A call that waits on a channel while that channel is closed ends in a bare Exception().
        raise Transient(f"{doing} failed: the channel was closed") from error


@contextmanager
def _ended_with(connection: aiormq.abc.AbstractConnection | None, deadline: asyncio.Timeout) -> Iterator[None]:
    """Bring `deadline` forward once the connection is lost.

    aiormq (7.2) fails whatever waits for an answer then, but not what waits for room among the frames to be
    written: that would wait for ever, as nobody writes them any more.
    """
    if connection is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def hurry(_: asyncio.Future[object]) -> None:
        by = loop.time() + _LAST_WORD_S
        if not deadline.expired() and by < (deadline.when() or by + 1):
            deadline.reschedule(by)

    closing = connection.closing
    closing.add_done_callback(hurry)
    try:
        yield
    finally:
        closing.remove_done_callback(hurry)
        closing.cancel()  # it is an observer of our own


def describe(error: BaseException | None) -> str:
    """Say an error of the driver in one line; the driver masks the URL's password itself."""
    return "it was closed" if error is None else str(error) or type(error).__name__


class Link:
    """One connection to RabbitMQ; `distrusted` once something on it went unanswered, so that it is replaced."""

    def __init__(self, connection: AbstractConnection) -> None:
        self.connection = connection
        self.distrusted = False

    @property
    def usable(self) -> bool:
        """Whether the connection is open, as far as anyone can know before the next heartbeat."""
        return self.connection.connected.is_set() and not self.distrusted

    async def channel(self, *, confirms: bool, timeout_s: float) -> aiormq.Channel:
        """Open a channel of aiormq, aio-pika's own lower layer. Raises Transient.

        Measured at 300 messages a batch: aiormq publishes 1.5 times and receives 1.4 times as fast as aio-pika's
        objects, and aio-pika's channels leave a callback on the connection for each one ever opened.
        """
        transport = self.connection.transport
        if transport is None:
            raise Transient("opening a channel failed: the link to RabbitMQ was closed")
        try:
            async with broker_call("opening a channel", timeout_s, transport.connection):
                channel = await transport.connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
        except BrokerSilent:
            self.distrusted = True
            raise
        if not isinstance(channel, aiormq.Channel):  # the driver declares its abstract channel, without `wait`
            raise TypeError("aiormq opened a channel of an unknown class")
        return channel

    async def close(self) -> None:
        """Close as far as the other side still answers; never raises."""
        timeout_s = _ABANDONING_TIMEOUT_S if self.distrusted else _CLOSING_TIMEOUT_S
        try:
            async with broker_call("closing the connection", timeout_s):
                await self.connection.close()
        except Transient:
            return  # it is gone already


def check_url(url: str) -> str:
    """Answer `host:port` of an AMQP URL for messages. Raises Misconfigured for anything else; never shows the URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or {"amqp": 5672, "amqps": 5671}[parts.scheme]
    except (ValueError, KeyError):
        host, port = None, 0
    if not host:
        raise Misconfigured(
            "the RabbitMQ URL is not of the form amqp://user:password@host:5672/virtual-host (or amqps)"
        )
    return f"{host}:{port}"


async def open_link(url: str, *, name: str, heartbeat_s: int, timeout_s: float) -> Link:
    """Connect; `name` shows in RabbitMQ's list of connections. Raises Transient or Misconfigured."""
    place = check_url(url)
    async with broker_call(f"connecting to RabbitMQ at {place}", timeout_s):
        try:
            connection = await aio_pika.connect(
                url, heartbeat=heartbeat_s, client_properties={"connection_name": f"eventsync {name}"}
            )
        except (aiormq.AMQPError, OSError) as error:
            refusal = _refusal(error)
            if refusal is None:
                raise
            raise Misconfigured(f"RabbitMQ at {place} {refusal}") from error
    return Link(connection)


def _refusal(error: Exception) -> str | None:
    """Say what a person must change, or None where trying again may help."""
    match error:
        case aiormq.ProbableAuthenticationError() | aiormq.AuthenticationError():
            return "refused the credentials: correct the URL's user and password, or that user's permissions"
        case aiormq.InvalidFrameError() if "Connection.OpenOk" in str(error):  # the driver hides the reply itself
            return _VIRTUAL_HOST_REFUSED
        case aiormq.ConnectionClosed(args=(int(code), *_)) if code == _NOT_ALLOWED:
            return _VIRTUAL_HOST_REFUSED
        case aiormq.ProtocolSyntaxError() | aiormq.IncompatibleProtocolError():
            return "does not speak AMQP 0-9-1: correct the URL's host and port"
        case aiormq.AMQPConnectionError(__cause__=ssl.SSLError()):
            return "failed the TLS handshake: check amqps:// against the port, and name the authority by ?cafile=..."
        case _:
            return None


_VIRTUAL_HOST_REFUSED = (
    "refused the virtual host: correct the end of the URL, or create the virtual host and give the user "
    "permissions on it (rabbitmqctl add_vhost, set_permissions); its connection limit may also be reached"
)
