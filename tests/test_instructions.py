"""Which prompt is put before a text."""

from __future__ import annotations

import pytest

from sightline.embedding.instructions import Instructions, template_of
from sightline.errors import UnknownInstruction, UsageError
from sightline.types import Instruction, Role

QWEN3 = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
TEMPLATE = "Instruct: {instruction}\nQuery:"


def qwen3(**more) -> Instructions:
    return Instructions(prompts={"query": QWEN3, "document": ""}, template=TEMPLATE, **more)


def test_queries_carry_the_stored_prompt_and_documents_nothing():
    """Asymmetric is the default."""
    assert (qwen3().prompt(Role.QUERY), qwen3().prompt(Role.DOCUMENT)) == (QWEN3, "")


def test_template_is_read_off_the_stored_prompt():
    """The space after the colon, or its absence, is the model's own."""
    assert template_of({"query": QWEN3}) == TEMPLATE
    assert template_of({"query": QWEN3 + " "}) == TEMPLATE + " "
    assert template_of({"query": "query: "}) is None


def test_free_sentence_goes_through_the_template():
    """No space is put after the colon."""
    assert qwen3().prompt(Role.QUERY, "Find the recipe") == "Instruct: Find the recipe\nQuery:"


def test_free_sentence_is_a_literal_prefix_without_a_template():
    """A model without a template takes the words as they are."""
    prefix = "Represent the query for multilingual retrieval: "
    assert Instructions().prompt(Role.QUERY, prefix) == prefix


def test_one_word_sentence_needs_to_be_said_outright():
    """What looks like a name is a name; Instruction(text=...) is a sentence."""
    with pytest.raises(UnknownInstruction, match=r"'summarise'.*document, query"):
        qwen3().prompt(Role.QUERY, "summarise")
    assert qwen3().prompt(Role.QUERY, Instruction("summarise")) == "Instruct: summarise\nQuery:"


def test_empty_string_is_no_instruction():
    """`""` is none, `None` the default."""
    assert qwen3().prompt(Role.QUERY, "") == ""


def test_named_instructions_are_the_users_own_and_go_through_the_template():
    """A registry by task, domain or language."""
    registry = qwen3(custom={"legal": "Find the statute", "query": "Find the paragraph"})
    assert registry.prompt(Role.QUERY, "legal") == "Instruct: Find the statute\nQuery:"
    assert registry.prompt(Role.QUERY) == "Instruct: Find the paragraph\nQuery:"
    assert set(registry.known()) == {"query", "document", "legal"}


def test_symmetric_is_a_choice_that_can_be_seen():
    """Documents look with the query's prompt only when told to."""
    assert qwen3(document="query").prompt(Role.DOCUMENT) == QWEN3


def test_document_prompt_is_found_under_its_other_names():
    """sentence-transformers accepts passage and corpus as well."""
    assert Instructions(prompts={"passage": "passage: "}).prompt(Role.DOCUMENT) == "passage: "


def test_default_preset_serves_roles_without_one():
    """As `default_prompt_name` means it."""
    stored = Instructions(prompts={"sts": "sts: ", "query": "q: "}, default_name="sts")
    assert (stored.prompt(Role.QUERY), stored.prompt(Role.DOCUMENT)) == ("q: ", "sts: ")


@pytest.mark.parametrize("sentence", [QWEN3, "Instruct: find", "find\nQuery: it"])
def test_sentence_that_holds_the_template_is_refused(sentence):
    """Wrapping twice would be a silent wrong prompt."""
    with pytest.raises(UsageError, match="already holds"):
        qwen3().prompt(Role.QUERY, sentence)


@pytest.mark.parametrize("name", ["two words", "", "ü", "x" * 65])
def test_registry_name_must_be_a_name(name):
    """Otherwise it could never be asked for."""
    with pytest.raises(UsageError, match="name matches"):
        Instructions(custom={name: "Find"})


def test_unknown_default_is_found_at_once():
    """Not at the first text."""
    with pytest.raises(UnknownInstruction, match="'nosuch'"):
        qwen3(query="nosuch")


@pytest.mark.parametrize("template", ["no place", "{instruction} {instruction}"])
def test_template_holds_the_place_exactly_once(template):
    """Anything else can't be filled."""
    with pytest.raises(UsageError, match="exactly once"):
        Instructions(template=template)
