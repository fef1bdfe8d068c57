"""Describes the management API as OpenAPI 3.1, drawn from the endpoints and the types of their answers themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from http import HTTPStatus
from types import NoneType, UnionType
from typing import Any, NewType, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from eventsync import __version__
from eventsync.web.api_calls import Body, Endpoint, Parameter
from eventsync.web.auth import ORGANIZATION_HEADER

_Json = dict[str, Any]

_SCALARS: Mapping[Any, _Json] = {
    Any: {},
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    dict: {"type": "object"},
    NoneType: {"type": "null"},
    UUID: {"type": "string", "format": "uuid"},
    datetime: {"type": "string", "format": "date-time"},
    date: {"type": "string", "format": "date"},
    Decimal: {"type": "string", "format": "decimal"},
}
_ERROR: _Json = {
    "type": "object",
    "required": ["success", "error", "details", "timestamp"],
    "properties": {
        "success": {"const": False},
        "error": {"type": "string"},
        "details": {
            "type": "object",
            "required": ["error_type", "message", "retry_after", "error_code"],
            "properties": {
                "error_type": {"type": "string"},
                "message": {"type": "string"},
                "retry_after": {"type": ["integer", "null"], "description": "Seconds."},
                "error_code": {"type": "string"},
            },
        },
        "timestamp": {"type": "string", "format": "date-time"},
        "syncLogId": {
            "type": "string",
            "format": "uuid",
            "description": "The sync, where one was asked for and failed.",
        },
    },
}
_ORGANIZATION: _Json = {
    "name": ORGANIZATION_HEADER,
    "in": "header",
    "required": False,
    "description": "The organization that is meant (its UUID or external id): any for an admin, otherwise the token's.",
    "schema": {"type": "string"},
}
_MEANINGS: Mapping[int, str] = {
    200: "Done.",
    202: "It goes on beyond this answer, which says where to ask how far it is.",
}
_COMMON_ERRORS: Mapping[int, str] = {
    400: "The request is wrong; the message says what.",
    401: "There is no token, or it is nobody's.",
    403: "The token's role or organization does not allow this.",
    404: "An admin named an organization that is not there.",
    413: "The body is too large; none is taken.",
    500: "A fault of eventsync's own.",
    503: "PostgreSQL is away: try again later.",
}


def describe(endpoints: Iterable[Endpoint]) -> _Json:
    """Describe the endpoints as one OpenAPI document."""
    schemas: dict[str, _Json] = {"Error": _ERROR}
    paths: dict[str, _Json] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "eventsync",
            "version": __version__,
            "description": "Events, and the records they keep true.",
        },
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": {"organization": _ORGANIZATION},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint, schemas: dict[str, _Json]) -> _Json:
    good = {200: endpoint.answers, **endpoint.also_answers}
    roles = ", ".join(sorted(role.value for role in endpoint.roles))
    secret = " CRON_SECRET as bearer token will do as well." if endpoint.takes_cron_secret else ""
    body = {} if endpoint.body is None else {"requestBody": _request_body(endpoint.body)}
    return body | {
        "summary": endpoint.summary,
        "description": f"{inspect.getdoc(endpoint.handle) or endpoint.summary} Roles: {roles}.{secret}",
        "parameters": [
            {"$ref": "#/components/parameters/organization"},
            *map(_parameter, endpoint.parameters),
        ],
        "responses": _answers(good, schemas) | _errors({**_COMMON_ERRORS, **endpoint.errors}),
    }


def _parameter(parameter: Parameter) -> _Json:
    return {
        "name": parameter.name,
        "in": "path" if parameter.in_path else "query",
        "required": parameter.in_path,
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }


def _request_body(body: Body) -> _Json:
    return {
        "required": False,
        "description": body.description,
        "content": {"application/json": {"schema": dict(body.schema)}},
    }


def _answers(answers: Mapping[int, type], schemas: dict[str, _Json]) -> _Json:
    return {
        str(status): {
            "description": _MEANINGS[status],
            "content": {"application/json": {"schema": _schema(answers[status], schemas)}},
        }
        for status in sorted(answers)
    }


def _errors(errors: Mapping[int, str]) -> _Json:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        str(HTTPStatus(status).value): {"description": errors[status], "content": content} for status in sorted(errors)
    }


def _schema(given: Any, schemas: dict[str, _Json]) -> _Json:
    """Draw a type's JSON schema; dataclasses become schemas of their own. Raises TypeError for one without JSON."""
    if isinstance(given, NewType):
        return _schema(given.__supertype__, schemas)
    if given in _SCALARS:
        return dict(_SCALARS[given])
    if get_origin(given) is not None:
        return _container(given, schemas)
    if isinstance(given, type) and issubclass(given, StrEnum):
        return {"type": "string", "enum": [member.value for member in given]}
    if isinstance(given, type) and is_dataclass(given):
        return _component(given, schemas)
    raise TypeError(f"{given} has no JSON schema")


def _container(given: Any, schemas: dict[str, _Json]) -> _Json:
    origin, arguments = get_origin(given), get_args(given)
    if origin in (Union, UnionType):  # `X | None` of a NewType is the former
        return {"anyOf": [_schema(each, schemas) for each in arguments]}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0], schemas)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1], schemas)}
    raise TypeError(f"{given} has no JSON schema")


def _component(given: type, schemas: dict[str, _Json]) -> _Json:
    if given.__name__ not in schemas:
        schemas[given.__name__] = {}  # it is being drawn
        types = get_type_hints(given)
        names = [each.name for each in fields(given)]
        schemas[given.__name__] = {
            "type": "object",
            "description": inspect.getdoc(given),
            "required": names,
            "additionalProperties": False,
            "properties": {name: _schema(types[name], schemas) for name in names},
        }
    return {"$ref": f"#/components/schemas/{given.__name__}"}
