"""The OpenAPI document says what the management API does: every route, and every answer as it really is."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Any
from uuid import UUID

import pytest

from eventsync.domain.runs import RunRequest, SyncType
from eventsync.postgres.runs import Runs
from eventsync.wiring.process import Process
from web.api_site import DAY, NOW, Site
from web.played_worker import PlayedWorker, completed

Json = dict[str, Any]
CRON = "/api/cron/sync-practiceq-appointments"
METHODS = {"get", "put", "post", "delete", "patch", "head", "options", "trace"}
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
FORMATS: dict[str, Callable[[str], object]] = {
    "uuid": UUID,
    "date-time": datetime.fromisoformat,
    "date": date.fromisoformat,
    "decimal": float,
}


@pytest.fixture
async def document(site: Site) -> Json:
    answer = await site.get("/api/openapi.json", site.practice.viewer)
    assert answer.status == 200
    described: Json = answer.json
    return described


def check(document: Json, schema: Json, value: Any, where: str = "$") -> None:
    """Hold a value against the part of JSON schema that the document uses; another keyword is an error."""
    schema = resolved(document, schema)
    known = {"type", "format", "enum", "const", "anyOf", "items", "properties", "required", "additionalProperties"}
    assert set(schema) <= known | {"description", "examples", "default", "minimum", "maximum", "minLength", "maxLength"}
    if "anyOf" in schema:
        assert any(fits(document, each, value) for each in schema["anyOf"]), f"{where}: {value!r} fits nothing"
        return
    if "type" in schema:
        names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        kinds = [kind for name in names for kind in TYPES[name]]
        assert type(value) in kinds, f"{where}: {value!r} is not {names}"
    assert "const" not in schema or value == schema["const"], where
    assert "enum" not in schema or value in schema["enum"], f"{where}: {value!r}"
    if "format" in schema and isinstance(value, str):
        FORMATS[schema["format"]](value)
    if isinstance(value, list):
        for place, item in enumerate(value):
            check(document, schema.get("items", {}), item, f"{where}[{place}]")
    if isinstance(value, dict):
        check_object(document, schema, value, where)


def check_object(document: Json, schema: Json, value: Json, where: str) -> None:
    properties = schema.get("properties", {})
    assert set(schema.get("required", ())) <= set(value), where
    for name, item in value.items():
        rest = schema.get("additionalProperties", {})
        assert name in properties or rest is not False, f"{where}.{name} is not described"
        check(document, properties.get(name, rest), item, f"{where}.{name}")


def fits(document: Json, schema: Json, value: Any) -> bool:
    try:
        check(document, schema, value)
    except (AssertionError, ValueError):
        return False
    return True


def resolved(document: Json, given: Json) -> Json:
    """Follow a reference."""
    while "$ref" in given:
        found: Any = document
        for step in given["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        given = found
    return given


def operations(document: Json) -> list[tuple[str, str, Json]]:
    return [(method, path, operation) for path, item in document["paths"].items() for method, operation in item.items()]


def routed(process: Process) -> set[tuple[str, str]]:
    assert process.server is not None
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in process.server._app.router.routes()
        if route.resource is not None
    }
    return {
        (method, path) for method, path in routes if path.startswith("/api/") and not path.startswith("/api/webhooks/")
    }


async def test_every_route_is_described_and_everything_described_is_routed(
    document: Json, api_process: Process
) -> None:
    assert {(method, path) for method, path, _ in operations(document)} == routed(api_process)


async def test_the_document_is_openapi_3_1_and_whole(document: Json) -> None:
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert {"title", "version"} <= set(document["info"])
    assert document["security"] == [{"bearer": []}]
    for method, path, operation in operations(document):
        assert method in METHODS
        assert operation["summary"]
        assert {"200", "400", "401", "403", "500", "503"} <= set(operation["responses"])
        parameters = [resolved(document, each) for each in operation["parameters"]]
        assert {each["name"] for each in parameters if each["in"] == "path"} == set(re.findall(r"{(\w+)}", path))
        keys = [(each["in"], each["name"]) for each in parameters]
        assert len(keys) == len(set(keys))
        for each in parameters:
            assert each["description"]
            assert each["required"] is (each["in"] == "path")
            assert resolved(document, each["schema"])["type"]
        for response in operation["responses"].values():
            assert response["description"]
            assert resolved(document, response["content"]["application/json"]["schema"])


async def test_every_example_and_default_fits_its_own_schema(document: Json) -> None:
    found = 0
    for _, _, operation in operations(document):
        for each in (resolved(document, given) for given in operation["parameters"]):
            values = [*each["schema"].get("examples", []), *each["schema"].get("enum", [])]
            for value in (*values, *([each["schema"]["default"]] if "default" in each["schema"] else [])):
                check(document, each["schema"], value, each["name"])
                found += 1
    assert found > 20


async def test_every_body_is_described_and_its_examples_fit(document: Json) -> None:
    bodies = [operation["requestBody"] for _, _, operation in operations(document) if "requestBody" in operation]
    assert len(bodies) == 1
    for body in bodies:
        assert body["description"]
        assert body["required"] is False
        schema = body["content"]["application/json"]["schema"]
        assert schema["examples"]
        for example in schema["examples"]:
            check(document, schema, example)


async def test_every_example_is_accepted(document: Json, site: Site) -> None:
    for method, path, operation in operations(document):
        described = [resolved(document, each) for each in operation["parameters"]]
        for each in (each for each in described if each["in"] == "query"):
            schema = each["schema"]
            for value in [*schema.get("examples", []), *schema.get("enum", [])]:
                query = {each["name"]: value}
                filled = path.replace("{id}", "0199f3c2-7a10-7c4e-8b1d-2f4a6c8e0d12")
                answer = await site.call(method.upper(), filled, site.admin, query=query)
                assert answer.status in {200, 404}, (path, query, answer.json)


async def test_what_is_answered_is_what_is_described(document: Json, site: Site) -> None:
    await site.client(site.practice, "12")
    await site.client(site.practice, "13")
    patient = (await site.get("/api/v1/patients", site.admin)).ids[0]
    for number in range(2):
        await site.appointment(site.practice, f"a{number}", "12", NOW + number * DAY)
    finished = await site.finished_event(site.practice, 1)
    waiting, parked = await site.event(site.practice, 2), await site.event(site.practice, 3)
    await site.park(parked)
    asked = RunRequest(SyncType.AUTOMATED_SWEEP, site.practice.connection_id, site.practice.organization_id, "test")
    run, _ = await Runs(site.pool).request(asked, NOW)
    calls: list[tuple[str, str, str, dict[str, str]]] = [
        ("get", "/api/v1/events", "", {}),
        ("get", "/api/v1/events", "", {"limit": "1"}),
        ("get", "/api/v1/events/{id}", str(finished), {}),
        ("get", "/api/v1/events/{id}", str(waiting), {"body": "true"}),
        ("get", "/api/v1/events/{id}", str(parked), {}),
        ("get", "/api/v1/events/{id}", str(patient), {}),
        ("post", "/api/v1/events/{id}/replay", str(finished), {"dry_run": "true"}),
        ("post", "/api/v1/events/{id}/replay", str(finished), {}),
        ("post", "/api/v1/events/{id}/replay", str(waiting), {}),
        ("post", "/api/v1/events/{id}/replay", str(parked), {}),
        ("get", "/api/v1/appointments", "", {"limit": "1"}),
        ("get", "/api/v1/appointments", "", {"limit": "none"}),
        ("get", "/api/v1/patients", "", {"limit": "1"}),
        ("get", "/api/v1/patients/{id}/timeline", patient, {}),
        ("get", "/api/v1/budget", "", {}),
        ("get", "/api/v1/freshness", "", {}),
        ("get", "/api/v1/drift", "", {}),
        ("get", "/api/v1/drift/summary", "", {}),
        ("get", "/api/openapi.json", "", {}),
        ("get", CRON, "", {}),
        ("post", CRON, "", {}),
        ("post", "/api/partner-dashboard/patients/sync-all", "", {}),
        ("post", "/api/partner-dashboard/patients/{id}/sync", patient, {}),
        ("get", "/api/v1/sync/progress/{sync_id}", str(run.id), {}),
        ("get", "/api/v1/sync/history/{organization_id}", "practice-1", {"limit": "2"}),
        ("post", "/api/v1/sync/cancel/{sync_id}", str(run.id), {}),
    ]
    assert {(method, path) for method, path, _, _ in calls} == {each[:2] for each in operations(document)}
    for token in (site.admin, site.practice.operator, None):
        async with PlayedWorker(site.pool).working(lambda _: completed()):
            for method, path, identifier, query in calls:
                filled = re.sub(r"{\w+}", identifier, path)
                answer = await site.call(method.upper(), filled, token, query=query)
                response = document["paths"][path][method]["responses"][str(answer.status)]
                check(document, response["content"]["application/json"]["schema"], answer.json, f"{method} {path}")


async def test_the_check_tells_an_answer_that_is_not_as_described(document: Json, site: Site) -> None:
    schema = document["paths"]["/api/v1/patients"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    await site.client(site.practice, "12")
    page = (await site.get("/api/v1/patients", site.admin)).json
    assert fits(document, schema, page)
    (patient,) = page["items"]
    for wrong in (patient | {"id": "12"}, patient | {"more": 1}, {"id": patient["id"]}, patient | {"first_name": None}):
        assert not fits(document, schema, {**page, "items": [wrong]})
