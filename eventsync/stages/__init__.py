"""What happens to an event, one verb a module: receive, relay, apply, refetch, and what keeps them going."""
