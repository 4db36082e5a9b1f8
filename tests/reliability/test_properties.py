"""Properties that hold for whatever hypothesis thinks of; what single stages promise beyond this is tested with each of them."""

from __future__ import annotations

import fnmatch
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.cutting import cut
from sightline.embedding.batching import BatchPolicy
from sightline.embedding.submissions import Item, Submission, SubmissionQueue
from sightline.embedding.tokens import TokenizedPart
from sightline.indexing import structure
from sightline.indexing.chunking import chunk, default_settings
from sightline.indexing.ignoring import Rules
from sightline.indexing.plan import DocumentPlan, head_id, plan_document
from sightline.indexing.readers.anchors import PackedAnchors
from sightline.indexing.structure import Outline, outline
from sightline.metadata import plain_metadata, visible_source
from sightline.stores import payload
from sightline.stores.filters import matches, parse_filter
from sightline.testing import HashEmbedder
from sightline.types import Document, Head, Point, Priority

fixed = settings(max_examples=30, deadline=None, derandomize=True, database=None)
EMBEDDER = HashEmbedder()
CUTS = default_settings(EMBEDDER, 16)
LABEL = CUTS.label()
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
keys = st.text(st.characters(exclude_categories=("Cs",)), max_size=8).filter(lambda key: not key.startswith("sightline_"))
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | texts
places = st.dictionaries(st.sampled_from(["page", "row", "sheet", ""]), scalars, max_size=3)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5
)  # fmt: skip
odd_keys = st.sampled_from(["source", "page", "start", "$and", "#x", "chroma:document", ""])
metadata = st.dictionaries(keys | odd_keys, values, max_size=4)
passages = st.sampled_from(["lamp " * 9, "oil", "# Tower", "- wick\n- rope", "größer 潮汐 🚀 " * 4, "oil"])
paragraphs = st.lists(passages, max_size=9)
documents = st.builds(
    lambda parts, said: Document("kb/a.md", "\n\n".join(parts), "markdown", metadata=said), paragraphs, metadata
)  # fmt: skip
blocks = st.sampled_from(
    ["- a\n", "  - b\n", "1. c\n", "    code\n", "> q\n", ">> r\n", "```\n", "~~~~\n", "\n", "\n", "# h\n", "text\n",
     "===\n", "---\n", "|a|b|\n", "|-|-|\n", "<div>\n", "</div>\n", "<!--\n", "-->\n", "[a]: b\n", "\t", " ", "***\n", "lazy"]
)  # fmt: skip


def planned(document: Document, stored: Sequence[Point]) -> DocumentPlan:
    return plan_document(document, chunk(document, CUTS, EMBEDDER), LABEL, stored)


def applied(plan: DocumentPlan, stored: Sequence[Point]) -> list[Point]:
    """What a store holds once a plan is carried out."""
    held = {point.id: point for point in stored}
    for point in (*([plan.doubt] if plan.doubt else []), *plan.new, *plan.moved):
        held[point.id] = point
    for gone in plan.stale:
        del held[gone]
    if plan.head is not None:
        held[plan.head.id] = plan.head
    if plan.drops_head is not None:
        held.pop(plan.drops_head, None)
    return list(held.values())


def content(points: Sequence[Point]) -> dict[str, str]:
    """Points by their ids, as JSON: in Python 1 equals True."""
    said = {point.id: [point.text, point.source, dict(point.metadata), repr(point.head)] for point in points}
    return {one: json.dumps(what, sort_keys=True) for one, what in said.items()}


@fixed
@given(st.lists(documents, min_size=1, max_size=4))
def test_plans_lead_from_any_version_to_any_other(versions):
    """The collection is then what it would be if it had been made anew; a second plan changes nothing."""
    stored: list[Point] = []
    for version in versions:
        plan = planned(version, stored)
        known = {point.id: point.text for point in stored}
        assert all(known[point.id] == point.text for point in plan.moved), "a vector of another text"
        assert plan.head is None or plan.head_is_new or known[plan.head.id] == plan.head.text
        assert known.keys().isdisjoint(point.id for point in plan.new)
        stored = applied(plan, stored)
        assert content(stored) == content(applied(planned(version, []), []))
        again = planned(version, stored)
        assert [again.new, again.moved, again.stale, again.doubt, again.head_is_new] == [(), (), (), None, False]


@fixed
@given(documents, documents, st.integers(0, 60))
def test_a_killed_plan_is_mended_by_the_next(before, after, steps):
    """Whatever was written of it, the next run ends in the same collection, and deletes no more than what is stale."""
    stored = applied(planned(before, []), [])
    plan = planned(after, stored)
    writes = [*([plan.doubt] if plan.doubt else []), *plan.new, *plan.moved]
    held = {point.id: point for point in stored} | {point.id: point for point in writes[:steps]}
    if steps > len(writes):
        for gone in plan.stale[: steps - len(writes)]:
            del held[gone]
    final = content(applied(planned(after, list(held.values())), list(held.values())))
    assert final == content(applied(planned(after, []), []))


