"""`python -m eventsync` and the `eventsync` command."""

from eventsync.cli import main

if __name__ == "__main__":
    main()
