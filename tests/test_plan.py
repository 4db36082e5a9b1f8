"""Facts about the plan: ids that survive edits, heads last, nothing deleted that is still wanted."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from sightline.errors import UsageError
from sightline.indexing.plan import DocumentPlan, chunk_id, content_hash, head_id, is_unchanged, plan_document, plan_removal
from sightline.types import Chunk, Document, Head, Point

SETTINGS = "sections/1:64"


def document(*texts: str, source: str = "kb/a.md", content_hash: str = "h1", **metadata: object) -> tuple[Document, list[Chunk]]:
    """A document that is cut into these texts."""
    chunks, start = [], 0
    for text in texts:
        chunks.append(Chunk(text, start, start + len(text), ("Guide", "Setup"), 3))
        start += len(text)
    return Document(source, "".join(texts), content_hash=content_hash, metadata=metadata), chunks


def plan(*texts: str, stored: list[Point] | None = None, **more: object) -> DocumentPlan:
    """The plan of a document of these texts."""
    return plan_document(*document(*texts, **more), SETTINGS, stored or [])


def points(*texts: str, **more: object) -> list[Point]:
    """What a collection has for a document of these texts."""
    new = plan(*texts, **more)
    return [*new.new, *([new.head] if new.head else [])]


def ids(*texts: str) -> list[str]:
    """Their ids."""
    return [point.id for point in points(*texts)]


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


def test_the_head_is_the_first_chunk() -> None:
    """It says how many there are, and how they were read and cut."""
    new = plan("one", "two", "three")
    assert [point.text for point in new.new] == ["two", "three"]
    assert all(point.head is None for point in new.new)
    assert new.head.text == "one"
    assert new.head.head == Head("kb/a.md", "h1", 3, f"text/1 {SETTINGS}")
    assert new.num_chunks == 3


def test_equal_texts_in_one_document_are_two_points() -> None:
    """Nothing is stored once that stands there twice."""
    assert len(set(ids("one", "same", "same", "same"))) == 4


def test_equal_texts_in_two_documents_are_two_points() -> None:
    """Each document has its own."""
    other = points("one", "same", source="kb/b.md")
    assert {point.id for point in other}.isdisjoint(ids("one", "same"))


def test_an_edited_head_leaves_its_twin_alone() -> None:
    """The head isn't counted among equal texts, so editing it moves no other id."""
    assert ids("same", "same")[0] == ids("edited", "same")[0]


def test_a_new_document_needs_every_vector() -> None:
    """Nothing is moved, nothing deleted, and there is no head to be doubted."""
    new = plan("one", "two")
    assert (len(new.new), new.head_is_new) == (1, True)
    assert (new.doubt, new.moved, new.stale, new.drops_head) == (None, (), (), None)


def test_an_unchanged_chunk_is_left_alone() -> None:
    """What stands where it stood, with the same metadata, isn't written; the head with its new hash is, without a new vector."""
    changed = plan("one", "two", "new", stored=points("one", "two"), content_hash="h2")
    assert [point.text for point in changed.new] == ["new"]
    assert (changed.moved, changed.stale, changed.head_is_new) == ((), (), False)
    assert changed.head.head.document_hash == "h2"


def test_a_moved_chunk_gets_its_new_place_and_keeps_its_vector() -> None:
    """Metadata alone is updated."""
    changed = plan("one", "longer than before", "two", stored=points("one", "two"))
    [moved] = changed.moved
    assert (moved.text, moved.metadata["start"], moved.metadata["end"]) == ("two", 21, 24)


def test_metadata_alone_moves_every_chunk_and_embeds_none() -> None:
    """Also where Python would take the values for equal."""
    changed = plan("one", "two", stored=points("one", "two", draft=1), draft=True)
    assert (changed.new, changed.head_is_new) == ((), False)
    assert [point.metadata["draft"] for point in (*changed.moved, changed.head)] == [True, True]


def test_a_head_with_another_text_needs_a_vector() -> None:
    """Its id doesn't say what its text is."""
    changed = plan("zero", "one", "two", stored=points("one", "two"))
    assert (changed.head.text, changed.head_is_new) == ("zero", True)
    assert [point.text for point in changed.new] == ["one"]