@fixed
@given(st.lists(st.tuples(texts, paragraphs), max_size=5, unique_by=lambda pair: pair[0]), st.randoms())
def test_ids_are_unique_and_know_no_order(pairs, chooser):
    """Over all documents of a collection, in whichever order they come."""
    made = [Document(f"kb/{source}", "\n\n".join(parts), "markdown") for source, parts in pairs]
    points = [point for one in made for point in applied(planned(one, []), [])]
    assert len({point.id for point in points}) == len(points)
    chooser.shuffle(made)
    again = [point for one in made for point in applied(planned(one, []), [])]
    assert {point.id: (point.source, point.text) for point in again} == {point.id: (point.source, point.text) for point in points}
    assert all((point.head is not None) == (point.id == head_id(point.source)) for point in points)


@fixed
@given(documents)
def test_cutting_what_was_cut_gives_it_back(document):
    """A chunk that is a document of plain text is one chunk, and the same one."""
    for one in chunk(document, CUTS, EMBEDDER):
        assert [again.text for again in chunk(Document("kb/b", one.text), CUTS, EMBEDDER)] == [one.text]


@settings(fixed, max_examples=80)
@given(st.lists(blocks, max_size=60).map("".join), st.integers(1, 40))
def test_markdown_in_pieces_has_the_outline_of_the_whole(text, size):
    """Wherever a piece ends: in a list, a fence, a table, a comment, a quote that goes on without its mark."""

    def seen(found: Outline) -> list[Any]:
        return [found.headings, *(sorted(set(starts)) for starts in (found.blocks, found.parts, found.lines))]

    whole = seen(outline(text, "markdown"))
    before = structure._PIECE, structure._LONGEST_BLOCK
    structure._PIECE, structure._LONGEST_BLOCK = size, 1000
    try:
        assert seen(outline(text, "markdown")) == whole
    finally:
        structure._PIECE, structure._LONGEST_BLOCK = before


@fixed
@given(st.lists(st.tuples(st.integers(0, 5), places), max_size=12))
def test_packed_anchors_are_what_was_packed(steps):
    """Each place comes back as it was, the last one where several have the same start, also through a pipe."""
    starts = list(itertools.accumulate(step for step, _ in steps))
    given_ones = dict(zip(starts, (place for _, place in steps), strict=True))
    packed = PackedAnchors(zip(starts, (place for _, place in steps), strict=True))
    runs, first, second = packed.packed()
    through = PackedAnchors.unpacked(json.loads(json.dumps(runs)), first, second)
    for one in (packed, through):
        assert repr(list(one)) == repr([one[at] for at in range(len(one))])
        assert [(start, json.dumps(place, sort_keys=True)) for start, place in one] == [
            (start, json.dumps(place, sort_keys=True)) for start, place in given_ones.items()
        ]


@fixed
@given(st.integers(1, 5), st.integers(2, 48), st.integers(0, 2**32), st.data())
def test_a_cut_of_a_cut_is_a_cut(rows, native, seed, data):
    """Of unit norm, in the same direction as what was kept, and the same whether it was cut once or twice."""
    vectors = np.random.default_rng(seed).normal(size=(rows, native)).astype(np.float32)
    wide = data.draw(st.integers(1, native))
    narrow = data.draw(st.integers(1, wide))
    once, twice = cut(vectors, narrow), cut(cut(vectors, wide), narrow)
    assert np.allclose(np.linalg.norm(once, axis=1), 1, atol=1e-6)
    assert np.allclose(once, twice, atol=1e-5)
    assert np.allclose(once * np.linalg.norm(vectors[:, :narrow], axis=1, keepdims=True), vectors[:, :narrow], atol=1e-4)
    assert np.array_equal(cut(once, narrow), cut(cut(once, narrow), narrow))


@fixed
@given(st.lists(st.integers(1, 90), min_size=1, max_size=30), st.integers(1, 200), st.booleans(), st.booleans(), st.randoms())
def test_vectors_come_back_in_the_order_of_their_texts(lengths, budget, packs, deterministic, chooser):
    """However they were packed, and in whichever order the passes end."""
    submission = Submission(len(lengths), 4, Priority.BULK)
    queue, policy = SubmissionQueue(), BatchPolicy(budget, packs=packs, deterministic=deterministic)
    queue.open(submission)
    parts = [TokenizedPart(np.full(length, row, dtype=np.int32)) for row, length in enumerate(lengths)]
    queue.add(submission, [Item(submission, row, part) for row, part in enumerate(parts)], exhausted=True)
    batches = list(iter(lambda: queue.next(policy, wait=False), None))
    chooser.shuffle(batches)
    passed = 0
    for batch in batches:
        passed += sum(map(len, batch))
        # The stand-in of a model: a vector that says whose tokens it is of.
        submission.deliver(batch, np.asarray([[1, item.part.ids[0], 0, len(item)] for item in batch], dtype=np.float32))
    wanted = np.asarray([[1, row, 0, length] for row, length in enumerate(lengths)], dtype=np.float32)
    assert passed == sum(lengths)
    assert np.array_equal(submission.future.result(0), cut(wanted, 4))


