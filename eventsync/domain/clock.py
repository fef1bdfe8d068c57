"""Time as a parameter: whoever needs it is given a clock, so that tests and the sandbox can run fast."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeAlias

Clock: TypeAlias = Callable[[], datetime]
"""Answers the time now, aware, in UTC."""
