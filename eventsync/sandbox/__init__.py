"""Pretend vendors: a program of its own that eventsync meets over HTTP only; it imports nothing else of eventsync.

`serve` runs one inside tests and the demo, `sandbox_command` in the foreground. What all vendors share stands here
(clock, faults, delivery, quota, control API); each vendor has a folder.
"""

from eventsync.sandbox.command import sandbox_command
from eventsync.sandbox.delivery import SenderLimits
from eventsync.sandbox.errors import NotPossibleError, OptionsError, StateError
from eventsync.sandbox.faults import Faults
from eventsync.sandbox.options import DEFAULT_API_KEY, SandboxOptions
from eventsync.sandbox.quota import QuotaLimits, QuotaWindow
from eventsync.sandbox.sandbox import BurstResult, Sandbox
from eventsync.sandbox.serving import RunningSandbox, serve
from eventsync.sandbox.signing import SignatureEncoding, Signing
from eventsync.sandbox.traffic import TrafficMix
from eventsync.sandbox.vendor import Effect, Fact, Webhook

__all__ = [
    "DEFAULT_API_KEY",
    "BurstResult",
    "Effect",
    "Fact",
    "Faults",
    "NotPossibleError",
    "OptionsError",
    "QuotaLimits",
    "QuotaWindow",
    "RunningSandbox",
    "Sandbox",
    "SandboxOptions",
    "SenderLimits",
    "SignatureEncoding",
    "Signing",
    "StateError",
    "TrafficMix",
    "Webhook",
    "sandbox_command",
    "serve",
]
