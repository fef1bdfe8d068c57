"""The commands by name, each imported when it is first asked for: a process that runs a role loads no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module

import click


class LazyCommands(MutableMapping[str, click.Command]):
    """click's mapping of a group's commands. `places` says where each is: `module:attribute`."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = dict(places)
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        """Import the command, if need be. Raises KeyError for a name that there is not."""
        if name not in self._loaded:
            module, _, attribute = self._places[name].partition(":")
            self._loaded[name] = getattr(import_module(module), attribute)
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        """Add a command that is there already."""
        self._places[name] = ""
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        """Take a command away."""
        del self._places[name]
        self._loaded.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        """Name the commands, without importing any."""
        return iter(self._places)

    def __len__(self) -> int:
        """Count them."""
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        """Tell whether there is such a command, without importing it."""
        return name in self._places
