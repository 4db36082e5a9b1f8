"""The wire of OpenAI's `/v1/embeddings`: one request, what comes back of it, and what the server turned out to take. No torch."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline.errors import InputError, MissingExtra, NonFiniteEmbedding, ServerFailed, UsageError
from sightline.keys import hide_keys
from sightline.portions import portions
from sightline.retries import AWAY_S, FAILED_S, PERMANENT, http_patience, retrying, seconds_asked
from sightline.types import FloatArray

try:
    import httpx
except ImportError as error:
    raise MissingExtra("An embedding server", package="httpx", extra="remote") from error

API_KEY_VARIABLE = "SIGHTLINE_API_KEY"
_CONNECT_S = 10.0
_SAID_CHARACTERS = 300
_CONFLICT = 409  # what some gateways answer while a model is being loaded
_REFUSALS = (400, 413, 422)
# How servers say that a request has too many texts, bytes or tokens; some name the number of texts. tests/recorded_answers.py has
# what they really said, and where.
_TOO_LARGE = re.compile(
    r"batch.?size|too (?:large|many|long|big)|maximum|max_|at most|exceed|payload|limit|(?:longer|less) than", re.I
)
_ALLOWED_TEXTS = re.compile(r"(?:maximum allowed batch size|batch size is invalid, it should not be larger than) (\d+)")
# What is wrong with a text though it is told as a fault of the server (llama.cpp, Ollama): to ask again would change nothing.
_NOT_FINITE = re.compile(r"unsupported value: (?:NaN|[+-]Inf)", re.I)
_FAULT_OF_A_TEXT = re.compile(
    rf"too large to process|exceeds? the (?:available )?context size|{_NOT_FINITE.pattern}", re.I
)
_DIMENSIONS = re.compile(r"dimension|matryoshka", re.I)
_ENCODING = re.compile(r"encoding_format|base64", re.I)

_log = logging.getLogger(__name__)


class RefusedTogether(Exception):
    """A server refused several texts, as too many or for what is wrong with one of them: fewer may pass."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server made of some texts.

    Args:
        rows: As they came, float32 `(texts, length)`: of whatever length and norm.
        tokens: What the server says that it read; 0 where it doesn't say.
        truncated: How many texts the server says that it cut off, if it is one that says so.
        dropped_tokens: How many tokens it says that they lost.
        dropped_tokens_estimated: Whether it estimated them.
    """

    rows: FloatArray
    tokens: int
    truncated: int = 0
    dropped_tokens: int = 0
    dropped_tokens_estimated: bool = False


class Wire:
    """Speaks to one model on one server. Thread-safe: several requests may be on their way.

    Args:
        base_url: Up to and with `/v1`.
        api_key: Sent as a bearer token; None sends none.
        timeout_s: How long one answer may take.
        most_texts: In one request; fewer once the server has refused so many.
        most_bytes: Of texts in one request.

    Raises:
        UsageError: A key that can't be sent.
    """

    def __init__(self, base_url: str, *, api_key: str | None, timeout_s: float, most_texts: int, most_bytes: int) -> None:
        if api_key and not (api_key.isascii() and api_key.isprintable()):  # the client would name it in its error
            raise UsageError(f"The API key has characters that no HTTP header can carry. Check {API_KEY_VARIABLE}, or api_key=.")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(timeout_s, connect=_CONNECT_S)
        self.base_url = base_url
        # Redirects would carry the key to wherever a server points. Certificates take 50 ms to load; http needs none.
        self._client = httpx.Client(
            headers=headers, timeout=timeout, follow_redirects=False, verify=base_url.startswith("https:")
        )
        self._key = api_key or ""
        self._lock = threading.Lock()
        self._most_texts = self._allowed_texts = most_texts
        self._most_bytes = most_bytes
        self._takes_base64 = self._takes_dimensions = True

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def models(self) -> list[Mapping[str, Any]]:
        """What the server says that it has; empty where it doesn't list them."""
        found = self._json(self._asked("GET", "/models", None))
        listed = found.get("data") if isinstance(found, Mapping) else None
        return [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []

    def embed(self, model: str, texts: Sequence[str], dimensions: int | None) -> Answer:
        """One request. The length is asked for, but what comes may be longer: see `Answer`.

        Raises:
            RefusedTogether: Several texts are too many or too long for one request, or one of them is too long.
            InputError: The server refuses a text that stands alone.
            NonFiniteEmbedding: It says that the vector of a text that stands alone isn't finite.
            ServerFailed: It doesn't answer, refuses the key or the model, or answers what it shouldn't.
        """
        while True:
            body: dict[str, Any] = {"model": model, "input": list(texts)}
            asks_base64, asks_dimensions = self._takes_base64, self._takes_dimensions and dimensions is not None
            if asks_base64:
                body["encoding_format"] = "base64"
            if asks_dimensions:
                body["dimensions"] = dimensions
            response = self._asked("POST", "/embeddings", body)
            if response.is_success:
                return _answer(self._json(response), len(texts))
            said = self._said(response)
            blames_text = bool(_FAULT_OF_A_TEXT.search(said))
            if response.status_code not in _REFUSALS and not blames_text:
                raise self._refused(response, said, model)
            if asks_dimensions and _DIMENSIONS.search(said):
                _log.warning("%s doesn't take dimensions (%s): its vectors are cut here.", self.base_url, said)
                self._takes_dimensions = False
            elif asks_base64 and _ENCODING.search(said):
                self._takes_base64 = False
            elif len(texts) > 1 and (response.status_code == 413 or blames_text or _TOO_LARGE.search(said)):
                self._learn(len(texts), said)
                raise RefusedTogether(said)
            elif len(texts) == 1:
                raise self._refused_alone(response, said)
            else:
                raise self._refused(response, said, model)

    def batches(self, sizes: Sequence[int]) -> list[slice]:
        """Texts of so many bytes, cut into what goes in one request each; a text that is larger than one goes alone."""
        return list(portions(slice(0, len(sizes)), sizes, most=self._most_texts, most_bytes=self._most_bytes))

    def _asked(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        """The response to one request, made again while that is worth it; a refusal is a response too."""
        url = f"{self.base_url}{path}"

        def once() -> httpx.Response:
            response = self._client.request(method, url, json=body)
            if _patience_for_status(response.status_code) and not _FAULT_OF_A_TEXT.search(said := self._said(response)):
                raise _Busy(response, said)
            return response

        try:
            return retrying(once, patience_for=_patience_for, what=f"{method} {url}", asked_wait=_asked_wait)
        except _Busy as error:
            raise ServerFailed(
                f"The embedding server at {self.base_url} can't answer: {error}. Look into its log, then start the same command"
                " again: it goes on where it stopped."
            ) from error
        except httpx.HTTPError as error:
            raise ServerFailed(
                f"The embedding server at {self.base_url} doesn't answer: {type(error).__name__}: {error}. Check that it runs and"
                " that host, port and path are right; they end in /v1 with most servers."
            ) from error

    def _json(self, response: httpx.Response) -> Any:
        if not response.is_success:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise ServerFailed(
                f"What answers at {self.base_url} is no embedding server: its answer isn't JSON. Check host, port and path."
            ) from error

    def _said(self, response: httpx.Response) -> str:
        """What an error says, without the key: a server may repeat what it was sent."""
        said = hide_keys(_said(response))
        return said.replace(self._key, "***") if self._key else said

    def _learn(self, refused: int, said: str) -> None:
        """Remember how many texts are too many: what the server names, or fewer than it refused, which is a guess."""
        named = _ALLOWED_TEXTS.search(said)
        with self._lock:
            if named:
                self._allowed_texts = max(1, int(named[1]))
            fewer = self._allowed_texts if named else refused // 2
            if fewer < self._most_texts:
                self._most_texts = max(1, fewer)
                _log.info("%s takes fewer texts at once than %d; it is sent %d from now on.", self.base_url, refused, fewer)

    def _refused_alone(self, response: httpx.Response, said: str) -> Exception:
        """What is wrong with a text that stood alone. So it, and not their number, was what others were refused with."""
        with self._lock:
            self._most_texts = self._allowed_texts
        if _NOT_FINITE.search(said):
            return NonFiniteEmbedding(f"the embedding server at {self.base_url} gave NaN or infinity for it ({said})", 0)
        return InputError(f"the embedding server at {self.base_url} refuses it (HTTP {response.status_code} {said})", 0)

    def _refused(self, response: httpx.Response, said: str, model: str) -> Exception:
        status = response.status_code
        if status in (401, 403):
            known = "refuses the key" if self._key else "asks for a key"
            return ServerFailed(
                f"The embedding server at {self.base_url} {known} (HTTP {status}). Set it in the environment: "
                f"export {API_KEY_VARIABLE}=..., or give api_key=."
            )
        if status == 404:
            return ServerFailed(
                f"{self.base_url}/embeddings with the model {model!r} isn't there (HTTP 404 {said}). Check the path, which ends"
                " in /v1 with most servers, and the model's name, which the server lists at /models."
            )
        if response.is_redirect:
            return ServerFailed(
                f"{self.base_url} points elsewhere ({response.headers.get('location', '')!r}). Redirects aren't followed,"
                " because the key would go along; give that address instead."
            )
        return ServerFailed(f"The embedding server at {self.base_url} refuses the request (HTTP {status} {said}).")


class _Busy(Exception):
    """An answer that says that another attempt may go well."""

    def __init__(self, response: httpx.Response, said: str) -> None:
        super().__init__(f"HTTP {response.status_code} {said}".strip())
        self.status = response.status_code
        self.retry_after = response.headers.get("retry-after", "")


def _patience_for_status(status: int) -> float:
    return AWAY_S if status == _CONFLICT else http_patience(status)


def _patience_for(error: BaseException) -> float:
    if isinstance(error, _Busy):
        return _patience_for_status(error.status)
    if isinstance(error, httpx.RemoteProtocolError | httpx.DecodingError):  # half an answer
        return FAILED_S
    return AWAY_S if isinstance(error, httpx.TransportError) else PERMANENT


def _asked_wait(error: BaseException) -> float | None:
    return seconds_asked(error.retry_after) if isinstance(error, _Busy) else None


def _said(response: httpx.Response) -> str:
    """What an error says, in one line; servers agree on neither its shape nor its keys."""
    text = response.text
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, Mapping):
        inner = found.get("error", found)
        said = inner.get("message") or inner.get("detail") or inner.get("error") if isinstance(inner, Mapping) else inner
        text = str(said or text)
    return " ".join(text.split())[:_SAID_CHARACTERS]


def _answer(found: Any, count: int) -> Answer:
    """The vectors of an answer in the order of the texts, checked."""
    data = found.get("data") if isinstance(found, Mapping) else None
    if not isinstance(data, list) or len(data) != count:
        given = f"{len(data)} vectors" if isinstance(data, list) else "no vectors"
        raise ServerFailed(f"The embedding server answered {count} texts with {given}.")
    numbers = [one.get("index", row) if isinstance(one, Mapping) else None for row, one in enumerate(data)]
    numbered = {number: one for number, one in zip(numbers, data, strict=True) if isinstance(number, int)}
    if set(numbered) != set(range(count)):
        given = ", ".join(map(str, numbers[:8]))
        raise ServerFailed(f"The embedding server numbers {count} vectors as {given}, ..., so it isn't known whose they are.")
    rows = [_vector(numbered[number].get("embedding"), number) for number in range(count)]
    lengths = set(map(len, rows))
    if len(lengths) != 1 or 0 in lengths:
        raise ServerFailed(f"The embedding server gave vectors of different lengths in one answer: {sorted(lengths)}.")
    usage = found.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    told = found.get("truncated")  # our own server's
    told = told if isinstance(told, Mapping) else {}
    truncated = told.get("inputs")
    return Answer(
        np.stack(rows),
        _number(usage.get("prompt_tokens")),
        len(truncated) if isinstance(truncated, list) else 0,
        _number(told.get("tokens")),
        bool(told.get("estimated")),
    )


def _number(given: Any) -> int:
    return given if isinstance(given, int) else 0


def _vector(given: Any, number: int) -> FloatArray:
    """One vector, from base64 of little-endian float32 or from numbers."""
    try:
        if isinstance(given, str):
            row: FloatArray = np.frombuffer(base64.b64decode(given, validate=True), dtype="<f4").astype(np.float32)
        else:
            row = np.array(given, dtype=np.float32)
    except (TypeError, ValueError, OverflowError, binascii.Error) as error:  # null is what JSON makes of a NaN
        raise ServerFailed(f"The embedding server gave no vector for text {number}, but {str(given)[:40]!r}.") from error
    if row.ndim != 1:
        raise ServerFailed(f"The embedding server gave an array of shape {row.shape} for text {number}; a vector was asked for.")
    return row
