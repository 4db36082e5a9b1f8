"""What the collection holds already, and what a run that was killed may have left in it.

A collection carries a mark with its unfinished scopes: set before the first write of a run, cleared when the run has replanned
them whole. A scope is a root's name or the source of one file. Where a run finds its scopes in the mark, or where the counts of
the heads don't add up to what is there, every source is counted: what has another number of points than its head says is
planned again, and what has no head and no file goes.
"""

from __future__ import annotations

from collections.abc import Set

from sightline.contract import Mark
from sightline.protocols import Store
from sightline.types import Head, Point


class Stored:
    """What the collection holds within the scopes of a run."""

    def __init__(self, store: Store, scopes: Set[str], mark: Mark) -> None:
        self._store = store
        self._scopes = scopes
        self._heads = {head.source: head for head in store.heads()}
        self._counts = store.sources() if self._is_doubtful(mark) else None

    def whole_head(self, source: str) -> Head | None:
        """The head of a document that has all its chunks and no others; None sends the document to be planned again."""
        head = self._heads.get(source)
        if head is None or not head.document_hash:
            return None
        return head if self._counts is None or self._counts.get(source) == head.num_chunks else None

    def points(self, source: str) -> list[Point]:
        """All points of a document; asks the store only where there are some."""
        return self._store.points(source) if source in self else []

    def __contains__(self, source: object) -> bool:
        """Whether the collection has anything of a document."""
        return source in (self._counts or self._heads)

    def committed(self) -> dict[str, set[str]]:
        """Sources with a head, by the scope of the run that they lie in."""
        found: dict[str, set[str]] = {}
        for source in self._heads:
            scope = scope_of(source, self._scopes)
            if scope is not None:
                found.setdefault(scope, set()).add(source)
        return found

    def headless(self) -> set[str]:
        """Sources within the scopes of the run that have points but no head: what a killed run left."""
        return {source for source in self._counts or () if source not in self._heads and self._is_given(source)}

    def _is_given(self, source: str) -> bool:
        return is_within(source, self._scopes)

    def _is_doubtful(self, mark: Mark) -> bool:
        unfinished = mark.unfinished
        if any(is_within(one, self._scopes) for one in unfinished) or any(is_within(one, unfinished) for one in self._scopes):
            return True
        return sum(head.num_chunks for head in self._heads.values()) != self._store.count()


def is_within(source: str, scopes: Set[str]) -> bool:
    """Whether a source is one of the scopes or lies below one, by path parts: `docs/a.md` is in `docs`, `docs2/a.md` isn't."""
    return scope_of(source, scopes) is not None


def scope_of(source: str, scopes: Set[str]) -> str | None:
    """The narrowest of the scopes that a source is or lies below."""
    end = len(source)
    while end > 0:
        if source[:end] in scopes:
            return source[:end]
        end = source.rfind("/", 0, end)
    return None
