"""The commands, run for real against a database of the test's own."""