def test_a_head_is_doubted_before_anything_else_changes() -> None:
    """As it is stored, but without its hash."""
    stored = points("one", "two")
    changed = plan("one", "three", stored=stored, content_hash="h2")
    assert changed.doubt == replace(stored[-1], head=replace(stored[-1].head, document_hash=""))


def test_a_head_that_is_doubted_already_is_not_written_again() -> None:
    """A second interruption finds what the first one left."""
    stored = points("one", "two")
    stored[-1] = plan("one", "three", stored=stored).doubt
    assert plan("one", "three", stored=stored).doubt is None


def test_a_head_that_changes_alone_is_not_doubted() -> None:
    """One write is whole by itself."""
    changed = plan("one", "two", stored=points("one", "two"), content_hash="h2")
    assert (changed.doubt, changed.new, changed.moved, changed.stale) == (None, (), (), ())


def test_a_removed_chunk_is_stale() -> None:
    """What the head no longer accounts for goes."""
    assert plan("one", "three", stored=points("one", "two", "three")).stale == (chunk_id("kb/a.md", "two", 0),)


def test_a_shorter_run_of_equal_chunks_loses_the_last_ones() -> None:
    """The counted ids close up."""
    assert plan("one", "same", stored=points("one", "same", "same")).stale == (chunk_id("kb/a.md", "same", 1),)


def test_a_document_without_text_loses_its_head_last() -> None:
    """Until then the head says that something is being changed."""
    stored = points("one", "two", "three")
    emptied = plan(stored=stored)
    assert emptied == plan_removal("kb/a.md", stored)
    assert emptied.doubt.head.document_hash == ""
    assert sorted(emptied.stale) == sorted(point.id for point in stored[:-1])
    assert (emptied.head, emptied.drops_head) == (None, head_id("kb/a.md"))


def test_every_stored_id_is_kept_or_stale() -> None:
    """Nothing of a document is forgotten."""
    stored = points("a", "b", "c", "c", "d")
    changed = plan("b", "c", "x", stored=stored)
    kept = {point.id for point in points("b", "c", "x")}
    assert {point.id for point in stored} <= kept | set(changed.stale)
    assert kept.isdisjoint(changed.stale)


def test_metadata_says_where_a_chunk_stands() -> None:
    """Heading path, character range and tokens are with each chunk, beside the user's own metadata."""
    [point] = points("text", language="de")
    assert point.metadata == {"language": "de", "heading": "Guide > Setup", "start": 0, "end": 4, "tokens": 3}


def test_a_users_key_of_the_same_name_is_kept() -> None:
    """Front matter with `start: ...` or a reserved name loses nothing and breaks nothing."""
    [point] = points("text", start="Monday", sightline_head=1, document_end="x", end="y")
    assert (point.metadata["start"], point.metadata["document_start"]) == (0, "Monday")
    assert (point.metadata["document_end"], point.metadata["document_document_end"]) == ("x", "y")
    assert point.metadata["document_sightline_head"] == 1


def test_metadata_that_no_store_keeps_is_refused() -> None:
    """Before anything is embedded."""
    with pytest.raises(UsageError, match=r"kb/a\.md"):
        plan("text", when=object())


def test_a_document_is_unchanged_by_hash_reader_and_settings() -> None:
    """All three must be those of the head."""
    made, chunks = document("one")
    head = plan_document(made, chunks, SETTINGS, []).head.head
    assert is_unchanged("h1", made.reader, SETTINGS, head)
    assert not is_unchanged("h1", made.reader, "sections/1:128", head)
    assert not is_unchanged("h2", made.reader, SETTINGS, head)
    assert not is_unchanged("h1", "text/2", SETTINGS, head)
    assert not is_unchanged("h1", made.reader, SETTINGS, replace(head, document_hash=""))


@pytest.mark.parametrize("change", [{"text": "other"}, {"metadata": {"a": True}}, {"format": "markdown"}])
def test_a_document_without_a_hash_gets_one_over_all_that_it_says(change: dict[str, object]) -> None:
    """Text, format and metadata count, the order of keys doesn't."""
    one = Document("kb/a", "text", metadata={"a": 1, "b": 2})
    assert content_hash(one) == content_hash(replace(one, metadata={"b": 2, "a": 1}))
    assert content_hash(one) != content_hash(replace(one, **change))
