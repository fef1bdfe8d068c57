"""What Colectiva is told of an organization, whatever a trigger or a person wrote into the payload."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.deliveries import Action, ItemId, OutboundItem
from eventsync.vendors.colectiva.mapping import body_of

ORG_ID = "plenura_0000000000004000800000000000000c"
PRACTICE = {
    "ecosystem_org_id": ORG_ID,
    "app_name": "plenura",
    "organization_name": "Test Practice 12",
    "email": "practice12@example.test",
    "tax_id": "TPR010101AA1",
    "business_type": "individual",
    "subscription_tier": "professional",
    "verification_status": "verified",
    "is_active": True,
    "created_at": "2026-11-21T12:00:00+00:00",
    "metadata": {"city": "Test City"},
}


def item(payload: Any, action: Action = Action.REGISTER) -> OutboundItem:
    return OutboundItem(ItemId(UUID(int=7)), "practice", ORG_ID, action, payload, UUID(int=8))


@pytest.mark.parametrize("action", [Action.REGISTER, Action.UPDATE])
def test_a_payload_as_the_trigger_writes_it_becomes_what_colectiva_knows(action: Action) -> None:
    assert body_of(item(PRACTICE, action)) == {
        "name": "Test Practice 12",
        "rfc": "TPR010101AA1",
        "type": "individual",
        "app_org_id": ORG_ID,
        "owner_email": "practice12@example.test",
        "billing": {"plan": "professional", "status": "active"},
    }


@pytest.mark.parametrize("missing", [{}, dict.fromkeys(PRACTICE), dict.fromkeys(PRACTICE, ""), {"email": "  "}])
def test_what_is_missing_is_null_or_the_default(missing: dict[str, Any]) -> None:
    assert body_of(item(missing)) == {
        "name": None,
        "rfc": None,
        "type": "business",
        "app_org_id": ORG_ID,
        "owner_email": None,
        "billing": {"plan": "free", "status": "active"},
    }


def test_the_organizations_id_is_the_rows_whatever_the_payload_says() -> None:
    assert body_of(item(PRACTICE | {"ecosystem_org_id": "plenura_another"}))["app_org_id"] == ORG_ID


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("  Test Practice ", "Test Practice"),
        (12, "12"),
        (12.0, "12"),
        (12.5, "12.5"),
        (0, "0"),
        (True, None),
        ([], None),
        (["Test Practice"], None),
        ({"es": "Test Practice"}, None),
    ],
)
def test_a_member_of_another_type_becomes_text_or_null(value: Any, text: str | None) -> None:
    assert body_of(item(PRACTICE | {"organization_name": value}))["name"] == text


@pytest.mark.parametrize("value", [False, 0, 0.0, "false", "False ", "f", "no", "off", "0"])
def test_a_clear_no_makes_an_organization_inactive(value: Any) -> None:
    assert body_of(item(PRACTICE | {"is_active": value}))["billing"]["status"] == "inactive"


@pytest.mark.parametrize("value", [True, None, 1, "true", "", "maybe", [], {}])
def test_anything_else_leaves_it_active(value: Any) -> None:
    assert body_of(item(PRACTICE | {"is_active": value}))["billing"]["status"] == "active"


@pytest.mark.parametrize("payload", [PRACTICE, {}, {"is_active": "yes"}])
def test_a_deactivation_is_always_inactive(payload: dict[str, Any]) -> None:
    assert body_of(item(payload, Action.DEACTIVATE))["billing"]["status"] == "inactive"


@given(
    st.dictionaries(
        st.sampled_from(sorted(PRACTICE)),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
            max_leaves=3,
        ),
    ),
    st.sampled_from(Action),
)
def test_any_payload_becomes_a_body_that_can_be_sent(payload: dict[str, Any], action: Action) -> None:
    body = body_of(item(payload, action))
    assert list(body) == ["name", "rfc", "type", "app_org_id", "owner_email", "billing"]
    assert all(isinstance(body[name], str | None) for name in ("name", "rfc", "owner_email"))
    assert isinstance(body["type"], str)
    assert isinstance(body["billing"]["plan"], str)
    assert body["billing"]["status"] in ("active", "inactive")
    assert orjson.loads(orjson.dumps(body)) == body
