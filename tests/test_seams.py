"""Facts about what of a document's tokens is handed on with its stretches: to the id what tokenising each alone gives."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers

import sightline
from sightline import EmbeddingEngine
from sightline.embedding.models import load_spec
from sightline.embedding.seams import find_seam
from sightline.embedding.shared import open_embedder
from sightline.embedding.tokens import Tokenizer
from sightline.indexing.chunking import ChunkSettings, chunk
from sightline.types import Document, Role, TokenizedText
from texts import TEXTS, prose

# What makes tokens depend on their neighbours: blanks of every kind, marks, combining characters, what a normaliser changes or
# drops, special tokens and parts of them.
NASTY = [
    *" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000\u180e",
    *"\u200b\u200c\u200d\u2060\ufeff\xad\x00\x7f\ufffd\u0378\ue000\uffff",
    *("  ", "\n\n", "\r\n", "\r\n\r\n", " \n ", "\n \t", "\t\t", " \r", "   ", "\n\n\n\n"),
    *".,;:!?'\"-_*#|/\\()[]{}<>@&%$`~+=",
    *("...", ". ", ".\n", "\n.", "---", "***", "```\n", "''", "'s", "'S", "'ll ", " 're", "\u2019s", "\u017f", "'\u017f"),
    *("\u0301", "\u0308", "\u0323", "\u0301\u0323", "e\u0301", "a\u030a", "\u212b", "\u1e69", "\u3099", "\u302e", "\u094d"),
    *("\u1100\u1161\u11a8", "\uac00", "\u1161", "\u0344", "\u037e", "\u1fef", "\u2126", "\ufb01", "\uf900", "\u0e33"),
    *("\u0130", "\u1e9e", "\u03a3", "\u0130stanbul", "\u039f\u0394\u039f\u03a3", "\u00df", "\u00e9", "\u00c9", "na\u00efve"),
    *("A", "b", "Word", "word", "WORD", "x1", "1", "23", "\u6771", "\u4eac\u3002", "\u3042\u30a2", "\ud55c\uae00"),
    *("\u0391\u03b8", "\u0416", "\u0645\u0631", "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0e44\u0e17\u0e22"),
    *("\U0001f642", "\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f", "\U00020000", "\U0001d165"),
    *("<|im_end|>", "<|endoftext|>", "<|im_", "end|>", "<think>", "</think>", "[SEP]", "[CLS]", "[MASK]", "[S", "EP]", "##s"),
    *("verylongword" * 12, "." * 40, " " * 40, "\n" * 20),
]
AWKWARD = [*TEXTS, "東京の天気は晴れです。" * 50, " " * 5000 + "end", "\n".join("ab" * 400 for _ in range(9))]

parts = st.one_of(st.sampled_from(NASTY), st.text(max_size=4), st.sampled_from([" ", "\n", "word", " the"]))
documents = st.lists(parts, max_size=60).map("".join)
PROMPTS = ["", "passage: ", "task:", "Instruct: x\nQuery:", "\n", " ", "title: none | text: \u00e9"]


@pytest.fixture(scope="module")
def bert(minilm_folder):
    return Tokenizer(load_spec(minilm_folder))


@pytest.fixture(scope="module")
def qwen3(qwen3_folder):
    return Tokenizer(load_spec(qwen3_folder))


@pytest.fixture(scope="module")
def cased(make_model):
    """A BERT that keeps case and accents."""
    tokenizer = Tokenizer(load_spec(make_model("bert")))
    normalizer = tokenizer._tokenizer.normalizer
    normalizer.lowercase, normalizer.strip_accents = False, False
    tokenizer._tokenizer.normalizer = normalizer
    return tokenizer


@pytest.fixture(params=["bert", "cased", "qwen3"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def reads_nothing(self, texts, prompt=None):
    """An engine whose tokenizer isn't known well enough."""


def check(tokenizer, text, stretches, prompt=""):
    """What is handed on is what is made of the stretch by itself, or is nothing."""
    [reading] = tokenizer.read([text], prompt)
    made = reading.tokenized(stretches)
    assert len(made) == len(stretches)
    for (start, end), tokens in zip(stretches, made, strict=True):
        alone = text[start:end]
        if tokens is None:
            assert not tokenizer.bare([prompt + alone])[0] or tokenizer.count([alone], prompt)[0] > tokenizer.max_length
            continue
        [expected] = tokenizer.tokenize([alone], prompt)
        assert list(tokens.ids) == expected.parts[0].ids.tolist(), (text, start, end, prompt)
        assert tokens.prompt_length == expected.parts[0].prompt_length
        assert not expected.dropped_tokens


