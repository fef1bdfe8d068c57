from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
import yaml

import eventsync
from eventsync.cli import eventsync_command
from eventsync.settings import Settings
from eventsync.stages.verify import Refusal
from eventsync.supervisor import Supervisor
from eventsync.telemetry import Metrics
from eventsync.wiring import Role

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
ROLES = {name: service for name, service in OURS.items() if service["command"][0] == "run"}
DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "deploy/Dockerfile").read_text())
FINAL_STAGE = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
RUNBOOK = (ROOT / "deploy/runbook.md").read_text()
PROMETHEUS = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())
ALERTS = [
    rule for group in yaml.safe_load((ROOT / "deploy/alerts.yml").read_text())["groups"] for rule in group["rules"]
]

SECRET_NAME = re.compile(r"PASS|SECRET|TOKEN|KEY|CREDENTIAL", re.IGNORECASE)
REQUIRED_VARIABLE = re.compile(r"\$\{\w+:\?[^}]+\}")
NO_DEFAULT = re.compile(
    rf"{REQUIRED_VARIABLE.pattern}|\$\{{(?:CRON_SECRET|COLECTIVA_API_KEY):-\}}"
)  # two of them may stay empty: they open nothing then
PINNED = re.compile(r"[a-z]+:\d+\.\d+(\.\d+)?(-[a-z.]+)*")
LABELS_OF_PROMETHEUS = {"job", "instance", "role", "le"}


def roles_of(service: dict[str, Any]) -> set[str]:
    return set(service["command"][1:]) & {role.value for role in Role}


def option(service: dict[str, Any], name: str) -> str:
    command: list[str] = service["command"]
    return command[command.index(name) + 1]


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_every_role_runs_in_exactly_one_service() -> None:
    assert sorted(role for service in ROLES.values() for role in roles_of(service)) == sorted(Role)


def test_consumers_and_workers_can_be_scaled() -> None:
    for name in ("consumer", "worker"):
        assert not {"container_name", "ports", "volumes", "hostname"} & SERVICES[name].keys()


def test_only_the_door_and_the_api_are_published_and_only_on_loopback_unless_told() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == {"ingress", "api"}
    for ports in published.values():
        assert [port.startswith("${PUBLISH_ADDRESS:-127.0.0.1}:") and port.endswith(":8080") for port in ports] == [
            True
        ]


def test_only_who_must_reach_the_outside_is_on_an_open_network() -> None:
    assert COMPOSE["networks"]["backend"]["internal"] is True
    assert {name for name, service in SERVICES.items() if "outside" in service["networks"]} == {
        "ingress",
        "worker",
        "api",
    }
    assert all("backend" in service["networks"] for service in SERVICES.values())


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert not service.get("privileged", False)
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "/tmp" in service["tmpfs"]  # noqa: S108  # a mount point in a container
    assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
    assert name in OURS or service["user"] != "root"


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned_by_its_full_version(name: str) -> None:
    assert PINNED.fullmatch(SERVICES[name]["image"])


def test_our_image_is_named_after_our_version() -> None:
    assert {service["image"] for service in OURS.values()} == {f"eventsync:{eventsync.__version__}"}


def test_no_secret_has_a_default() -> None:
    secrets = 0
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            masked = NO_DEFAULT.sub("GIVEN", value)
            if SECRET_NAME.search(name):
                assert masked == "GIVEN", name
                secrets += 1
            if (password := urlsplit(masked).password) is not None:
                assert password == "GIVEN", name
                secrets += 1
    assert secrets >= 5, "the check found too few secrets to be trusted"


