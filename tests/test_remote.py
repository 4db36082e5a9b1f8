"""Facts about an embedder behind a server: what is sent, what is made of the answers, and what is refused.

The server is a stand-in (`embedding_stand_in.py`) with the hash embedder behind it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sightline
from embedding_stand_in import Behaviour, embedding_server
from recorded_answers import NO_DIMENSIONS, NOT_FINITE, TEXT_TOO_LONG, TOO_MANY_TEXTS, Recorded
from sightline import RemoteEmbedder, retries
from sightline.doctor import examine
from sightline.embedding.lanes import Lanes
from sightline.embedding.remote import _Call
from sightline.errors import (
    ContractMismatch,
    DimensionError,
    EmbedderClosed,
    InputError,
    NonFiniteEmbedding,
    ServerFailed,
    UnknownInstruction,
    UntrustedModel,
    UsageError,
)
from sightline.testing import HashEmbedder
from sightline.types import EmbeddingProgress, Priority, Role

TEXTS = [f"the lamp of house {number} was lit" for number in range(10)]
KNOWN = {"query_instruction": "", "document_instruction": ""}


@pytest.fixture
def served() -> Behaviour:
    """How the server behaves."""
    return Behaviour()


@pytest.fixture
def base_url(served: Behaviour) -> Iterator[str]:
    """A server."""
    with embedding_server(served) as url:
        yield url


@pytest.fixture
def remote(base_url: str) -> Iterator[Callable[..., RemoteEmbedder]]:
    """`remote(**settings)` is an embedder on it."""
    with ExitStack() as opened:
        yield lambda **settings: opened.enter_context(RemoteEmbedder(base_url, "hash", **{**KNOWN, **settings}))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts take no time."""
    monkeypatch.setattr(retries, "_FIRST_WAIT_S", 0.001)


def test_vectors_are_the_server_s(remote: Callable[..., RemoteEmbedder]) -> None:
    """In the order of the texts, of unit norm, float32."""
    rows = remote().embed_documents(TEXTS)
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    np.testing.assert_allclose(rows, HashEmbedder().embed_documents(TEXTS), atol=1e-6)


def test_no_text_asks_for_nothing(remote: Callable[..., RemoteEmbedder], served: Behaviour) -> None:
    """An empty list gives an array without rows."""
    embedder = remote()
    assert embedder.embed_documents([]).shape == (0, 64)
    assert len(served.requests) == 1  # the first contact


def test_the_order_is_that_of_the_numbers(remote: Callable[..., RemoteEmbedder], served: Behaviour) -> None:
    """A server may answer in any order."""
    embedder = remote()
    expected = embedder.embed_documents(TEXTS)
    served.spoil = lambda answer: answer["data"].reverse()
    np.testing.assert_array_equal(embedder.embed_documents(TEXTS), expected)


def test_norms_are_made_here(remote: Callable[..., RemoteEmbedder], served: Behaviour) -> None:
    """What a server doesn't normalise comes out normalised, and the first contact says so."""
    served.scale = 3.0
    embedder = remote()
    assert embedder.server.normalised is False
    np.testing.assert_allclose(np.linalg.norm(embedder.embed_documents(TEXTS), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("dimensions", ["cut", "refuse", "ignore"])
def test_shorter_vectors_are_right_whatever_the_server_does(
    remote: Callable[..., RemoteEmbedder], served: Behaviour, dimensions: str
) -> None:
    """It may cut without a new norm, refuse, or give the whole vector."""
    served.dimensions = dimensions
    rows = remote(dimensions=32).embed_documents(TEXTS)
    np.testing.assert_allclose(rows, HashEmbedder().embed_documents(TEXTS, dimensions=32), atol=1e-6)


def test_a_length_that_was_refused_is_not_asked_for_again(
    remote: Callable[..., RemoteEmbedder], served: Behaviour
) -> None:
    """One refusal is enough."""
    served.dimensions = "refuse"
    embedder = remote(dimensions=32)
    for _ in range(3):
        embedder.embed_documents(TEXTS[:1])
    assert sum("dimensions" in one for one in served.requests) == 1


@pytest.mark.parametrize("wanted", [0, 65, 2.5, True])
def test_a_length_that_the_model_lacks_is_refused(remote: Callable[..., RemoteEmbedder], wanted: Any) -> None:
    """As by a model on this machine."""
    with pytest.raises(DimensionError, match="this model gives 1 to 64"):
        remote().embed_documents(TEXTS, dimensions=wanted)


def test_numbers_are_taken_where_base64_is_not_known(remote: Callable[..., RemoteEmbedder], served: Behaviour) -> None:
    """And base64 isn't tried again."""
    served.base64 = False
    embedder = remote()
    for _ in range(2):
        np.testing.assert_allclose(embedder.embed_documents(TEXTS), HashEmbedder().embed_documents(TEXTS), atol=1e-6)
    assert sum("encoding_format" in one for one in served.requests) == 1


def test_requests_are_as_small_as_the_server_asks(remote: Callable[..., RemoteEmbedder], served: Behaviour) -> None:
    """A server that names its limit is sent that many from then on."""
    served.most_texts = 3
    embedder = remote(max_batch_texts=8)
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), HashEmbedder().embed_documents(TEXTS), atol=1e-6)
    served.requests.clear()
    embedder.embed_documents(TEXTS)
    assert sorted(len(one["input"]) for one in served.requests) == [1, 3, 3, 3]


