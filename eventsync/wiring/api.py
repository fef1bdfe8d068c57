"""Builds the management API of one process from its stores."""

from __future__ import annotations

import secrets

from eventsync.crypto import Keyring, fingerprint
from eventsync.domain.clock import Clock
from eventsync.domain.connections import Connection
from eventsync.postgres.access import AccessLog, ApiTokens
from eventsync.postgres.budget import BudgetLimits, PostgresBudget
from eventsync.postgres.database import Database
from eventsync.postgres.drift import DriftReport
from eventsync.postgres.freshness import Freshness
from eventsync.postgres.listings import Listings
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.search import EventSearch
from eventsync.postgres.stored_events import StoredEvents
from eventsync.postgres.tenants import Connections, Organizations
from eventsync.stages.replay import Replayer
from eventsync.web.api import Api
from eventsync.web.api_budget import BudgetApi
from eventsync.web.api_drift import DriftApi
from eventsync.web.api_events import EventsApi
from eventsync.web.api_freshness import FreshnessApi
from eventsync.web.api_records import RecordsApi
from eventsync.web.auth import Authenticator


def make_api(database: Database, keyring: Keyring, connections: Connections, queue: EventQueue, clock: Clock) -> Api:
    """Make the API; it opens nothing by itself."""

    def open_budget(connection: Connection) -> PostgresBudget:
        limits = BudgetLimits(connection.calls_per_minute, connection.calls_per_day)
        return PostgresBudget(database, fingerprint(connection.api_key), limits, clock)

    access_log = AccessLog(database)
    replayer = Replayer(queue, StoredEvents(database, keyring), clock, secrets.token_bytes)
    events = EventsApi(EventSearch(database, keyring), replayer, access_log, keyring, clock)
    records = RecordsApi(database, Listings(database), access_log, keyring, clock)
    budget = BudgetApi(connections, open_budget, clock)
    freshness = FreshnessApi(Freshness(database), clock)
    drift = DriftApi(DriftReport(database), keyring, clock)
    authenticator = Authenticator(ApiTokens(database), Organizations(database), clock)
    endpoints = [endpoint for part in (events, records, budget, freshness, drift) for endpoint in part.endpoints()]
    return Api(authenticator, endpoints, clock)
