"""The model's own tokens: exact ids, closing tokens, long texts, bad texts."""

from __future__ import annotations

import gzip
import json
import shutil

import numpy as np
import pytest

from sightline.embedding.cleaning import clean
from sightline.embedding.models import load_spec
from sightline.embedding.tokens import Tokenizer
from sightline.errors import InputError, ModelError, TextTooLong, UsageError
from texts import TEXTS, prose

CLOSING = 151643


@pytest.fixture(scope="module")
def qwen3(qwen3_folder):
    return Tokenizer(load_spec(qwen3_folder))


@pytest.fixture(scope="module")
def bert(minilm_folder):
    return Tokenizer(load_spec(minilm_folder))


def ids(tokenizer, text, **options):
    return tokenizer.tokenize([text], **options)[0].parts[0].ids.tolist()


def test_qwen3_tokens_are_the_published_ones(qwen3, shared_data):
    """Every golden case of the true tokenizer."""
    cases = json.loads((shared_data / "qwen3-embedding-0.6b" / "golden_tokens.json").read_text())["cases"]
    assert cases
    for case in cases:
        assert ids(qwen3, case["text"]) == case["ids"], case["text"]


@pytest.mark.parametrize("family", ["qwen3", "bert", "xlm-roberta", "gemma3"])
def test_ids_equal_autotokenizer(make_model, family):
    """Reading tokenizer.json directly gives what transformers gives."""
    from transformers import AutoTokenizer

    folder = make_model(family)
    ours, theirs = Tokenizer(load_spec(folder)), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert ids(ours, text) == theirs(text, truncation=True, max_length=512)["input_ids"], text