def test_a_request_that_is_too_large_is_halved(remote: Callable[..., RemoteEmbedder], served: Behaviour) -> None:
    """HTTP 413, which says nothing of how much would do."""
    embedder = remote()
    embedder.embed_documents(TEXTS[:1])
    served.replies.append((413, {}, b"Payload Too Large"))
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), HashEmbedder().embed_documents(TEXTS), atol=1e-6)


def test_a_text_that_is_refused_alone_is_named(remote: Callable[..., RemoteEmbedder], served: Behaviour) -> None:
    """Which one, and what the server says of it."""
    embedder = remote(max_batch_texts=1, max_concurrency=1)
    embedder.embed_documents(TEXTS[:1])
    served.replies = [(413, {}, {"error": {"message": "input is longer than 512 tokens"}})]
    with pytest.raises(InputError, match=r"Text 0: .*HTTP 413 input is longer than 512 tokens") as caught:
        embedder.embed_documents(TEXTS[:2])
    assert caught.value.row == 0


@pytest.mark.parametrize("recorded", [*TEXT_TOO_LONG, *NOT_FINITE], ids=lambda one: one.server)
def test_the_text_that_a_server_refuses_is_found(
    remote: Callable[..., RemoteEmbedder], served: Behaviour, recorded: Recorded
) -> None:
    """Among those that it was sent with, and at once; others are embedded as before, and in requests as large."""
    embedder = remote()
    embedder.embed_documents(TEXTS[:1])
    served.refuses = (TEXTS[6], (recorded.status, {}, recorded.body))
    with pytest.raises(NonFiniteEmbedding if recorded in NOT_FINITE else InputError, match=r"^Text 6: ") as caught:
        embedder.embed_documents(TEXTS)
    assert caught.value.row == 6
    assert len(served.requests) <= 2 + 2 * 4, "nothing was asked again and again"
    served.requests.clear()
    embedder.embed_documents(TEXTS[:6])
    assert [len(one["input"]) for one in served.requests] == [6]


@pytest.mark.parametrize(("recorded", "most"), TOO_MANY_TEXTS, ids=[one.server for one, _ in TOO_MANY_TEXTS])
def test_a_server_says_how_many_texts_it_takes(
    remote: Callable[..., RemoteEmbedder], served: Behaviour, recorded: Recorded, most: int
) -> None:
    """Then it is sent as many from then on."""
    texts = [f"house {number}" for number in range(70)]
    embedder = remote(max_batch_texts=70)
    embedder.embed_documents(TEXTS[:1])
    served.replies = [(recorded.status, {}, recorded.body)]
    np.testing.assert_allclose(embedder.embed_documents(texts), HashEmbedder().embed_documents(texts), atol=1e-6)
    served.requests.clear()
    embedder.embed_documents(texts)
    assert max(len(one["input"]) for one in served.requests) == most


@pytest.mark.parametrize("recorded", NO_DIMENSIONS, ids=lambda one: one.server)
def test_dimensions_that_a_server_refuses_are_cut_here(
    remote: Callable[..., RemoteEmbedder], served: Behaviour, recorded: Recorded
) -> None:
    """And not asked for again."""
    embedder = remote(dimensions=48)
    embedder.embed_documents(TEXTS[:1])
    served.replies = [(recorded.status, {}, recorded.body)]
    expected = HashEmbedder().embed_documents(TEXTS)[:, :48]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), expected, atol=1e-6)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(remote: Callable[..., RemoteEmbedder], served: Behaviour, status: int) -> None:
    """Nothing is lost, and nothing is doubled."""
    embedder = remote()
    embedder.embed_documents(TEXTS[:1])
    served.replies = [(status, {"retry-after": "0"}, {"error": "busy"})] * 2
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), HashEmbedder().embed_documents(TEXTS), atol=1e-6)


