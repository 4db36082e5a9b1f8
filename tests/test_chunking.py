"""Facts about how documents are cut."""

import random
import re
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.embedding.engine import EmbeddingEngine
from sightline.errors import UsageError
from sightline.indexing import chunking
from sightline.indexing.chunking import ChunkSettings, chunk, default_settings
from sightline.indexing.structure import outline
from sightline.testing import HashEmbedder
from sightline.types import Document

TOKEN = re.compile(r"\w+|[^\w\s]")
SIXTEEN = ChunkSettings(16)
SIXTY = ChunkSettings(60)


class WordEmbedder(HashEmbedder):
    """A hash embedder with a tokenizer: words and marks, and two special tokens around them."""

    max_length = 66

    def count_tokens(self, texts):
        """Words and marks, plus two."""
        return [len(TOKEN.findall(text)) + 2 for text in texts]

    def token_spans(self, text):
        """Where words and marks are."""
        return np.asarray([match.span() for match in TOKEN.finditer(text)], dtype=np.int32).reshape(-1, 2)


class EdgeEmbedder(WordEmbedder):
    """Its tokens get shorter at the ends of a text: a piece that stands alone has more of them than it had in the document."""

    def count_tokens(self, texts):
        """Two special tokens, and three more for a text that isn't empty."""
        return [len(TOKEN.findall(text)) + (5 if text else 2) for text in texts]


class RealEmbedder(HashEmbedder):
    """A hash embedder with a real model's tokenizer."""

    max_length = 256

    def __init__(self, path):
        super().__init__()
        self.tokenizer = pytest.importorskip("tokenizers").Tokenizer.from_file(str(path))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def count_tokens(self, texts):
        """With special tokens."""
        return [len(encoding.ids) for encoding in self.tokenizer.encode_batch(list(texts))]

    def token_spans(self, text):
        """Without special tokens."""
        return np.asarray(self.tokenizer.encode(text, add_special_tokens=False).offsets, dtype=np.int32).reshape(-1, 2)


@pytest.fixture(scope="module")
def real(minilm_folder):
    """The packaged MiniLM's tokenizer."""
    return RealEmbedder(minilm_folder / "tokenizer.json")


def cut(text, max_tokens=60, text_format="markdown", embedder=None):
    """Chunks of a text, checked for what must always hold."""
    embedder = embedder or WordEmbedder()
    chunks = chunk(Document("kb/a", text, text_format), ChunkSettings(max_tokens), embedder)
    check(text, chunks, max_tokens, embedder)
    return chunks


def check(text, chunks, max_tokens, embedder):
    """Chunks cover every character that isn't blank once and in order, and none is blank or too long."""
    position = 0
    for one in chunks:
        assert text[one.start : one.end] == one.text == one.text.strip() != ""
        assert not text[position : one.start].strip()
        position = one.end
        assert 0 < one.num_tokens <= max_tokens
    assert not text[position:].strip()
    counts = embedder.count_tokens([one.text for one in chunks] + [""])
    assert counts is None or max(counts) - counts[-1] <= max_tokens


def texts(chunks):
    return [one.text for one in chunks]


def paths(chunks):
    return [one.heading_path for one in chunks]


def words(number, seed=0):
    """A paragraph of so many words (and a full stop) that are alike for the same seed only."""
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefghij", k=5)) for _ in range(number)) + "."


def test_headings_always_cut():
    """Short sections aren't put together, and each chunk knows its headings."""
    chunks = cut("Before.\n\n# A\n\none\n\n## B\n\ntwo\n\n# C\n\nthree\n")
    assert texts(chunks) == ["Before.", "# A\n\none", "## B\n\ntwo", "# C\n\nthree"]
    assert paths(chunks) == [(), ("A",), ("A", "B"), ("C",)]


def test_a_heading_without_a_body_goes_with_its_subheading():
    """A title right above a subtitle isn't a chunk of its own."""
    chunks = cut("# A\n\n## B\n\n### C\n\none\n\n## D\n\ntwo\n")
    assert texts(chunks) == ["# A\n\n## B\n\n### C\n\none", "## D\n\ntwo"]
    assert paths(chunks) == [("A", "B", "C"), ("A", "D")]


