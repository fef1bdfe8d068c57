"""What can be wrong with a request to the sandbox; each message says what was expected."""


class OptionsError(ValueError):
    """The sandbox cannot be started as asked."""


class StateError(Exception):
    """The state file cannot be used; the message says what to do."""


class BadArgumentError(Exception):
    """An argument has the wrong type, is out of range, or is unknown."""


class NotPossibleError(Exception):
    """The action does not fit the present data (no such record, wrong status); try another or name a record."""
