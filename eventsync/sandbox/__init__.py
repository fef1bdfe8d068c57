"""Pretend vendors: a program of its own that eventsync meets over HTTP only; it imports nothing else of eventsync.

`serve` runs one inside tests and the demo, `sandbox_command` in the foreground. What all vendors share stands here
(clock, faults, delivery, quota, ledger, script of bad days, control API); each vendor has a folder.
"""

from eventsync.sandbox.clock import SandboxClock
from eventsync.sandbox.colectiva.posts import KeyCounts, Post, PostBook
from eventsync.sandbox.colectiva.vendor import ColectivaVendor
from eventsync.sandbox.command import sandbox_command
from eventsync.sandbox.delivery import SenderLimits
from eventsync.sandbox.errors import BadArgumentError, NotPossibleError, OptionsError, StateError
from eventsync.sandbox.fate import Delivery, Fate
from eventsync.sandbox.faults import Faults
from eventsync.sandbox.ledger import Ledger, LedgerEntry
from eventsync.sandbox.options import DEFAULT_API_KEY, SandboxOptions
from eventsync.sandbox.quota import QuotaLimits, QuotaWindow
from eventsync.sandbox.sandbox import BurstResult, Sandbox
from eventsync.sandbox.script import ApiAnswer, ApiScript, ScriptedCall
from eventsync.sandbox.serving import RunningSandbox, serve
from eventsync.sandbox.signing import SignatureEncoding, Signing
from eventsync.sandbox.traffic import TrafficMix
from eventsync.sandbox.vendor import Effect, Fact, Webhook

__all__ = [
    "DEFAULT_API_KEY",
    "ApiAnswer",
    "ApiScript",
    "BadArgumentError",
    "BurstResult",
    "ColectivaVendor",
    "Delivery",
    "Effect",
    "Fact",
    "Fate",
    "Faults",
    "KeyCounts",
    "Ledger",
    "LedgerEntry",
    "NotPossibleError",
    "OptionsError",
    "Post",
    "PostBook",
    "QuotaLimits",
    "QuotaWindow",
    "RunningSandbox",
    "Sandbox",
    "SandboxClock",
    "SandboxOptions",
    "ScriptedCall",
    "SenderLimits",
    "SignatureEncoding",
    "Signing",
    "StateError",
    "TrafficMix",
    "Webhook",
    "sandbox_command",
    "serve",
]
