"""A set that one can pick from by chance in constant time, in an order that depends on its history only."""

import random
from typing import Generic, TypeVar

T = TypeVar("T")


class Pool(Generic[T]):
    """Adding, removing and picking are O(1); iteration order of a plain set would differ between processes."""

    def __init__(self) -> None:
        self._items: list[T] = []
        self._places: dict[T, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T) -> None:
        """Add an item; once is enough."""
        if item not in self._places:
            self._places[item] = len(self._items)
            self._items.append(item)

    def discard(self, item: T) -> None:
        """Remove an item if it is there; the last one takes its place."""
        place = self._places.pop(item, None)
        if place is None:
            return
        last = self._items.pop()
        if place < len(self._items):
            self._items[place] = last
            self._places[last] = place

    def pick(self, rng: random.Random) -> T | None:
        """One item by chance, None when empty."""
        return self._items[int(rng.random() * len(self._items))] if self._items else None
