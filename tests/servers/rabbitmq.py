"""A RabbitMQ of the tests' own: its own home, node name, ports and epmd, on the loopback interface only."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import aio_pika

from servers.ports import free_ports

_PLACES = (
    "/usr/lib/rabbitmq/bin",  # Debian, Ubuntu, Fedora: not the wrapper in /usr/sbin, which changes user and home
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)
_STARTS_WITHIN_S = 60.0
_STOPS_WITHIN_S = 20.0
_POLL_S = 0.05
_USER = "tests"
_PASSWORD = "tests"
MISSING = "RabbitMQ's programs are missing; run tests/install-services, which installs them or says what to install"


def find_rabbitmq() -> Path | None:
    """Return the folder of `rabbitmq-server`, None where it is not installed."""
    for place in (os.environ.get("EVENTSYNC_TEST_RABBITMQ_BIN", ""), *_PLACES):
        if place and (Path(place) / "rabbitmq-server").exists() and shutil.which("epmd"):
            return Path(place)
    return None


class RabbitServer:
    """One node with its data in `folder`; it may be stopped, killed, started again and wiped.

    Its `vhosts` virtual hosts are made at the first start, since creating one later takes a second.
    """

    def __init__(self, programs: Path, folder: Path, *, vhosts: int = 20) -> None:
        self._vhosts = vhosts
        self._programs = programs
        self._folder = folder
        self._port, self._distribution_port, self._epmd_port = free_ports(3)
        self._node: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._vhosts_given = 0

    @property
    def url(self) -> str:
        """The address of the default virtual host."""
        return self._url("%2F")

    @property
    def pid(self) -> int:
        """The running node's process."""
        assert self._node is not None, "not started"
        return self._node.pid

    def fresh_vhost_url(self) -> str:
        """Return the address of a virtual host that nobody has used since the last wipe."""
        assert self._vhosts_given < self._vhosts, "all virtual hosts are used up: ask for more of them"
        self._vhosts_given += 1
        return self._url(f"t{self._vhosts_given - 1}")

    async def start(self) -> None:
        """Start the node, with the data it had; returns when it serves (five seconds)."""
        assert self._node is None, "already started"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write_configuration()
        if self._epmd is None:
            self._epmd = self._spawn(["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"])
        self._node = self._spawn([str(self._programs / "rabbitmq-server")])
        await self._wait_until_serving()

    async def stop(self) -> None:
        """Stop the node in an orderly way; its data stays."""
        await self._end_node(signal.SIGTERM)

    async def kill(self) -> None:
        """End the node as a power failure would (`kill -9`); its data stays."""
        await self._end_node(signal.SIGKILL)

    async def restart(self) -> None:
        """Stop the node in an orderly way and start it again."""
        await self.stop()
        await self.start()

    async def wipe(self) -> None:
        """Start anew without any data: an operator's last resort, which the product must survive."""
        await self.kill()
        shutil.rmtree(self._folder / "data")
        self._vhosts_given = 0
        await self.start()

    async def close(self) -> None:
        """End the node and its epmd; for the end of the tests, so nothing is written any more."""
        await self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None

    def log_text(self) -> str:
        """Return what the node has logged."""
        files = [self._folder / "output.log", *sorted((self._folder / "log").glob("*.log"))]
        return "\n".join(path.read_text(errors="replace") for path in files if path.exists())

    def _url(self, vhost: str) -> str:
        return f"amqp://{_USER}:{_PASSWORD}@127.0.0.1:{self._port}/{vhost}"

    async def _end_node(self, how: signal.Signals) -> None:
        if self._node is None:
            return
        self._node.send_signal(how)
        give_up_at = time.monotonic() + _STOPS_WITHIN_S
        while self._node.poll() is None:
            if time.monotonic() > give_up_at:
                self._node.kill()
            await asyncio.sleep(_POLL_S)
        self._node = None

    async def _wait_until_serving(self) -> None:
        assert self._node is not None
        give_up_at = time.monotonic() + _STARTS_WITHIN_S
        while not await self._serves():
            code = self._node.poll()
            if code is not None or time.monotonic() > give_up_at:
                state = "is not ready" if code is None else f"ended with {code}"
                await self._end_node(signal.SIGKILL)
                raise AssertionError(f"RabbitMQ {state}; its log ends:\n{self.log_text()[-3000:]}")
            await asyncio.sleep(_POLL_S)

    async def _serves(self) -> bool:
        # The port opens after the definitions are loaded; an answer by AMQP is asked for once it is open.
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        try:
            connection = await aio_pika.connect(self._url(f"t{self._vhosts - 1}"), timeout=10)
        except (OSError, aio_pika.exceptions.AMQPError):
            return False
        await connection.close()
        return True

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self._folder / "output.log").open("ab") as output:
            return subprocess.Popen(  # noqa: S603  (the installed server's own programs)
                command,
                env=self._environment(),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _write_configuration(self) -> None:
        (self._folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.local = 127.0.0.1:{self._port}\n"
            f"load_definitions = {self._folder}/definitions.json\n"
            "disk_free_limit.absolute = 50MB\n"
        )
        (self._folder / "definitions.json").write_text(json.dumps(_definitions(self._vhosts)))
        (self._folder / "enabled_plugins").write_text("[].\n")
        (self._folder / "rabbitmq-env.conf").write_text("")

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "HOME": str(self._folder),
            "RABBITMQ_NODENAME": f"t{self._port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": f"{self._folder}/data",
            "RABBITMQ_LOG_BASE": f"{self._folder}/log",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{self._folder}/enabled_plugins",
            "RABBITMQ_CONFIG_FILE": f"{self._folder}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": f"{self._folder}/rabbitmq-env.conf",
            # The start script then becomes the node, instead of standing between us and it.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_PID_FILE": f"{self._folder}/rabbitmq.pid",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # One scheduler that does not spin: tests share a small machine with it.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ("-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none"),
        }


def _definitions(count: int) -> dict[str, object]:
    vhosts = ["/", *(f"t{number}" for number in range(count))]
    salt = b"salt"
    password_hash = base64.b64encode(salt + hashlib.sha256(salt + _PASSWORD.encode()).digest()).decode()
    user = {
        "name": _USER,
        "password_hash": password_hash,
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": "administrator",
    }
    everything = {"user": _USER, "configure": ".*", "write": ".*", "read": ".*"}
    return {
        "users": [user],
        "vhosts": [{"name": name} for name in vhosts],
        "permissions": [{"vhost": name, **everything} for name in vhosts],
    }