heads = st.none() | st.builds(lambda digest, count: Head("kb/ä b", digest, count, "r/1 s/1"), texts, st.integers(1, 2**40))


@fixed
@given(texts, metadata, heads)
def test_payloads_give_back_what_they_were_made_of(text, said, head):
    """In both layouts, and through JSON, which is how databases keep them."""
    point = Point("00000000-0000-0000-0000-000000000000", text, "kb/ä b", plain_metadata(said, "kb/ä b"), head)
    nested = json.loads(json.dumps(payload.to_nested(point)))
    flat = json.loads(json.dumps(payload.to_flat(point)))
    assert all(isinstance(value, (str, int, float, bool, list)) for value in flat.values()), "Chroma keeps no other"
    for found in (payload.point_from_nested(point.id, nested), payload.point_from_flat(point.id, text, flat)):
        assert content([found]) == content([point])
        assert found.embedded_digest is None


def meets(wanted: dict[str, Any], source: str, said: dict[str, Any]) -> bool:
    """What a filter means, said in the plainest way."""
    for key, want in wanted.items():
        value = visible_source(source, said) if key == "source" else said.get(key)
        if isinstance(want, dict):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                return False
            tests = {"gte": value >= want.get("gte", value), "gt": "gt" not in want or value > want["gt"],
                     "lte": value <= want.get("lte", value), "lt": "lt" not in want or value < want["lt"]}  # fmt: skip
            if not all(tests.values()):
                return False
            continue
        wants = want if isinstance(want, list) else [want]
        items = value if isinstance(value, list) else [value]
        if len({type(item) for item in items}) > 1:
            return False
        if not any(a == b and isinstance(a, bool) == isinstance(b, bool) for a in items for b in wants):
            return False
    return True


few = st.sampled_from([0, 1, 2, 1.0, 1.5, True, False, "1", "a", ""])
shown = st.dictionaries(st.sampled_from(["a", "b", "source"]), few | st.none() | st.lists(few, max_size=3), max_size=3)
bounds = st.dictionaries(st.sampled_from(["gte", "gt", "lte", "lt"]), st.sampled_from([0, 1, 1.5, 2]), min_size=1)
filters = st.dictionaries(st.sampled_from(["a", "b", "source"]), few | st.lists(few, min_size=1, max_size=3) | bounds, max_size=2)


@settings(fixed, max_examples=100)
@given(filters, shown, st.sampled_from(["a", "kb/a", "sightline:rows/1"]))
def test_a_filter_means_what_it_says(wanted, said, source):
    """As a plain reading of it finds."""
    assert matches(parse_filter(wanted), source, said) == meets(wanted, source, said)


tokens = st.sampled_from(["a", "b", "?", "*", "**/", "/", "[ab]", "a/", "/**", "**"])
globs = st.lists(tokens, min_size=1, max_size=6).map("".join)
names = st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4)


def fits(pattern: list[str], parts: list[str]) -> bool:
    """Whether a path meets a pattern, part by part, which may take any time."""
    if not pattern or not parts:
        return not pattern and not parts
    if set(pattern[0]) == {"*"} and len(pattern[0]) > 1:
        return len(pattern) == 1 or any(fits(pattern[1:], parts[at:]) for at in range(len(parts)))
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and fits(pattern[1:], parts[1:])


@settings(fixed, max_examples=100)
@given(globs.filter(lambda glob: glob.strip("/")), names)
def test_globs_mean_what_they_say(glob, parts):
    """As trying every way finds; one with a slash at its end means folders only."""
    pattern = glob.removesuffix("/")
    wanted = fits(pattern.removeprefix("/").split("/"), parts if "/" in pattern else parts[-1:])
    assert Rules.of_globs([], [glob]).drop_file("/".join(parts), parts[-1]) == (wanted and not glob.endswith("/"))


@fixed
@given(documents)
def test_a_head_says_what_was_read(document):
    """Another text, or metadata, is another hash; the same is the same."""
    one, same = planned(document, []).head, planned(replace(document), []).head
    other = planned(replace(document, text=f"{document.text}\n\nmore"), []).head
    assert one == same
    assert other is not None
    if one is not None:
        assert one.head.document_hash != other.head.document_hash