@pytest.mark.usefixtures("impatient")
def test_half_an_answer_is_asked_for_again(remote: Callable[..., RemoteEmbedder], served: Behaviour) -> None:
    """A connection that breaks off in the middle of a body."""
    embedder = remote()
    embedder.embed_documents(TEXTS[:1])
    served.replies = [(200, {"content-length": "1000"}, b'{"data": [')]
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), HashEmbedder().embed_documents(TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "refuses the request .HTTP 400 no"),
        (401, "asks for a key .HTTP 401.*export SIGHTLINE_API_KEY"),
        (403, "asks for a key"),
        (404, "isn't there .HTTP 404 no.*lists at /models"),
        (301, "points elsewhere .*'http://elsewhere/'.*Redirects aren't followed"),
        (501, "refuses the request"),
    ],
)
def test_what_stays_is_asked_once(
    remote: Callable[..., RemoteEmbedder], served: Behaviour, status: int, message: str
) -> None:
    """The error has what the server said, and what to do."""
    embedder = remote()
    embedder.embed_documents(TEXTS[:1])
    served.requests.clear()
    served.replies = [(status, {"location": "http://elsewhere/"}, {"error": {"message": "no"}})] * 2
    with pytest.raises(ServerFailed, match=message):
        embedder.embed_documents(TEXTS)
    assert len(served.requests) == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda answer: answer["data"].pop(), "answered 10 texts with 9 vectors"),
        (lambda answer: answer["data"][0].update(index=1), "it isn't known whose they are"),
        (lambda answer: answer["data"][0].update(index=[]), "it isn't known whose they are"),
        (lambda answer: answer["data"][0].update(embedding=[10**400]), "gave no vector for text 0"),
        (lambda answer: answer["data"][0].update(embedding=[0.5]), "vectors of different lengths"),
        (lambda answer: [one.update(embedding=[0.5] * 8) for one in answer["data"]], "gave vectors of 8 dimensions where 64"),
        (lambda answer: answer["data"][0].update(embedding="no base64"), "gave no vector for text 0"),
        (lambda answer: answer.pop("data"), "answered 10 texts with no vectors"),
    ],
)
def test_an_answer_that_cannot_be_right_is_refused(
    remote: Callable[..., RemoteEmbedder], served: Behaviour, spoil: Callable[[dict[str, Any]], None], message: str
) -> None:
    """Count, numbers, lengths, and that they are numbers at all."""
    embedder = remote()
    embedder.embed_documents(TEXTS[:1])
    served.spoil = spoil
    with pytest.raises(ServerFailed, match=message):
        embedder.embed_documents(TEXTS)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), None])
def test_a_vector_without_a_direction_is_refused(
    remote: Callable[..., RemoteEmbedder], served: Behaviour, value: float
) -> None:
    """NaN, or null in JSON, is what float16 makes of some texts; the error names the text and the remedy."""
    embedder = remote()
    embedder.embed_documents(TEXTS[:1])
    served.spoil = lambda answer: answer["data"][3].update(embedding=[value] * 64)
    with pytest.raises(NonFiniteEmbedding, match=r"for text 3\. .*bfloat16") as caught:
        embedder.embed_documents(TEXTS)
    assert caught.value.row == 3


@pytest.mark.parametrize("text", ["\ud800", 5, None])
def test_what_is_no_text_is_refused_before_anything_is_sent(
    remote: Callable[..., RemoteEmbedder], served: Behaviour, text: Any
) -> None:
    """Lone surrogates can't be encoded; token ids aren't sent, because whose they are can't be known."""
    with pytest.raises(InputError, match="Text 1"):
        remote().embed_documents(["a text", text])
    assert not served.requests


def test_prompts_are_put_before_the_texts_here(remote: Callable[..., RemoteEmbedder], served: Behaviour) -> None:
    """Queries carry the instruction, documents don't."""
    template = "Instruct: {instruction}\nQuery:"
    embedder = remote(query_instruction="Find the page.", instruction_template=template)
    served.requests.clear()
    embedder.embed_queries(["tide?"])
    embedder.embed_documents(["tide."])
    assert [one["input"] for one in served.requests[-2:]] == [["Instruct: Find the page.\nQuery:tide?"], ["tide."]]
    with pytest.raises(UnknownInstruction, match="Unknown instruction 'nobody'"):
        embedder.embed_queries(["tide?"], instruction="nobody")


