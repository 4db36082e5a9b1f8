"""Facts about the plan: ids that survive edits, heads last, nothing deleted that is still wanted."""

from __future__ import annotations

import uuid

from sightline.indexing.plan import chunk_id, head_id, is_unchanged, plan_document
from sightline.types import Chunk, Document, Head

SETTINGS = "sections/1:64"


def document(*texts: str, source: str = "kb/a.md", content_hash: str = "h1", **metadata: object) -> tuple[Document, list[Chunk]]:
    """A document that is cut into these texts."""
    chunks, start = [], 0
    for text in texts:
        chunks.append(Chunk(text, start, start + len(text), ("Guide", "Setup"), 3))
        start += len(text)
    return Document(source, "".join(texts), content_hash=content_hash, metadata=metadata), chunks


def plan(*texts: str, stored: list[str] | None = None, **more: object) -> object:
    """The plan of a document of these texts."""
    return plan_document(*document(*texts, **more), SETTINGS, stored or [])


def ids(*texts: str) -> list[str]:
    """The ids that a collection has for a document of these texts."""
    return [point.id for point in plan(*texts).points]


def test_ids_are_lower_case_uuids() -> None:
    """Every store takes them."""
    assert all(str(uuid.UUID(one)) == one for one in ids("a", "b"))


def test_ids_never_change() -> None:
    """Every collection hangs on these values."""
    assert head_id("kb/a.md") == "015defcc-a42c-5f13-894a-8c3095b17e93"
    assert chunk_id("kb/a.md", "größer 🌊", 0) == "58ab10e2-84b1-5305-bedf-cfcfeb6e8313"


def test_ids_hash_a_list_not_a_concatenation() -> None:
    """Source and text can't run into each other."""
    assert chunk_id("a", "bc", 0) != chunk_id("ab", "c", 0)


def test_an_undecodable_name_has_an_id() -> None:
    """A lone surrogate in a source is a string like any other."""
    assert head_id("kb/\udcff.md") != head_id("kb/\udcfe.md")


def test_the_head_is_the_first_chunk_and_written_last() -> None:
    """Its presence means that everything else is there."""
    written = plan("one", "two", "three").points
    assert [point.text for point in written] == ["two", "three", "one"]
    assert [point.head is not None for point in written] == [False, False, True]
    assert written[-1].head == Head("kb/a.md", "h1", 3, f"text/1 {SETTINGS}")


def test_equal_texts_in_one_document_are_two_points() -> None:
    """Nothing is stored once that stands there twice."""
    assert len(set(ids("one", "same", "same", "same"))) == 4


def test_equal_texts_in_two_documents_are_two_points() -> None:
    """Each document has its own."""
    other = plan("one", "same", source="kb/b.md")
    assert {point.id for point in other.points}.isdisjoint(ids("one", "same"))


def test_an_edited_head_leaves_its_twin_alone() -> None:
    """The head isn't counted among equal texts, so editing it moves no other id."""
    assert ids("same", "same")[0] == ids("edited", "same")[0]


def test_a_new_document_needs_every_vector() -> None:
    """Nothing is kept and nothing deleted."""
    new = plan("one", "two")
    assert (new.kept, new.stale) == (frozenset(), ())


def test_an_inserted_chunk_is_all_that_is_new_beside_the_head() -> None:
    """What only moved keeps its vector."""
    changed = plan("one", "new", "two", "three", stored=ids("one", "two", "three"))
    assert [point.text for point in changed.points if point.id not in changed.kept] == ["new", "one"]
    assert changed.stale == ()


def test_a_moved_chunk_is_written_with_its_new_place() -> None:
    """Kept points carry the payload of today."""
    changed = plan("one", "longer than before", "two", stored=ids("one", "two"))
    [moved] = [point for point in changed.points if point.id in changed.kept]
    assert (moved.metadata["start"], moved.metadata["end"]) == (21, 24)


def test_a_removed_chunk_is_stale() -> None:
    """What the head no longer accounts for goes."""
    assert plan("one", "three", stored=ids("one", "two", "three")).stale == (chunk_id("kb/a.md", "two", 0),)


def test_a_shorter_run_of_equal_chunks_loses_the_last_ones() -> None:
    """The counted ids close up."""
    assert plan("one", "same", stored=ids("one", "same", "same")).stale == (chunk_id("kb/a.md", "same", 1),)


def test_a_document_without_text_loses_its_head_last() -> None:
    """Until then the head says that something was there."""
    emptied = plan(stored=ids("one", "two", "three"))
    assert emptied.points == ()
    assert len(emptied.stale) == 3
    assert emptied.stale[-1] == head_id("kb/a.md")


def test_every_stored_id_is_written_or_stale() -> None:
    """Nothing of a document is forgotten."""
    stored = ids("a", "b", "c", "c", "d")
    changed = plan("b", "c", "x", stored=stored)
    assert set(stored) <= {point.id for point in changed.points} | set(changed.stale)


def test_metadata_says_where_a_chunk_stands() -> None:
    """Heading path, character range and tokens are with each chunk, beside the user's own metadata."""
    [point] = plan("text", language="de").points
    assert point.metadata == {"language": "de", "heading": "Guide > Setup", "start": 0, "end": 4, "tokens": 3}


def test_a_users_key_of_the_same_name_is_kept() -> None:
    """Front matter with `start: ...` or a reserved name loses nothing and breaks nothing."""
    [point] = plan("text", start="Monday", sightline_head=1).points
    assert (point.metadata["start"], point.metadata["document_start"]) == (0, "Monday")
    assert point.metadata["document_sightline_head"] == 1


def test_a_document_is_unchanged_by_hash_reader_and_settings() -> None:
    """All three must be those of the head."""
    made, chunks = document("one")
    head = plan_document(made, chunks, SETTINGS, []).points[-1].head
    assert is_unchanged(made, SETTINGS, head)
    assert not is_unchanged(made, "sections/1:128", head)
    assert not is_unchanged(document("one", content_hash="h2")[0], SETTINGS, head)
    assert not is_unchanged(Document(made.source, made.text, reader="text/2", content_hash="h1"), SETTINGS, head)
    assert not is_unchanged(made, SETTINGS, None)
