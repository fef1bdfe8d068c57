"""Builds the management API of one process from its stores."""

from __future__ import annotations

import secrets

from pydantic import SecretStr

from eventsync.crypto import Keyring, fingerprint, hash_token
from eventsync.domain.clock import Clock
from eventsync.domain.connections import Connection
from eventsync.postgres.access import AccessLog, ApiTokens
from eventsync.postgres.budget import BudgetLimits, PostgresBudget
from eventsync.postgres.database import Database
from eventsync.postgres.drift import DriftReport
from eventsync.postgres.freshness import Freshness
from eventsync.postgres.listener import Listener
from eventsync.postgres.listings import Listings
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.runs import Runs
from eventsync.postgres.search import EventSearch
from eventsync.postgres.stored_events import StoredEvents
from eventsync.postgres.sync_reports import SyncReports
from eventsync.postgres.sync_targets import SyncTargets
from eventsync.postgres.tenants import Connections, Organizations
from eventsync.stages.asking import Asker, EndWatch
from eventsync.stages.replay import Replayer
from eventsync.web.api import Api
from eventsync.web.api_budget import BudgetApi
from eventsync.web.api_calls import Endpoint
from eventsync.web.api_drift import DriftApi
from eventsync.web.api_events import EventsApi
from eventsync.web.api_freshness import FreshnessApi
from eventsync.web.api_patient_sync import PatientSyncApi
from eventsync.web.api_records import RecordsApi
from eventsync.web.api_sync import SyncApi
from eventsync.web.api_sync_runs import SyncRunsApi
from eventsync.web.auth import Authenticator
from eventsync.web.sync_wait import ANSWER_WITHIN_S, SyncWait

_PRACTICEQ = "intakeq"  # the same product's other name


def make_api(
    database: Database,
    keyring: Keyring,
    connections: Connections,
    queue: EventQueue,
    clock: Clock,
    *,
    listener: Listener | None = None,
    cron_secret: SecretStr | None = None,
    answer_within_s: float = ANSWER_WITHIN_S,
) -> Api:
    """Make the API; it opens nothing by itself. `answer_within_s` is how long a call may wait for its sync's end."""

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
    authenticator = Authenticator(
        ApiTokens(database),
        Organizations(database),
        clock,
        cron_secret_hash=None if cron_secret is None else hash_token(cron_secret.get_secret_value()),
    )
    ends = EndWatch(Runs(database), listener)
    endpoints = _sync_endpoints(database, authenticator, SyncWait(ends, answer_within_s), clock)
    endpoints += [endpoint for part in (events, records, budget, freshness, drift) for endpoint in part.endpoints()]
    return Api(authenticator, endpoints, clock, stop_waiting=ends.stop)


def _sync_endpoints(database: Database, authenticator: Authenticator, wait: SyncWait, clock: Clock) -> list[Endpoint]:
    runs, reports, listings = Runs(database), SyncReports(database), Listings(database)
    asker = Asker(runs, SyncTargets(database, _PRACTICEQ), clock)
    parts = (
        SyncApi(asker, wait, reports, clock),
        PatientSyncApi(asker, wait, reports, listings, AccessLog(database), clock),
        SyncRunsApi(runs, reports, authenticator.organization, clock),
    )
    return [endpoint for part in parts for endpoint in part.endpoints()]
