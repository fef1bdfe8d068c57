"""The benchmarks' smaller parts: what they send, the charts they draw, and what processes use."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from uuid import uuid4
from xml.etree import ElementTree as ET

import orjson
import pytest

from eventsync.bench.charts import bars
from eventsync.bench.place import memory_backed
from eventsync.bench.specimens import appointment_id, appointment_webhook, appointment_webhooks, mixed_webhooks
from eventsync.bench.usage import UsageWatch, listener_pid, usage_of, usage_of_tree
from eventsync.bench.verdict import last_versions
from eventsync.domain.changes import Upsert
from eventsync.domain.connections import ConnectionId
from eventsync.domain.webhooks import WebhookContext
from eventsync.vendors.intakeq.webhook import read_webhook

NOW_MS = 1_744_725_029_020
PRACTICE = "65f0c0ffee65f0c0ffee0003"
SVG = "{http://www.w3.org/2000/svg}"

BUSY = """
import sys, time
sys.stdin.readline()
filling = "x" * 50_000_000
while time.process_time() < 0.3:
    pass
print(len(filling), flush=True)
sys.stdin.readline()
"""
LISTENING = """
import socket, sys
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
sys.stdin.readline()
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the kernel has no /proc")


def test_a_webhook_is_read_by_the_whole_mapping_as_its_number_and_version_say() -> None:
    body = appointment_webhook(17, version_ms=NOW_MS, practice_id=PRACTICE)
    assert 1_400 < len(body) < 1_600
    reading = read_webhook(body, {}, WebhookContext(ConnectionId(uuid4()), PRACTICE))
    appointment, client = reading.changes
    assert isinstance(appointment, Upsert)
    assert isinstance(client, Upsert)
    assert (appointment.entity.external_id, appointment.version.position) == (appointment_id(17), NOW_MS)
    assert client.entity.external_id == "980000017"


def test_another_number_is_another_appointment_and_another_version_another_start() -> None:
    bodies = [orjson.loads(body)["Appointment"] for body in appointment_webhooks(3000, version_ms=NOW_MS)]
    assert len({appointment["Id"] for appointment in bodies}) == 3000
    assert len({appointment["ClientId"] for appointment in bodies}) == 2000
    starts = {
        orjson.loads(appointment_webhook(1, version_ms=NOW_MS + later))["Appointment"]["StartDate"]
        for later in (0, 1, 999_999)
    }
    assert len(starts) == 3


def test_one_webhook_in_five_is_about_an_appointment_of_an_earlier_one_and_newer() -> None:
    bodies = [orjson.loads(body) for body in mixed_webhooks(1000, version_ms=NOW_MS)]
    kinds = Counter(body["EventType"] for body in bodies)
    assert kinds == {"AppointmentCreated": 800, "AppointmentRescheduled": 200}
    first: dict[str, int] = {}
    for body in bodies:
        appointment = body["Appointment"]
        if body["EventType"] == "AppointmentRescheduled":
            assert appointment["LastModified"] > first[appointment["Id"]]
        else:
            assert appointment["Id"] not in first
            first[appointment["Id"]] = appointment["LastModified"]


def test_the_last_version_is_the_newest_not_the_last_to_come() -> None:
    newer, older = appointment_webhook(1, version_ms=NOW_MS + 5), appointment_webhook(1, version_ms=NOW_MS)
    assert last_versions([newer, older])[appointment_id(1)]["LastModified"] == NOW_MS + 5


def test_a_chart_is_an_svg_with_its_labels_and_fetches_nothing() -> None:
    document = bars("Events & <rates>", {"memory": {"ours": 5706.4, "theirs": 3.25}, "RabbitMQ": {"ours": 10}}, "per s")
    root = ET.fromstring(document)  # noqa: S314  # it is our own
    texts = {"".join(element.itertext()) for element in root.iter(f"{SVG}text")}
    assert {"Events & <rates>", "memory", "RabbitMQ", "ours", "theirs", "per s", "5,706", "3.25"} <= texts
    assert not list(root.iter(f"{SVG}script"))
    assert "//" not in document.replace("http://www.w3.org/", "").partition("<defs>")[2]


@needs_proc
async def test_the_use_of_a_process_is_told_from_the_first_look_to_the_last() -> None:
    program = BUSY
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    watch = UsageWatch({"busy": process.pid, "gone": 2**30}, {"tree": process.pid})
    process.stdin.write(b"go\n")
    await process.stdout.readline()
    alone, tree = watch.spent()
    process.stdin.write(b"end\n")
    await process.wait()
    assert (alone.name, tree.name) == ("busy", "tree")
    assert 0.1 < alone.cpu_seconds < 5
    assert alone.memory_end_mb - alone.memory_start_mb > 40
    assert alone.memory_peak_mb is not None
    assert alone.memory_peak_mb >= alone.memory_end_mb
    assert tree.cpu_seconds == pytest.approx(alone.cpu_seconds, abs=0.2)


def test_drawing_a_chart_leaves_no_import_hook_that_python_warns_of() -> None:
    bars("Events a second", {"in-process bus": {"events": 1.0}}, "events/s")
    assert all(hasattr(finder, "find_spec") for finder in sys.meta_path)


@needs_proc
def test_of_a_process_that_is_not_there_nothing_is_told() -> None:
    assert usage_of(2**30) is None
    assert usage_of_tree(2**30) is None


@needs_proc
async def test_the_process_that_listens_on_a_port_is_found() -> None:
    program = LISTENING
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    found = listener_pid(port)
    process.stdin.write(b"end\n")
    await process.wait()
    assert found == process.pid
    assert listener_pid(port) is None


@pytest.mark.skipif(not Path("/proc/mounts").exists(), reason="the kernel has no /proc")
def test_a_folder_in_memory_is_known() -> None:
    shm = Path("/dev/shm")  # noqa: S108  # only looked at
    in_memory = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if " tmpfs " in line]
    assert memory_backed(shm) is (str(shm) in in_memory)