def test_an_empty_section_before_its_like_stays_apart():
    """A heading without a body doesn't take the next section's text for its own."""
    assert texts(cut("# A\n\n# B\n\none\n")) == ["# A", "# B\n\none"]


@pytest.mark.parametrize(
    "code",
    ["```sh\n# no heading\n```", "~~~\n# no\n\n~~~", "text\n\n    # no heading", "<!--\n# no heading\n-->", "> # no heading"],
)
def test_what_looks_like_a_heading_in_code_is_none(code):
    """A hash sign in fenced or indented code, in a comment or in a quotation opens no section."""
    assert paths(cut(f"# A\n\n{code}\n")) == [("A",)]


def test_underlined_headings_are_headings():
    """Markdown's other form of heading counts too."""
    assert paths(cut("A\n===\n\none\n\nB\n---\n\ntwo\n")) == [("A",), ("A", "B")]


def test_front_matter_is_no_heading():
    """The last line of front matter isn't the underline of a title."""
    chunks = cut("---\ntitle: x\n---\n\n# A\n\none\n")
    assert texts(chunks) == ["---\ntitle: x\n---", "# A\n\none"]
    assert paths(chunks) == [(), ("A",)]


def test_a_heading_id_is_no_part_of_the_title():
    """Anchors that generators of sites put behind a title are left out of the path."""
    assert paths(cut("# A  b {#a-b}\n\none\n")) == [("A b",)]


def test_restructured_text_has_titles():
    """Overlines and underlines make titles whose level is the order of first use; transitions and code don't."""
    text = (
        "===\n T\n===\n\nzero\n\nA\n=\n\nA one\n=====\n\none\n\nB two\n-----\n\ntwo\n\n----\n\n"
        "three::\n\n  no title\n  --------\n\nC four\n======\n\nfour\n"
    )
    assert paths(cut(text, text_format="rst")) == [("T",), ("T", "A one"), ("T", "A one", "B two"), ("T", "C four")]


def test_plain_text_has_no_headings():
    """What would be a heading elsewhere is text here."""
    assert paths(cut("# A\n\none\n\nB\n===\n\ntwo\n", text_format="text")) == [()]


@pytest.mark.parametrize("text", ["", " ", "\n\n\t\n", "\u3000\n"])
def test_blank_documents_have_no_chunks(text):
    """Blank space alone is no chunk."""
    assert cut(text) == []


def test_a_section_that_fits_is_one_chunk():
    """As many tokens as are allowed aren't cut."""
    text = f"{words(29, 1)}\n\n{words(29, 2)}"
    assert texts(cut(text, 60)) == [text]
    assert len(cut(text, 59)) == 2


def test_a_long_section_is_cut_between_its_blocks():
    """Paragraphs that fit stay whole."""
    paragraphs = [words(25, seed) for seed in range(12)]
    chunks = cut("\n\n".join(paragraphs))
    assert [paragraph for text in texts(chunks) for paragraph in text.split("\n\n")] == paragraphs


def test_a_heading_stays_with_what_follows_it():
    """No cut falls between a heading and the first block of a long section."""
    for seed in range(20):
        chunks = cut("# Title\n\n" + "\n\n".join(words(25, seed * 10 + number) for number in range(6)))
        assert chunks[0].text.startswith("# Title\n\n")


@pytest.mark.parametrize(
    ("block", "separator"),
    [
        ("\n".join(f"- {words(12, seed)}" for seed in range(12)), "\n"),
        ("| a | b |\n| - | - |\n" + "\n".join(f"| {words(6, seed)} | {words(6, seed + 50)} |" for seed in range(9)), "\n"),
        ("```\n" + "\n".join(f"{words(9, seed)}" for seed in range(12)) + "\n```", "\n"),
    ],
)
def test_a_long_list_table_or_code_is_cut_between_lines(block, separator):
    """Items, rows and lines of code stay whole."""
    chunks = cut(block)
    assert len(chunks) > 1
    assert separator.join(texts(chunks)) == block


