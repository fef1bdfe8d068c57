"""`python -m eventsync.sandbox`: the pretend vendor without the rest of eventsync."""

from eventsync.sandbox.command import sandbox_command

sandbox_command(prog_name="python -m eventsync.sandbox")
