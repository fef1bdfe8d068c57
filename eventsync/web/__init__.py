"""The door: webhooks come in here, people and probes ask here; nothing is decided here that a stage could decide."""