def stretches_of(text, seed, count=12):
    """Any two places, and what lies between blanks."""
    chooser = random.Random(seed)
    anywhere = [sorted((chooser.randint(0, len(text)), chooser.randint(0, len(text)))) for _ in range(count)]
    starts = [match.start() for match in re.finditer(r"(?<!\S)\S", text)] or [0]
    ends = [match.end() for match in re.finditer(r"\S(?!\S)", text)] or [len(text)]
    words = [(chooser.choice(starts), chooser.choice(ends)) for _ in range(count)]
    return [tuple(one) for one in anywhere] + [(start, end) for start, end in words if start <= end]


@settings(deadline=None, max_examples=300)
@given(text=documents, seed=st.integers(0, 2**32), prompt=st.sampled_from(PROMPTS))
def test_bert_stretches_have_the_tokens_that_they_have_alone(bert, text, seed, prompt):
    """Wherever they begin and end, whatever is before and behind them, and behind every prompt."""
    check(bert, text, stretches_of(text, seed), prompt)


@settings(deadline=None, max_examples=300)
@given(text=documents, seed=st.integers(0, 2**32), prompt=st.sampled_from(PROMPTS))
def test_cased_bert_stretches_have_the_tokens_that_they_have_alone(cased, text, seed, prompt):
    """With a normaliser that keeps accents and case."""
    check(cased, text, stretches_of(text, seed), prompt)


@settings(deadline=None, max_examples=300)
@given(text=documents, seed=st.integers(0, 2**32), prompt=st.sampled_from(PROMPTS))
def test_qwen3_stretches_have_the_tokens_that_they_have_alone(qwen3, text, seed, prompt):
    """Also where the first word would have had a blank before it, and the last mark a line end behind it."""
    check(qwen3, text, stretches_of(text, seed), prompt)


@pytest.mark.parametrize("text", AWKWARD)
def test_stretches_of_awkward_texts(tokenizer, text):
    """Text without blanks, one endless word, endless blanks, code, tables, special tokens."""
    check(tokenizer, text, [(0, len(text)), *stretches_of(text, 5, 40)])


def test_a_seam_parts_any_text(tokenizer):
    """What all of it rests on: the tokens before a seam and those behind it are those of the whole."""
    chooser = random.Random(11)
    seam = find_seam(tokenizer._tokenizer)
    parted = 0
    for _ in range(800):
        text = "".join(chooser.choices([*NASTY, " ", "\n", "word"], k=chooser.randint(2, 30)))
        whole = tokenizer.bare([text])[0]
        for found in seam.finditer(text):
            before, behind = tokenizer.bare([text[: found.start()], text[found.start() :]])
            assert before + behind == whole, (text, found.start())
            parted += 1
    assert parted > 1000


def test_most_of_a_stretch_isnt_tokenised_again(tokenizer, monkeypatch):
    """A sentence within a line costs its first and last word at most."""
    text = " ".join(prose(200, seed=seed) for seed in range(3)).replace("\n", " ")
    starts = [match.end() for match in re.finditer(r"\. ", text)]
    stretches = [(start, end - 1) for start, end in zip(starts, starts[3:], strict=False)]
    [reading] = tokenizer.read([text])
    again: list[str] = []
    bare = tokenizer.bare
    monkeypatch.setattr(tokenizer, "bare", lambda texts: again.extend(texts) or bare(texts))
    reading.tokenized(stretches)
    assert max(len(one.split()) for one in again or [""]) <= 1


def test_too_many_tokens_are_left_to_the_engine(bert):
    """It truncates, refuses or averages, and counts what it did."""
    text = "word " * 300
    [reading] = bert.read([text])
    assert reading.tokenized([(0, len(text)), (0, 4)])[0] is None


def test_an_unknown_tokenizer_has_no_seams(make_model):
    """GPT-2's words take the blanks before them in another way; nothing is guessed."""
    assert Tokenizer(load_spec(make_model("roberta"))).read(["a b"]) is None


@pytest.mark.parametrize(
    "change", ["blank in a token", "stripping token", "prefix space", "other words", "words in Python", "other normalizer"]
)
def test_a_tokenizer_that_differs_in_one_part_has_no_seams(qwen3_folder, change):
    """Each of these parts is one that the argument rests on."""
    tokenizer = Tokenizer(load_spec(qwen3_folder))._tokenizer
    assert find_seam(tokenizer) is not None
    if change == "blank in a token":
        tokenizer.add_tokens(["two words"])
    elif change == "stripping token":
        tokenizer.add_special_tokens([AddedToken("<stripping>", lstrip=True)])
    elif change == "prefix space":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif change == "words in Python":
        written_in_python = type("Words", (), {"pre_tokenize": lambda self, text: None})()
        tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(written_in_python)
    elif change == "other words":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        tokenizer.normalizer = normalizers.Replace("\n", " ")
    assert find_seam(tokenizer) is None


def test_cleaning_changes_the_text_and_so_hands_nothing_on(minilm_folder):
    """The cleaned text has other tokens."""
    with EmbeddingEngine(minilm_folder, clean=("blanks",)) as engine:
        assert engine.read_tokens(["a  b"]) is None