def test_a_long_paragraph_is_cut_between_sentences():
    """Sentences that fit stay whole, whatever the script."""
    for sentences, between in (([words(13, seed) for seed in range(9)], " "), (["漢 " * 12 + "字。" for _ in range(9)], "")):
        chunks = cut(between.join(sentences))
        assert len(chunks) > 1
        assert all(text[-1] in ".。" for text in texts(chunks))


def test_a_long_sentence_is_cut_between_words():
    """Words stay whole."""
    text = words(200)
    assert " ".join(texts(cut(text))) == text


def test_one_endless_word_is_cut_all_the_same():
    """Where there is nothing better, cuts fall between tokens, and inside a token that is no word."""
    assert len(cut("a-" * 200)) > 4
    assert len(cut("x" * 50_000)) > 4


def test_there_are_few_small_chunks():
    """In a long section fewer than one chunk in fifty is below an eighth of the limit, and the mean is above a half."""
    rng = random.Random(0)
    chunks = cut("\n\n".join(words(rng.randint(3, 40), seed) for seed in range(1000)), 200)
    sizes = np.asarray([one.num_tokens for one in chunks])
    assert (sizes < 25).mean() < 0.02
    assert sizes.mean() > 100


def test_offsets_hold_for_windows_line_ends():
    """A text that didn't come through a reader keeps its carriage returns, and its offsets are right."""
    chunks = cut("# A\r\n\r\none\r\n\r\n# B\r\rtwo\r\n")
    assert [one.heading_path for one in chunks] == [("A",), ("B",)]


def test_cutting_is_deterministic():
    """The same text is cut the same way every time."""
    text = "\n\n".join(words(20, seed) for seed in range(40))
    assert cut(text) == cut(text)


def test_a_piece_that_is_longer_alone_is_cut_again():
    """The limit holds for what the model will read, not for the tokens of the whole document."""
    cut("\n\n".join(words(25, seed) for seed in range(20)), embedder=EdgeEmbedder())


def test_without_a_tokenizer_four_characters_count_as_one_token():
    """Length is estimated where it can't be known."""
    chunks = cut("\n\n".join(words(25, seed) for seed in range(20)), embedder=HashEmbedder())
    assert all(one.num_tokens == -(-len(one.text) // 4) for one in chunks)


def test_a_real_tokenizer_is_obeyed(real):
    """Chunks of text in several scripts are within the limit by the model's own count, and num_tokens is that count."""
    scripts = ["漢字かな交じり文。" * 60, "naïve Größe résumé 🙂 " * 60, "http://a.b/c?d=e&f=g#h " * 20, "x" * 5_000]
    text = "\n\n".join([words(90, 1), *scripts])
    chunks = cut(text, 50, embedder=real)
    exact = [count - 2 for count in real.count_tokens(texts(chunks))]
    assert max(abs(one.num_tokens - count) for one, count in zip(chunks, exact, strict=True)) <= 2


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    text=st.text(alphabet="ab.#-=`>|*。 \n\t\r\u3000é🙂", max_size=400),
    text_format=st.sampled_from(["markdown", "rst", "text"]),
    tokenizer=st.booleans(),
)
def test_any_text_is_covered_exactly_once(text, text_format, tokenizer):
    """Whatever the text, its chunks cover it in order, and none is blank or too long."""
    cut(text, 16, text_format, WordEmbedder() if tokenizer else HashEmbedder())


def new_chunks(before, after, max_tokens):
    """How many chunks of the second text the first doesn't have."""
    known = set(texts(cut(before, max_tokens)))
    return sum(text not in known for text in texts(cut(after, max_tokens)))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(2, 25), min_size=2, max_size=12),
    seed=st.integers(0, 2**32),
    length=st.integers(2, 25),
    data=st.data(),
    operation=st.sampled_from("ide"),
)
def test_an_edit_changes_at_most_three_chunks(lengths, seed, length, data, operation):
    """In a section of a few chunks a paragraph that is put in, taken out or rewritten gives at most three with new text."""
    paragraphs = [words(length, seed + number) for number, length in enumerate(lengths)]
    at = data.draw(st.integers(0, len(paragraphs) - 1))
    edited = list(paragraphs)
    edited[at : at + (operation != "i")] = [] if operation == "d" else [words(length, seed - 1)]
    assert new_chunks("# A\n\n" + "\n\n".join(paragraphs), "# A\n\n" + "\n\n".join(edited), 100) <= 3


