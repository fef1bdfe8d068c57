"""Where a request waits while Postgres is away: a sealed, fsynced SQLite file beside the door."""