def test_a_shared_embedder_reads_behind_its_own_prompt(minilm_folder):
    """Not behind that of the engine that it shares."""
    with open_embedder(minilm_folder, document_instruction="Find what this is about: ") as embedder:
        [reading] = embedder.read_tokens(["one two"])
        [tokens] = reading.tokenized([(4, 7)])
        [expected] = embedder.engine.tokenize(["two"], role=Role.DOCUMENT, instruction="Find what this is about: ")
        assert (list(tokens.ids), tokens.prompt_length) == (expected.ids, expected.prompt_length)
        assert expected.prompt_length > 5


@pytest.mark.parametrize("folder", ["minilm_folder", "qwen3_folder"])
@pytest.mark.parametrize("max_tokens", [16, 40, 120])
@pytest.mark.parametrize("overlap", [0, 8])
def test_chunks_carry_the_tokens_that_embedding_their_texts_makes(folder, max_tokens, overlap, request):
    """Of documents of every kind, whatever the size of the chunks."""
    with EmbeddingEngine(request.getfixturevalue(folder)) as engine:
        chooser = random.Random(max_tokens)
        handed_on = 0
        for number in range(30):
            words = ["\n\n", "# Title\n\n", "- item\n", *(" words" for _ in range(90))]
            text = "".join(chooser.choices([*NASTY, *TEXTS[:28], *words], k=200))
            document = Document("a", text, ["markdown", "rst", "text"][number % 3])
            for one in chunk(document, ChunkSettings(max_tokens, overlap), engine):
                if one.tokens is not None:
                    handed_on += 1
                    assert list(one.tokens.ids) == engine.tokenize([one.text], role=Role.DOCUMENT)[0].ids
        assert handed_on > 100


def test_a_chunk_across_two_segments_is_embedded_as_a_text(minilm_folder):
    """Of its tokens in the document nothing is known there."""
    with EmbeddingEngine(minilm_folder) as engine:
        chunks = chunk(Document("a", prose(20_000, seed=1)), ChunkSettings(200), engine)
        assert 0 < sum(one.tokens is None for one in chunks) <= 4
        known = [one for one in chunks if one.tokens is not None]
        assert all(list(one.tokens.ids) == engine.tokenize([one.text], role=Role.DOCUMENT)[0].ids for one in known)


def test_chunks_are_the_same_without_tokens(minilm_folder, qwen3_folder, monkeypatch):
    """What is handed on moves no cut and changes no count."""
    text = "\n\n".join(f"# Part {number}\n\n{prose(500, seed=number)}" for number in range(5))
    for folder in (minilm_folder, qwen3_folder):
        with EmbeddingEngine(folder) as engine:
            with_tokens = chunk(Document("a", text, "markdown"), ChunkSettings(60, 10), engine)
            with monkeypatch.context() as patch:
                patch.setattr(EmbeddingEngine, "read_tokens", reads_nothing)
                without = chunk(Document("a", text, "markdown"), ChunkSettings(60, 10), engine)
            assert with_tokens == without
            assert not any(one.tokens for one in without)


@pytest.mark.slow
def test_a_collection_is_the_same_to_the_bit_whether_tokens_are_handed_on_or_not(minilm_folder, tmp_path, monkeypatch):
    """Ids, texts, metadata, vectors and counts; and the engine is given what is known."""
    folder = tmp_path / "kb"
    folder.mkdir()
    for number in range(4):
        parts = [f"# Part {part}\n\n{prose(120, seed=10 * number + part)}" for part in range(4)]
        (folder / f"{number}.md").write_text("\n\n".join(parts))
    given_as: list[type] = []
    submit = EmbeddingEngine.submit

    def noted(self, texts, **more):
        given_as.extend(map(type, texts))
        return submit(self, texts, **more)

    monkeypatch.setattr(EmbeddingEngine, "submit", noted)
    found = []
    for hands_on in (True, False):
        if not hands_on:
            monkeypatch.setattr(EmbeddingEngine, "read_tokens", reads_nothing)
        given_as.clear()
        with EmbeddingEngine(minilm_folder, device="cpu", deterministic=True) as engine:
            url = f"edge:{tmp_path / str(hands_on)}"
            summary = sightline.index([folder], into=url, model=engine, chunk_tokens=100)
            assert given_as.count(TokenizedText if hands_on else str) >= summary.chunks_embedded > 20
            with sightline.open_collection(url, model=engine) as collection:
                rows = sorted(collection.find(), key=lambda row: row.id)
            found.append(
                (
                    [(row.id, row.text, row.source, row.metadata, row.vector.tobytes()) for row in rows],
                    (summary.tokens_embedded, summary.truncated_texts, summary.chunks_embedded, engine.stats().texts),
                )
            )
    assert found[0] == found[1]
