"""Contests between eventsync's parts and naive ways or peers: on demand, outside CI, as `make bench` runs them."""