def test_the_example_of_a_dotenv_file_names_every_required_variable_and_gives_no_secret() -> None:
    example = dict(
        line.split("=", 1)
        for line in (ROOT / "deploy/env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    compose = (ROOT / "docker-compose.yml").read_text()
    assert set(re.findall(r"\$\{(\w+)", compose)) == example.keys()
    for name in re.findall(r"\$\{(\w+):\?", compose):
        assert example[name] == "", name


def test_every_setting_given_to_a_service_is_one_of_ours() -> None:
    known = {
        str(field.validation_alias or f"EVENTSYNC_{name.upper()}") for name, field in Settings.model_fields.items()
    }
    image = set(re.findall(r"(EVENTSYNC_\w+)=", FINAL_STAGE))
    assert image
    for service in OURS.values():
        assert set(service["environment"]) | image <= known


def test_the_migration_gets_no_secret_that_it_does_not_need() -> None:
    assert list(SERVICES["migrate"]["environment"]) == ["EVENTSYNC_DATABASE_URL"]


@pytest.mark.parametrize("name", ROLES)
def test_every_role_waits_for_the_schema(name: str) -> None:
    assert ROLES[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


def test_the_door_does_not_wait_for_the_broker() -> None:
    assert "rabbitmq" not in SERVICES["ingress"]["depends_on"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_that_stays_has_a_health_check(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    if name == "migrate":
        assert check == {"disable": True}
        return
    assert check["test"][0] == "CMD"
    assert seconds(check["timeout"]) < seconds(check["interval"]) or name not in OURS
    assert check["retries"] >= 2


@pytest.mark.parametrize("name", ROLES)
def test_a_roles_health_check_asks_for_readiness_on_the_port_that_it_is_told_to_open(name: str) -> None:
    probe = ROLES[name]["healthcheck"]["test"][-1]
    assert f"'127.0.0.1', {option(ROLES[name], '--health-port')}" in probe
    assert "/readyz" in probe


@pytest.mark.parametrize("name", ROLES)
def test_the_engine_waits_longer_than_a_process_drains(name: str) -> None:
    drains_within_s = inspect.signature(Supervisor).parameters["stop_deadline_s"].default
    assert seconds(ROLES[name]["stop_grace_period"]) >= drains_within_s + 10


def test_only_the_door_has_a_disk_and_it_is_where_the_image_keeps_its_data() -> None:
    data_dir = re.findall(r"EVENTSYNC_DATA_DIR=(\S+)", FINAL_STAGE)
    assert {name: service["volumes"] for name, service in OURS.items() if "volumes" in service} == {
        "ingress": [f"spool:{data_dir[0]}"]
    }
    assert f"--owner eventsync --group eventsync --mode 0700 {data_dir[0]}" in FINAL_STAGE


def test_named_volumes_and_mounted_files_exist() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"], volume


def test_the_image_is_built_in_stages_from_one_pinned_base() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert PINNED.fullmatch(bases[0])
    for name in OURS:
        assert ROOT / OURS[name]["build"]["dockerfile"] == ROOT / "deploy/Dockerfile"


def test_the_image_runs_as_a_fixed_user_without_rights() -> None:
    users = re.findall(r"^USER (\d+):(\d+)$", FINAL_STAGE, re.MULTILINE)
    assert len(users) == 1
    assert all(int(number) >= 1000 for number in users[0])
    assert f"--uid {users[0][0]}" in FINAL_STAGE
    assert not re.search(r"^(RUN|COPY|ADD)", FINAL_STAGE[FINAL_STAGE.index("\nUSER") :], re.MULTILINE)


def test_no_layer_of_the_image_holds_a_secret() -> None:
    assert not re.search(r"^(ARG|ADD)\b", DOCKERFILE, re.MULTILINE)
    for line in re.findall(r"^ENV (.+)$", DOCKERFILE, re.MULTILINE):
        assert not SECRET_NAME.search(line), line


def test_the_images_dependencies_are_installed_by_their_hashes() -> None:
    assert re.search(r"install --require-hashes .*--requirement requirements\.lock", DOCKERFILE)


def test_the_build_is_given_what_it_copies_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        source.removeprefix("./")
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert rules[0] == "*"
    assert allowed == copied


def test_the_image_has_a_health_check_on_its_default_port_and_our_command_as_entry_point() -> None:
    assert 'ENTRYPOINT ["eventsync"]' in FINAL_STAGE
    port = re.findall(r'CMD \["run", "--health-port", "(\d+)"\]', FINAL_STAGE)[0]
    assert re.search(rf"HEALTHCHECK .*'127\.0\.0\.1', {port}\b.*'/healthz'", FINAL_STAGE)


def _series() -> dict[str, set[str]]:
    """Each name that Prometheus sees, with its labels."""
    series: dict[str, set[str]] = {}
    for metric in vars(Metrics()).values():
        if not hasattr(metric, "_labelnames"):
            continue
        labels = set(metric._labelnames)
        for family in metric.describe():
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
            series |= {f"{family.name}{suffix}": labels for suffix in suffixes}
    return series


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_and_labels_that_exist(rule: dict[str, Any]) -> None:
    series = _series()
    names = re.findall(r"\beventsync_\w+", rule["expr"])
    assert names or "up{" in rule["expr"]
    assert set(names) <= series.keys()
    for name, selectors in re.findall(r"(eventsync_\w+)\{([^}]*)\}", rule["expr"]):
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selectors)) <= series[name]
    known_labels = set().union(*(series[name] for name in names), LABELS_OF_PROMETHEUS)
    for group in re.findall(r"\bby \(([^)]*)\)", rule["expr"]):
        assert {label.strip() for label in group.split(",")} <= known_labels


def test_alerts_on_refused_requests_name_reasons_that_are_given() -> None:
    given = {refusal.value for refusal in Refusal} | {"not_stored"}
    asked = {
        reason
        for rule in ALERTS
        for reasons in re.findall(r'requests_refused_total\{reason=~?"([^"]+)"', rule["expr"])
        for reason in reasons.split("|")
    }
    assert asked
    assert asked <= given


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_leads_to_the_runbook(rule: dict[str, Any]) -> None:
    headings = re.findall(r"^## (.+)$", RUNBOOK, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    annotations = rule["annotations"]
    assert annotations["summary"]
    assert annotations["description"]
    page, _, anchor = annotations["runbook_url"].partition("#")
    assert (ROOT / page).is_file()
    assert anchor in anchors
    assert rule["labels"]["severity"] in {"page", "ticket"}


def test_alerts_cover_what_wakes_somebody() -> None:
    expressions = " ".join(rule["expr"] for rule in ALERTS)
    for sign in (
        'queue_events{status="parked"}',
        "queue_oldest_seconds",
        "spool_events",
        "listener_proven",
        'wakeups_total{by="poll"}',
        "republished_total",
        "worker_restarts_total",
        'refused_total{reason="not_stored"}',
        "budget_left",
        "webhook_silent_seconds",
        'drift_last_day{verdict="never_came"}',
        "outbound_paused",
        "outbound_oldest_seconds",
        'outbound_items{status="failed"}',
    ):
        assert sign in expressions


def test_who_sends_to_colectiva_is_told_of_its_account_and_may_be_told_of_none() -> None:
    for name, service in OURS.items():
        given = {key: value for key, value in service["environment"].items() if key.startswith("COLECTIVA_")}
        expected = {"COLECTIVA_URL": "${COLECTIVA_URL:-}", "COLECTIVA_API_KEY": "${COLECTIVA_API_KEY:-}"}
        assert given == (expected if "worker" in service["command"] else {}), name


def test_prometheus_asks_every_role_on_its_health_port() -> None:
    jobs = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}
    targets = jobs["eventsync"]["dns_sd_configs"][0]
    assert set(targets["names"]) == set(ROLES)
    assert {option(service, "--health-port") for service in ROLES.values()} == {str(targets["port"])}
    assert all((ROOT / "deploy" / file).is_file() for file in PROMETHEUS["rule_files"])


def test_the_runbook_names_only_commands_that_exist() -> None:
    lines = re.findall(
        r"(?<!-U )(?<!--vhost )\beventsync ((?:[a-z][a-z-]*)(?: (?:[a-z-]+|--[a-z-]+|[A-Z_]+|\d+))*)",
        _commands_of_runbook(),
    )
    assert len(lines) >= 10
    assert sorted({line for line in lines if not _exists(line.split())}) == []


def test_the_runbook_names_only_services_that_exist() -> None:
    pattern = r"docker compose (?:exec|logs|ps|up|restart|stop|run)((?: --?[\w-]+(?:[ =]\d+m?)?)*) ([a-z]+)"
    named = {service for _, service in re.findall(pattern, RUNBOOK)}
    assert {"ingress", "worker", "postgres", "rabbitmq"} <= named <= SERVICES.keys()


def _commands_of_runbook() -> str:
    """What a person types: code, without what merely follows it in a comment."""
    code = re.findall(r"```sh\n(.*?)```", RUNBOOK, re.DOTALL) + re.findall(r"`([^`\n]+)`", RUNBOOK)
    return "\n".join(re.sub(r"\s+#.*", "", line) for block in code for line in block.splitlines())


def _exists(words: list[str]) -> bool:
    command: click.Command = eventsync_command
    for place, word in enumerate(words):
        if not isinstance(command, click.Group):
            return all(_is_option(command, word) for word in words[place:] if word.startswith("--"))
        found = command.commands.get(word)
        if found is None:
            return False
        command = found
    return True


def _is_option(command: click.Command, word: str) -> bool:
    return word == "--help" or any(word in parameter.opts for parameter in command.params)