@pytest.mark.slow
@pytest.mark.slow
def test_edits_of_long_sections_change_few_chunks():
    """Over a thousand edits of long sections a change touches 1.6 chunks in the mean, and hardly ever more than three."""
    rng = random.Random(0)
    changed = []
    for trial in range(1000):
        paragraphs = [words(rng.randint(3, 40), 100 * trial + number) for number in range(24)]
        edited = list(paragraphs)
        edited.insert(rng.randrange(len(paragraphs)), words(rng.randint(3, 40), -trial - 1))
        changed.append(new_chunks("\n\n".join(paragraphs), "\n\n".join(edited), 120))
    assert np.mean(changed) < 1.7
    assert np.mean(np.asarray(changed) > 3) < 0.005


def test_an_edit_at_the_top_leaves_other_sections_alone():
    """A paragraph put in at the top changes chunks of its own section only."""
    sections = "\n\n".join(f"# Section {number}\n\n{words(40, number)}\n\n{words(40, number + 50)}" for number in range(20))
    before = cut(sections)
    after = cut(sections.replace("# Section 0\n\n", f"# Section 0\n\n{words(20, 99)}\n\n", 1))
    assert {one.heading_path for one in after if one.text not in texts(before)} == {("Section 0",)}


@pytest.mark.parametrize(
    "text",
    ["word " * 200_000, "x" * 1_000_000, pytest.param("- a\n" * 50_000, marks=pytest.mark.slow), "a.b!" * 100_000, "." * 300_000],
)
def test_time_grows_no_faster_than_the_text(text):
    """A megabyte without structure is cut in seconds, not hours."""
    started = time.perf_counter()
    chunk(Document("kb/a", text, "markdown"), SIXTY, HashEmbedder())
    assert time.perf_counter() - started < 20


class PeepingEmbedder(WordEmbedder):
    """Remembers how many characters it was ever given at once."""

    most = 0

    def token_spans(self, text):
        """Where words and marks are."""
        self.most = max(self.most, len(text))
        return super().token_spans(text)

    def count_tokens(self, texts):
        """Words and marks, plus two."""
        self.most = max(self.most, sum(map(len, texts)))
        return super().count_tokens(texts)


@pytest.mark.parametrize("between", [" ", "\n", "-"])
def test_a_tokenizer_gets_a_long_text_in_segments(between):
    """It would take gigabytes for all of ten megabytes at once; the limit holds across segments all the same."""
    embedder = PeepingEmbedder()
    text = between.join(["word"] * 150_000)
    chunks = chunk(Document("kb/a", text), SIXTY, embedder)
    assert embedder.most < 300_000
    check(text, chunks, 60, WordEmbedder())


@pytest.mark.parametrize("between", [" ", "\n", "。"])
def test_segments_move_no_cut(between, real, monkeypatch):
    """Where a text has blanks, a tokenizer finds the same words in its segments as in the whole."""
    text = between.join(words(30, seed) for seed in range(300))
    whole = cut(text, embedder=real)
    monkeypatch.setattr(chunking, "_SEGMENT", 2_000)
    assert cut(text, embedder=real) == whole


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_tokens", [16, 33, 120])
def test_boundaries_that_are_not_looked_at_make_no_difference(seed, max_tokens, monkeypatch):
    """Joining what is weak all at once gives what joining one by one gives, with few distinct words as with many."""
    rng = random.Random(seed)
    known = words(3 if seed % 2 else 500, seed).split()
    text = " ".join(rng.choices(known, k=5_000))
    quick = cut(text, max_tokens)
    monkeypatch.setattr(chunking, "_CANDIDATES", 1_000_000)
    assert cut(text, max_tokens) == quick