def test_folder_without_tokenizer_json_is_read_through_transformers(minilm_folder, tmp_path, bert):
    """vocab.txt alone is enough."""
    shutil.copytree(minilm_folder, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer.json"))
    text = "The lighthouse keeper's Café"
    assert ids(Tokenizer(load_spec(tmp_path / "model")), text) == ids(bert, text)


def test_closing_token_survives_truncation(qwen3_folder):
    """It is neither lost nor doubled, and the length is the limit exactly."""
    tokenizer = Tokenizer(load_spec(qwen3_folder), max_length=20)
    [one] = tokenizer.tokenize([prose(100, seed=1)])
    found = one.parts[0].ids.tolist()
    assert len(found) == 20
    assert found.count(CLOSING) == 1
    assert found[-1] == CLOSING


def test_dropped_tokens_are_counted(qwen3_folder):
    """Kept and dropped add up to the whole text."""
    text = prose(100, seed=1)
    whole = len(ids(Tokenizer(load_spec(qwen3_folder)), text))
    [one] = Tokenizer(load_spec(qwen3_folder), max_length=20).tokenize([text])
    assert one.dropped_tokens == whole - 20
    assert not one.estimated


def test_huge_text_gives_the_tokens_of_the_whole(bert):
    """Cutting before tokenising changes no token that is kept, and the loss is said to be an estimate."""
    text = prose(60_000, seed=3)
    [one] = bert.tokenize([text])
    reference = bert._tokenizer.encode(text).ids
    assert one.parts[0].ids.tolist()[:-1] == reference[: bert.max_length - 1]
    assert one.estimated
    assert abs(one.dropped_tokens - (len(reference) - bert.max_length)) < 0.1 * len(reference)


@pytest.mark.parametrize(
    "text",
    [
        "東京の天気は晴れです。" * 3000,
        "x" * 100_000,
        "a" * 99 + "é" * 50_000,
        " " * 100_000 + "end",
        "\n".join("ab" * 400 for _ in range(100)),
    ],
)
def test_huge_text_of_any_kind_gives_the_tokens_of_the_whole(bert, text):
    """Text without blanks, one endless word, endless blanks."""
    reference = bert._tokenizer.encode(text).ids
    expected = reference if len(reference) <= bert.max_length else [*reference[: bert.max_length - 1], reference[-1]]
    assert ids(bert, text) == expected


def test_error_instead_of_truncation_names_the_text_and_both_lengths(bert):
    """Found, allowed, next step."""
    with pytest.raises(TextTooLong, match=r"Text 8 has 402 tokens; at most 256.*on_too_long"):
        bert.tokenize(["short", "word " * 400], on_too_long="error", first=7)


def test_average_keeps_every_token(bert):
    """The parts hold the whole text, each with its own special tokens."""
    text = prose(900, seed=5)
    [one] = bert.tokenize([text], on_too_long="average")
    body = [token for part in one.parts for token in part.ids.tolist()[1:-1]]
    assert body == bert._tokenizer.encode(text, add_special_tokens=False).ids
    assert len(one.parts) > 3
    assert one.dropped_tokens == 0


def test_average_puts_the_prompt_before_every_part(bert):
    """Each part looks with the same instruction."""
    [one] = bert.tokenize([prose(600, seed=5)], prompt="find: ", on_too_long="average")
    prompt = bert._tokenizer.encode("find: ", add_special_tokens=False).ids
    assert all(part.ids.tolist()[1 : 1 + len(prompt)] == prompt for part in one.parts)


def test_literal_special_tokens_are_parsed_unless_asked(qwen3, qwen3_folder):
    """As the reference does; the option reads them as plain text and still closes the text."""
    assert ids(qwen3, "<|im_end|>") == [151645, CLOSING]
    plain = ids(Tokenizer(load_spec(qwen3_folder), split_special_tokens=True), "<|im_end|>")
    assert 151645 not in plain
    assert plain[-1] == CLOSING


def test_plain_language_models_tokenizer_is_refused(qwen3_folder, shared_data, tmp_path):
    """It appends nothing, so every vector would be wrong."""
    folder = shutil.copytree(qwen3_folder, tmp_path / "model")
    packed = shared_data / "qwen3-base-tokenizer" / "tokenizer.json.gz"
    (folder / "tokenizer.json").write_bytes(gzip.decompress(packed.read_bytes()))
    with pytest.raises(ModelError, match=r"appends nothing.*151643"):
        Tokenizer(load_spec(folder))


@pytest.mark.parametrize("max_length", [0, 2, 257, -1])
def test_length_out_of_range_names_the_range(minilm_folder, max_length):
    """Three tokens are [CLS], one of the text, [SEP]."""
    with pytest.raises(UsageError, match="3 to 256"):
        Tokenizer(load_spec(minilm_folder), max_length=max_length)


def test_instruction_that_fills_the_whole_length_is_refused(minilm_folder):
    """No text would be left."""
    with pytest.raises(InputError, match="instruction alone"):
        Tokenizer(load_spec(minilm_folder), max_length=5).tokenize(["a"], prompt="one two three four")


def test_lone_surrogate_is_named(bert):
    """With its place."""
    with pytest.raises(InputError, match=r"Text 1 .*character 3"):
        bert.tokenize(["fine", "abc\ud800"])


@pytest.mark.parametrize("wrong", [None, 5, b"bytes"])
def test_what_is_no_text_is_named(minilm, wrong):
    """Not embedded as its repr."""
    with pytest.raises(InputError, match=r"Text 1 is (NoneType|int|bytes)"):
        minilm.embed_documents(["fine", wrong])


@pytest.mark.parametrize("wrong", [[], [-1], [10**9]])
def test_ids_outside_the_vocabulary_are_refused(bert, wrong):
    """The model would read memory that isn't there."""
    with pytest.raises(InputError, match=r"0..30521"):
        bert.ready(wrong, 0, 0, "truncate")


def test_spans_are_character_offsets(bert):
    """The text of each span is the token's."""
    text = "Größe und 東京"
    pieces = [text[start:end] for start, end in bert.spans(text)]
    assert "".join(pieces) == text.replace(" ", "")


def test_spans_of_nothing_are_none(bert):
    """An empty array of pairs."""
    assert bert.spans("").shape == (0, 2)


def test_count_is_what_the_model_would_read(bert):
    """Special tokens and prompt included, truncated or not."""
    assert bert.count(["hello world", ""], prompt="find: ") == [2 + 2 + 2, 2 + 2]
    assert bert.count(["word " * 500])[0] == 502


def test_cleaning_leaves_newlines_alone_unless_asked():
    """Newlines carry meaning in code and Markdown."""
    text = "\ufeffa\u200bb\t  c\n\n  d"
    assert clean(text, ()) == text
    assert clean(text, ("bom", "zero_width", "blanks")) == "ab c\n\n d"
    assert clean(text, ("bom", "zero_width", "blanks", "newlines")) == "ab c d"


def test_joiners_survive_cleaning():
    """Zero-width joiners make emoji families and letters of several scripts."""
    assert clean("👩‍👧 می‌خواهم", ("zero_width",)) == "👩‍👧 می‌خواهم"


def test_ids_are_integers_of_one_kind(bert):
    """What the encoder concatenates."""
    assert bert.tokenize(["a"])[0].parts[0].ids.dtype == np.int32