def test_the_prompts_of_qwen3_are_known_by_its_name(served: Behaviour, base_url: str) -> None:
    """Whatever owner the server leaves out."""
    served.answer = lambda body: Behaviour().answer({**body, "model": "hash"})  # type: ignore[method-assign]
    with RemoteEmbedder(base_url, "Qwen3-Embedding-0.6B") as embedder:
        assert embedder.identity().query_prompt == embedder.instructions["query"]
        assert embedder.instructions["query"].startswith("Instruct: Given a web search query")
        assert embedder.identity().document_prompt == ""
        assert embedder.identity().matryoshka is True


def test_unknown_prompts_are_told(base_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """They are None in the identity, so that a collection's probes judge."""
    with RemoteEmbedder(base_url, "hash") as embedder, caplog.at_level(logging.WARNING):
        assert embedder.identity().document_prompt is None
    assert "Nothing is known of the prompts of hash" in caplog.text


def test_the_tokenizer_at_hand_counts(base_url: str, make_model: Callable[..., Path]) -> None:
    """A copy of the model gives its tokens and prompts; without one there are none."""
    folder = make_model("bert")
    with RemoteEmbedder(base_url, "hash", tokenizer=folder) as embedder, sightline.EmbeddingEngine(folder) as engine:
        assert embedder.count_tokens(TEXTS) == engine.count_tokens(TEXTS)
        assert embedder.max_length == engine.max_length
    with RemoteEmbedder(base_url, "hash", **KNOWN) as embedder:
        assert embedder.count_tokens(TEXTS) is None


def test_characters_are_not_taken_for_tokens(base_url: str, make_model: Callable[..., Path]) -> None:
    """A server that counts characters counts no tokens: the tokenizer at hand does, or nobody."""
    with RemoteEmbedder(base_url, "hash", tokenizer=make_model("bert")) as embedder:
        embedder.embed_documents(TEXTS)
        assert embedder.server.counts_characters
        assert embedder.stats().tokens == sum(embedder.count_tokens(TEXTS) or [])
    with RemoteEmbedder(base_url, "hash", **KNOWN) as embedder:
        embedder.embed_documents(TEXTS)
        assert embedder.stats().tokens == 0


def test_what_a_server_may_have_cut_off_is_counted(
    base_url: str, make_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """It doesn't say so; the tokenizer at hand knows how much the model reads."""
    with RemoteEmbedder(base_url, "hash", tokenizer=make_model("bert")) as embedder, caplog.at_level(logging.WARNING):
        longest = embedder.max_length
        text = "lamp " * longest
        embedder.embed_documents([*TEXTS, text])
        stats, (count,) = embedder.stats(), embedder.count_tokens([text])
    assert (stats.truncated_texts, stats.dropped_tokens, stats.dropped_tokens_estimated) == (1, count - longest, True)
    assert "longer than its model reads" in caplog.text


def test_the_only_model_needs_no_name(base_url: str) -> None:
    """It is taken from the server's list."""
    with RemoteEmbedder(base_url, **KNOWN) as embedder:
        assert embedder.identity().model == f"openai+{base_url}#hash"


def test_a_lone_question_overtakes_a_job(remote: Callable[..., RemoteEmbedder], served: Behaviour) -> None:
    """One lane is never taken by bulk work."""
    embedder = remote(max_concurrency=2, max_batch_texts=1)
    embedder.embed_documents(TEXTS[:1])
    served.gate.clear()
    job = embedder.submit(TEXTS, role=Role.DOCUMENT, priority=Priority.BULK)
    question = embedder.submit(["tide?"], role=Role.QUERY)
    served.requests.clear()
    served.gate.set()
    question.result(10)
    job.result(10)
    asked = [one["input"][0] for one in served.requests]
    assert asked.index("tide?") <= 2


def test_a_job_that_is_cancelled_is_not_sent_on(remote: Callable[..., RemoteEmbedder], served: Behaviour) -> None:
    """What is on its way comes back to nobody."""
    embedder = remote(max_concurrency=1, max_batch_texts=1)
    embedder.embed_documents(TEXTS[:1])
    served.gate.clear()
    served.requests.clear()
    job = embedder.submit(TEXTS, role=Role.DOCUMENT)
    assert job.cancel()
    served.gate.set()
    embedder.embed_documents(["the last"])
    assert len(served.requests) <= 2


async def test_asynchronous_callers_are_served_at_once(remote: Callable[..., RemoteEmbedder]) -> None:
    """As many as there are lanes."""
    embedder = remote()
    rows = await asyncio.gather(*(embedder.aembed_documents([text]) for text in TEXTS))
    np.testing.assert_allclose(np.concatenate(rows), HashEmbedder().embed_documents(TEXTS), atol=1e-6)


def test_sixteen_threads_get_their_own(remote: Callable[..., RemoteEmbedder]) -> None:
    """Nobody gets another's vectors."""
    embedder, wrong = remote(max_batch_texts=3), []

    def ask(number: int) -> None:
        texts = [f"{number} {text}" for text in TEXTS]
        if not np.allclose(embedder.embed_documents(texts), HashEmbedder().embed_documents(texts), atol=1e-6):
            wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong


def test_a_closed_one_is_refused(remote: Callable[..., RemoteEmbedder]) -> None:
    """Before and after the first contact; closing twice is fine."""
    embedder = remote()
    embedder.close()
    embedder.close()
    with pytest.raises(EmbedderClosed):
        embedder.embed_documents(TEXTS)
    with pytest.raises(EmbedderClosed):
        embedder.identity()


def test_closing_answers_everybody_who_waits(remote: Callable[..., RemoteEmbedder], served: Behaviour) -> None:
    """Whose request is on its way, whose isn't yet, and who comes at that moment."""
    embedder = remote(max_concurrency=1)
    embedder.embed_documents(TEXTS[:1])
    served.requests.clear()
    served.gate.clear()
    calls = [embedder.submit([text], role=Role.DOCUMENT) for text in TEXTS[:3]]
    embedder.close()
    embedder._queue(late := _Call(["tide"], 64, None), 0, 1, Priority.BULK)
    served.gate.set()
    for call in [*calls[1:], late.future]:
        with pytest.raises(EmbedderClosed):
            call.result(5)
    assert calls[0].exception(5) is None or isinstance(calls[0].exception(), EmbedderClosed)


def test_what_a_progress_callback_raises_is_its_callers(remote: Callable[..., RemoteEmbedder]) -> None:
    """And the lane goes on serving others."""
    embedder = remote(max_concurrency=1)

    def fail(progress: EmbeddingProgress) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        embedder.submit(TEXTS, role=Role.DOCUMENT, on_progress=fail).result(5)
    assert embedder.submit(TEXTS, role=Role.DOCUMENT).result(5).shape == (10, 64)


def test_calls_that_come_together_have_a_lane_each() -> None:
    """A lane that was idle a moment ago is counted for one of them only."""
    lanes, second = Lanes(4, "lanes"), threading.Event()
    with lanes._changed:  # the first call takes the idle lane, which can't have noticed yet when the second comes
        lanes._idle, lanes._threads = 1, [threading.Thread(target=lanes._run, daemon=True)]
        lanes.put(Priority.INTERACTIVE, [lambda: None])
        lanes.put(Priority.INTERACTIVE, [second.set])
        assert len(lanes._threads) == 2
    assert second.wait(5)
    lanes.close()


def test_the_key_is_sent_and_never_shown(
    served: Behaviour, base_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes from the environment, and stands in no representation, log line or error."""
    served.key = "right"
    monkeypatch.setenv("SIGHTLINE_API_KEY", "wrong-secret")
    with caplog.at_level(logging.DEBUG), RemoteEmbedder(base_url, "hash", **KNOWN) as embedder:
        with pytest.raises(ServerFailed, match="refuses the key") as caught:
            embedder.embed_documents(TEXTS)
        assert "wrong-secret" not in f"{embedder!r} {caught.value} {caplog.text}"
    with RemoteEmbedder(base_url, "hash", api_key="right", **KNOWN) as embedder:
        assert embedder.embed_documents(TEXTS).shape == (10, 64)


@pytest.mark.parametrize(
    "url", ["openai+http://", "openai+ftp://host/v1", "http://host/v1", "openai+http://host/v1?key=secret-word#m"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    """With an example, and without what may be a secret."""
    with pytest.raises(UsageError, match="is no address of an embedding server"):
        RemoteEmbedder.from_url(url)


@pytest.mark.parametrize("host", ["host:secret-word", "host:99999", "[::1", "a" * 64, "a..b"])
def test_a_host_or_a_port_that_cannot_be_is_refused(host: str) -> None:
    """At once, and without what may be a secret."""
    with pytest.raises(UsageError, match="a host or a port that can't be") as caught:
        RemoteEmbedder.from_url(f"openai+http://{host}/v1#m")
    assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"api_key": "secret-word\n"}, {"api_key": "secret-wörd"}, {"timeout_s": 0}])
def test_what_cannot_be_sent_or_waited_for_is_refused(settings: dict[str, Any]) -> None:
    """A key isn't shown by it, as the HTTP client's error would."""
    with pytest.raises(UsageError) as caught:
        RemoteEmbedder("http://localhost/v1", "m", **settings)
    assert "secret" not in str(caught.value)


def test_an_address_with_a_password_is_refused_without_it() -> None:
    """Addresses are logged, and kept in collections."""
    with pytest.raises(UsageError, match="holds no user and no key") as caught:
        RemoteEmbedder.from_url("openai+http://user:secret-word@host/v1#m")
    assert "secret-word" not in str(caught.value)


def test_nobody_there_is_told_after_the_start_timeout() -> None:
    """The error names the address and says what to check."""
    silent = RemoteEmbedder("http://127.0.0.1:1/v1", "hash", start_timeout_s=0, **KNOWN)
    message = r"127\.0\.0\.1:1/v1 doesn't answer: ConnectError.*Check that it runs"
    with silent as embedder, pytest.raises(ServerFailed, match=message):
        embedder.embed_documents(TEXTS)


# --- in a collection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A few documents."""
    kb = tmp_path / "kb"
    kb.mkdir()
    for number, text in enumerate(TEXTS):
        (kb / f"{number}.md").write_text(f"# House {number}\n\n{text}\n", encoding="utf-8")
    return kb


def test_a_collection_made_here_opens_through_a_right_server(folder: Path, base_url: str) -> None:
    """And through a wrong one it is refused: the probes notice a prompt that the server adds."""
    sightline.index([folder], into="memory:made-here", model=HashEmbedder(query_instruction=""))
    url = f"openai+{base_url}#hash"
    with sightline.open_collection("memory:made-here", model=url) as collection:
        assert collection.search("lamp of house 3", k=1)[0].source == "kb/3.md"
    adding = Behaviour(prompt="Represent this sentence for searching: ")
    with embedding_server(adding) as wrong, pytest.raises(ContractMismatch, match="probe texts: cosine down to"):
        sightline.open_collection("memory:made-here", model=f"openai+{wrong}#hash")


def test_a_collection_that_names_a_server_is_not_opened_unasked(folder: Path, base_url: str) -> None:
    """It may come from anywhere, and so may the address in it."""
    url = f"openai+{base_url}#hash"
    sightline.index([folder], into="memory:names-a-server", model=url)
    with pytest.raises(UntrustedModel, match="To ask that server, say --trust"):
        sightline.open_collection("memory:names-a-server")
    with sightline.open_collection("memory:names-a-server", trust=True) as collection:
        assert collection.contract is not None
        assert collection.contract.chunks.settings.endswith("estimated")
        assert collection.search("lamp of house 3", k=1)[0].source == "kb/3.md"


def test_the_doctor_asks_a_server_what_it_is(base_url: str) -> None:
    """Dimensions and norm, and the problem where nobody answers."""
    found = examine(f"openai+{base_url}#hash").model
    assert found is not None
    assert found.description is not None
    assert (found.description["native_dimensions"], found.description["name"], found.problem) == (64, "stand-in", None)


def test_the_doctor_knows_wrong_weights_by_their_scores(served: Behaviour, base_url: str) -> None:
    """Those that the makers of Qwen3-Embedding published."""
    served.answer = lambda body: Behaviour().answer({**body, "model": "hash"})  # type: ignore[method-assign]
    found = examine(f"openai+{base_url}#Qwen3-Embedding-0.6B").model
    assert found is not None
    assert "these aren't that model's weights" in str(found.problem)


def test_a_server_takes_no_settings_of_this_machine(base_url: str) -> None:
    """It runs as it was started."""
    with pytest.raises(UsageError, match="dtype is for a model on this machine"):
        sightline.open_embedder(f"openai+{base_url}#hash", dtype="float32")