def test_the_default_is_what_the_model_takes():
    """512 tokens, or the model's length without its special tokens where that is less."""
    assert default_settings(WordEmbedder()) == ChunkSettings(64)
    assert default_settings(HashEmbedder()) == ChunkSettings(512, estimated=True)


@pytest.mark.parametrize("tokens", [15, 65, 0, -1])
def test_a_size_that_the_model_cannot_take_is_refused(tokens):
    """The error names the size and the range."""
    with pytest.raises(UsageError, match=rf"{tokens} tokens; allowed are 16 to 64"):
        default_settings(WordEmbedder(), tokens)


def test_both_ends_of_the_range_are_allowed():
    """16 tokens and all that the model takes are fine; without a known length there is no upper end."""
    assert [default_settings(WordEmbedder(), tokens).max_tokens for tokens in (16, 64)] == [16, 64]
    assert default_settings(HashEmbedder(), 100_000).max_tokens == 100_000
    with pytest.raises(UsageError, match="16 or more"):
        default_settings(HashEmbedder(), 15)


def test_the_label_names_chunker_and_size():
    """What a collection remembers changes with the size."""
    assert SIXTEEN.label() == "sections/2:16"
    assert SIXTY.label() != SIXTEEN.label()
    assert ChunkSettings(16, estimated=True).label() == "sections/2:16 estimated"


PROSE = "\n\n".join(
    [f"# Part {part}\n\n" + " ".join(f"Sentence {part}.{n} tells of wind and swell." for n in range(40)) for part in range(3)]
)


@pytest.mark.parametrize("overlap", [16, 32])
def test_a_chunk_repeats_the_end_of_the_one_before(minilm: EmbeddingEngine, overlap: int) -> None:
    """At most so many tokens, from the beginning of a sentence, within the limit, and never across a heading."""
    settings = default_settings(minilm, 64, overlap)
    made = chunk(Document("a", PROSE, "markdown"), settings, minilm)
    repeated = 0
    for before, after in pairwise(made):
        assert after.text == PROSE[after.start : after.end]
        assert after.num_tokens <= 64
        if before.heading_path == after.heading_path:
            assert before.start < after.start <= before.end + 2
            again = PROSE[after.start : before.end]
            spans = minilm.token_spans(again)
            assert len(spans) <= overlap + 1
            assert again.startswith("Sentence")
            repeated += 1
        else:
            assert after.start >= before.end
    assert repeated > 3


def test_an_overlap_leaves_no_gap(minilm: EmbeddingEngine) -> None:
    """Everything but blank space between chunks is in one."""
    made = chunk(Document("a", PROSE, "markdown"), default_settings(minilm, 48, 12), minilm)
    covered = 0
    for one in made:
        assert not PROSE[covered : one.start].strip()
        covered = max(covered, one.end)
    assert not PROSE[covered:].strip()


def test_text_without_blanks_overlaps_by_tokens(minilm: EmbeddingEngine) -> None:
    """Where there is no sentence, line or word to begin with."""
    text = "潮汐表每天两次" * 60
    made = chunk(Document("a", text), default_settings(minilm, 32, 8), minilm)
    assert all(before.start < after.start < before.end for before, after in pairwise(made))


def test_without_a_tokenizer_overlaps_are_characters() -> None:
    """Four to a token."""
    made = chunk(Document("a", PROSE, "markdown"), default_settings(HashEmbedder(), 64, 16), HashEmbedder())
    overlaps = [before.end - after.start for before, after in pairwise(made) if before.heading_path == after.heading_path]
    assert 0 < max(overlaps) <= 64


@pytest.mark.parametrize("overlap", [-1, 33])
def test_an_overlap_beyond_half_a_chunk_is_refused(overlap: int) -> None:
    """The message names the range."""
    with pytest.raises(UsageError, match="0 to 32"):
        default_settings(HashEmbedder(), 64, overlap)


