"""The words: pure values and rules that every other part speaks in; no driver, no clock, no I/O."""
