"""eventsync keeps a PostgreSQL copy of what a practice's other systems know true within seconds."""

__version__ = "0.1.0"