def test_an_overlap_is_part_of_the_label() -> None:
    """A collection knows that it was cut otherwise; without overlap its label is what it was."""
    assert ChunkSettings(64).label() != ChunkSettings(64, 16).label()
    assert ChunkSettings(64).label() == "sections/2:64"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    text=st.text(alphabet="ab.#-=`>|*。 \n\té🙂", max_size=500),
    text_format=st.sampled_from(["markdown", "rst", "text"]),
    embedder=st.sampled_from([WordEmbedder(), EdgeEmbedder(), HashEmbedder()]),
    overlap=st.integers(1, 8),
)
def test_any_overlap_keeps_its_promises(text, text_format, embedder, overlap):
    """Whatever the text: no gap, both limits kept, nothing repeated across a heading or as a whole, and the same every time."""
    document, wanted = Document("kb/a", text, text_format), ChunkSettings(16, overlap)
    chunks = chunk(document, wanted, embedder)
    assert chunk(document, wanted, embedder) == chunks
    position = 0
    for before, one in pairwise([None, *chunks]):
        assert text[one.start : one.end] == one.text == one.text.strip() != ""
        assert not text[position : one.start].strip()
        assert one.num_tokens <= 16
        if one.start < position:
            assert before.heading_path == one.heading_path
            assert before.start < one.start
            assert tokens(embedder, text[one.start : position]) <= overlap
        assert tokens(embedder, one.text) <= 16
        position = one.end
    assert not text[position:].strip()


def tokens(embedder, text):
    """Tokens of a text without special ones; four characters are one where there is no tokenizer."""
    counts = embedder.count_tokens([text, ""])
    return -(-len(text) // 4) if counts is None else counts[0] - counts[1]


def test_an_overlap_holds_no_heading():
    """Only what lies below the headings is repeated; they are known as the chunk's path."""
    text = f"# First title\n\n## Second title\n\n{words(11, 1)}\n\n{words(60, 2)}"
    first, second, *_ = chunk(Document("kb/a", text, "markdown"), ChunkSettings(60, 30), WordEmbedder())
    assert first.text.endswith(words(11, 1))
    assert second.start == text.index(words(11, 1))


@pytest.mark.parametrize("overlap", [0, 12, 24])
def test_an_edit_at_the_top_changes_few_chunks_with_an_overlap_too(overlap):
    """An overlap carries a change into the next chunk at most: two chunks in the mean, and never more than four."""
    changed = []
    for trial in range(100):
        paragraphs = [words(20, 100 * trial + number) for number in range(30)]
        known = {one.text for one in chunk(Document("a", "\n\n".join(paragraphs)), ChunkSettings(100, overlap), WordEmbedder())}
        edited = "\n\n".join([words(20, -trial - 1), *paragraphs])
        changed.append(
            sum(one.text not in known for one in chunk(Document("a", edited), ChunkSettings(100, overlap), WordEmbedder()))
        )
    assert np.mean(changed) < 2.2
    assert max(changed) <= 4


def test_an_overlap_of_a_megabyte_takes_seconds():
    """Looking for a place to begin takes no longer than cutting."""
    started = time.perf_counter()
    made = chunk(Document("kb/a", "word " * 100_000 + "x" * 500_000), ChunkSettings(60, 30), HashEmbedder())
    assert time.perf_counter() - started < 20
    assert sum(before.end > after.start for before, after in pairwise(made)) > len(made) - 3


def test_a_title_full_of_braces_takes_no_time():
    """What might be a heading's id is looked for once, not from each brace to the end."""
    started = time.perf_counter()
    cut("# a" + "{#" * 100_000 + "\n")
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000, ">" * 100_000, "- " * 20_000, "> - " * 2_000, "".join("  " * depth + "- x\n" for depth in range(500)),
        "# h\n" * 10_000, "h\n===\n" * 10_000, "|a|b|\n|-|-|\n" + "|c|d|\n" * 10_000, "|" * 50_000 + "\n" + "|-" * 50_000,
    ],
)  # fmt: skip
@pytest.mark.parametrize("text_format", ["markdown", "rst"])
def test_deep_and_long_structure_is_read_in_linear_time(text, text_format):
    """Nesting ends in no recursion error, and headings, rows and brackets by the ten thousand take seconds."""
    started = time.perf_counter()
    outline(text, text_format)
    assert time.perf_counter() - started < 5
