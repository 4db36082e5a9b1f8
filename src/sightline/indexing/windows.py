"""Plans of documents -> windows: what is embedded and committed together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from sightline.indexing.plan import DocumentPlan
from sightline.types import Point, TokenizedText

# How much one window may write and delete.
_MOST_CHANGES = 1024


@dataclass
class Window:
    """What is embedded and committed together, in the order of the fields; a long document spans several windows.

    Args:
        limit: How many points may need a vector.
        doubts: Heads that lose their hash before anything else of their documents changes.
        new: Points to embed and write.
        moved: Points whose metadata changes.
        stale: Ids to delete once the new ones are there.
        new_heads: Heads with a new text.
        moved_heads: Heads whose stored vector is right.
        gone: Heads of documents that go.
        sources: Documents whose commit this window is.
        chunks: How many chunks those have.
        tokens: Of the texts of `new` and `new_heads`, where they are known already.
    """

    limit: int
    doubts: list[Point] = field(default_factory=list)
    new: list[Point] = field(default_factory=list)
    moved: list[Point] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    new_heads: list[Point] = field(default_factory=list)
    moved_heads: list[Point] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    chunks: int = 0
    tokens: dict[str, TokenizedText] = field(default_factory=dict)

    def texts(self) -> list[str]:
        """The texts that need a vector, each once."""
        return list(dict.fromkeys(point.text for point in (*self.new, *self.new_heads)))

    @property
    def num_points(self) -> int:
        """How many points it writes."""
        return len(self.new) + len(self.moved) + len(self.new_heads) + len(self.moved_heads)

    @property
    def is_full(self) -> bool:
        """Whether the next point belongs to the next window."""
        changes = self.num_points + len(self.doubts) + len(self.stale) + len(self.gone)
        return len(self.new) + len(self.new_heads) >= self.limit or changes >= _MOST_CHANGES

    def note_tokens(self, point: Point, plan: DocumentPlan) -> None:
        """Keep the tokens of a point's text, if its plan has them."""
        tokens = plan.tokens.get(point.text)
        if tokens is not None:
            self.tokens[point.text] = tokens

    def end(self, plan: DocumentPlan) -> None:
        """What commits a document, and what is deleted with it."""
        self.stale.extend(plan.stale)
        if plan.head is not None:
            (self.new_heads if plan.head_is_new else self.moved_heads).append(plan.head)
            self.note_tokens(plan.head, plan)
        if plan.drops_head is not None:
            self.gone.append(plan.drops_head)
        self.sources.append(plan.source)
        self.chunks += plan.num_chunks


def windows(plans: Iterable[DocumentPlan], limit: Callable[[], int]) -> Iterator[Window]:
    """Cut a stream of plans into windows; a long document is committed in the last of its windows."""
    window = Window(limit())
    for plan in plans:
        if plan.doubt is not None:
            window.doubts.append(plan.doubt)
        for points, name in ((plan.new, "new"), (plan.moved, "moved")):
            for point in points:
                getattr(window, name).append(point)
                window.note_tokens(point, plan)
                if window.is_full:
                    yield window
                    window = Window(limit())
        window.end(plan)
        if window.is_full:
            yield window
            window = Window(limit())
    if window.sources or window.num_points:
        yield window
