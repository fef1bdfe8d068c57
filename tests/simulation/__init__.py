"""Deterministic simulation: one seed drives a practice, its mail, crashes and reads, through the real SQL."""
