"""The contract: what a collection was seen with, stored beside it and compared before anything is embedded.

    vectors    differs -> refused: the collection's vectors and the embedder's can't be compared
    chunks     differs -> documents are cut again, and only new texts are embedded
    reading    never refused: what a searcher takes from here unless the caller says otherwise
    probes     vectors of eight fixed texts in both roles, for embedders whose identity is unknown or another

Identity has two levels. Equal fingerprints mean equal embedders and cost nothing to compare; otherwise the embedder looks at
the probes and must agree. So a copy in other files passes, and a server with a wrong prompt or pooling doesn't.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias, TypeVar, get_origin, get_type_hints

import numpy as np

from sightline.errors import ContractMismatch, ModelError, UnfinishedCopy
from sightline.protocols import Embedder
from sightline.types import EmbedderIdentity, FloatArray

# A contract without shorter vectors is written as version 2, which older readers know; they refuse one with them, because what
# they would write would lack those vectors.
FORMAT_VERSION, _PLAIN_VERSION = 3, 2
# bfloat16 on another device moves a probe by up to 0.001 in cosine; a wrong prompt, pooling or model by far more.
PROBE_COSINE = 0.995
# A server that writes its vectors with few digits is off by far less, one that doesn't normalise by far more.
_NORM_TOLERANCE = 0.01
PROBE_TEXTS = (
    "tide",
    "How do I restart the backup generator when it will not start?",
    "The lighthouse keeper wrote down the wind, the swell and the height of the water three times a day, in ink, "
    "and on the first of each month he copied the figures into a second book that went to the harbour office.",
    "Der Schlüssel zum Maschinenraum hängt hinter der Tür; größere Arbeiten bitte vorher anmelden.",
    "会议改到星期四下午三点，请提前把报告发给大家。",
    "أين أجد جدول المد والجزر لهذا الأسبوع؟",
    'def mean(values: list[float]) -> float:\n\treturn sum(values) / len(values)  # "values" is never empty\n',
    "| step | °C | min |\n|------|----|-----|\n| knead | 24 | 10 |\n| bake 🍞 | 230 | 35 |\n",
)

# Field, the collection's value, the embedder's.
_Difference: TypeAlias = tuple[str, object, object]
_Part = TypeVar("_Part", bound="VectorPart | ChunkPart | ReadingDefaults")


@dataclass(frozen=True, slots=True)
class VectorPart:
    """What makes two vectors comparable; None is "couldn't be known".

    `dimensions` is the length of the main vectors. `shorter` are those of what every point has besides, longest first: the main
    ones, cut and of unit norm again. How a store compresses vectors is a setting of the collection, not of the contract.
    """

    dimensions: int
    native_dimensions: int
    fingerprint: str | None
    pooling: str | None
    document_prompt: str | None
    embedded_text: str = "page_content"
    distance: str = "cosine"
    normalised: bool = True
    shorter: tuple[int, ...] = ()

    @property
    def lengths(self) -> tuple[int, ...]:
        """All lengths, the main one first."""
        return (self.dimensions, *self.shorter)


@dataclass(frozen=True, slots=True)
class ChunkPart:
    """How the documents were cut when the collection was made."""

    settings: str
    chunk_tokens: int | None = None
    overlap_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ReadingDefaults:
    """What a searcher uses unless told otherwise. `query_prompt` is the literal prompt; None is the embedder's own."""

    model: str
    revision: str | None
    dimensions: int
    query_prompt: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Contract:
    """The contract of one collection. `probes` is float32 `(16, dimensions)`: eight documents, then the same as queries."""

    vectors: VectorPart
    chunks: ChunkPart
    reading: ReadingDefaults
    probes: FloatArray

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; the probes are float16, which moves their cosine by less than 1e-6."""
        vectors = dataclasses.asdict(self.vectors)
        shorter = list(vectors.pop("shorter"))
        return {
            "format_version": FORMAT_VERSION if shorter else _PLAIN_VERSION,
            "vectors": {**vectors, "shorter": shorter} if shorter else vectors,
            "chunks": dataclasses.asdict(self.chunks),
            "reading": dataclasses.asdict(self.reading),
            "probes": base64.b64encode(self.probes.astype("<f2").tobytes()).decode("ascii"),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Contract:
        """Read what `to_json` gave.

        Raises:
            UnfinishedCopy: The collection is a copy that isn't whole yet.
            ContractMismatch: Another format, or no contract of Sightline at all.
        """
        if UnfinishedCopyNote.KEY in data:
            raise UnfinishedCopyNote.from_json(data).error()
        version = data.get("format_version")
        if isinstance(version, int) and version < _PLAIN_VERSION:
            raise ContractMismatch(
                f"The collection's contract has format version {version}, of an early Sightline; this reads {_PLAIN_VERSION} on. "
                "Index the documents into a new collection: sightline index PATH --into OTHER_URL"
            )
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise ContractMismatch(
                f"The collection's contract has format version {version}; this Sightline reads up to {FORMAT_VERSION}. "
                "Upgrade with: pip install --upgrade sightline"
            )
        try:
            if version not in (_PLAIN_VERSION, FORMAT_VERSION):
                raise ValueError(f"its format version is {version!r}")
            given = data["vectors"]
            vectors = _part(VectorPart, {**given, "shorter": tuple(given.get("shorter", ()))})
            probes = _read_probes(data["probes"], vectors.dimensions)
            return cls(vectors, _part(ChunkPart, data["chunks"]), _part(ReadingDefaults, data["reading"]), probes)
        except (AttributeError, KeyError, TypeError, ValueError, binascii.Error) as error:
            raise ContractMismatch(
                f"The collection's contract can't be read ({type(error).__name__}: {error}). "
                "It may be damaged: restore it, or index again into another collection: sightline index PATH --into OTHER_URL"
            ) from error


@dataclass(frozen=True, slots=True)
class UnfinishedCopyNote:
    """What stands in the contract's place while a collection is copied: what isn't whole can't be opened by anybody.

    Args:
        source: URL that is copied from, as it was given.
        destination: URL that is copied to, as it was given.
        options: What else was said on the command line.
    """

    KEY: ClassVar[str] = "unfinished_copy"

    source: str
    destination: str
    options: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        note = {"from": self.source, "to": self.destination, "options": list(self.options)}
        return {"format_version": FORMAT_VERSION, self.KEY: note}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> UnfinishedCopyNote:
        """Read what `to_json` gave."""
        note = data[cls.KEY]
        try:
            return cls(str(note["from"]), str(note["to"]), tuple(map(str, note["options"])))
        except (KeyError, TypeError) as error:
            raise ContractMismatch(
                f"The note of an unfinished copy can't be read ({type(error).__name__}: {error}). Copy again with --replace."
            ) from error

    def command(self) -> str:
        """What finishes the copy."""
        return shlex.join(["sightline", "copy", self.source, self.destination, *self.options])

    def error(self) -> UnfinishedCopy:
        """The error of whoever opens the collection."""
        return UnfinishedCopy(
            f"{self.destination} is an unfinished copy of {self.source}, so it isn't whole. Finish it with: {self.command()}; or "
            f"put another collection in its place: sightline copy OTHER_URL {shlex.quote(self.destination)} --replace"
        )


@dataclass(frozen=True, slots=True)
class Mark:
    """What a collection says of its runs.

    Args:
        unfinished: Scopes that aren't finished.
        last_run: What the last run did.
        is_rebuilt: Set while a rebuild puts the collection in its place: where a run finds it, that one was killed too late
            to need doing again.
    """

    unfinished: frozenset[str] = frozenset()
    last_run: Mapping[str, Any] = field(default_factory=dict)
    is_rebuilt: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        rebuilt = {"is_rebuilt": True} if self.is_rebuilt else {}
        return {"unfinished": sorted(self.unfinished), "last_run": dict(self.last_run), **rebuilt}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Mark:
        """Read what `to_json` gave; nothing is a collection without runs. Raise ContractMismatch for anything else."""
        unfinished, last_run = data.get("unfinished", []), data.get("last_run", {})
        is_rebuilt = data.get("is_rebuilt", False)
        is_known = isinstance(last_run, Mapping) and isinstance(is_rebuilt, bool) and _is_a(unfinished, list)
        if not is_known or not all(_is_a(one, str) for one in unfinished):
            raise ContractMismatch(
                "What the collection says of its last run can't be read. It may be damaged: restore it, or index again into "
                "another collection: sightline index PATH --into OTHER_URL"
            )
        return cls(frozenset(unfinished), last_run, is_rebuilt)


def make_contract(
    embedder: Embedder, chunks: ChunkPart, *, dimensions: int | None = None, shorter: Sequence[int] = ()
) -> Contract:
    """The contract of a new collection that `embedder` writes; embeds the probes.

    Args:
        embedder: Who will embed the documents.
        chunks: How they will be cut.
        dimensions: Length of the vectors; None is the embedder's.
        shorter: Lengths of those that the points have besides, longest first.

    Raises:
        ModelError: Its vectors aren't what an embedder's are: their number, length or norm.
    """
    length = embedder.dimensions if dimensions is None else dimensions
    probes = probe(embedder, length, query_prompt=embedder.identity().query_prompt)
    if not _are_unit(probes):
        model = embedder.identity().model
        raise ModelError(f"The vectors of {model!r} aren't of unit norm: theirs is {_norms(probes)}. Normalise them.")
    return Contract(vector_part(embedder, length, shorter), chunks, reading_defaults(embedder, length), probes)


def vector_part(embedder: Embedder, dimensions: int, shorter: Sequence[int] = ()) -> VectorPart:
    """What makes the vectors of `embedder` comparable with others; embeds nothing."""
    identity = embedder.identity()
    return VectorPart(
        dimensions, identity.native_dimensions, identity.fingerprint, identity.pooling, identity.document_prompt,
        shorter=tuple(shorter),
    )  # fmt: skip


def reading_defaults(embedder: Embedder, dimensions: int) -> ReadingDefaults:
    """How `embedder` would read a collection by itself."""
    identity = embedder.identity()
    return ReadingDefaults(identity.model, identity.revision, dimensions, identity.query_prompt)


def probe(embedder: Embedder, dimensions: int, *, query_prompt: str | None = None) -> FloatArray:
    """How `embedder` sees the probe texts: float32 `(16, dimensions)`, eight as documents, then eight as queries.

    Raises:
        ModelError: It gives another number of vectors, or another length, than it was asked for.
    """
    documents = embedder.embed_documents(PROBE_TEXTS, dimensions=dimensions)
    queries = embed_with_prompt(embedder, PROBE_TEXTS, query_prompt, dimensions)
    for rows in (documents, queries):
        if np.shape(rows) != (len(PROBE_TEXTS), dimensions):
            raise ModelError(
                f"{embedder.identity().model!r} gave an array of shape {np.shape(rows)} for {len(PROBE_TEXTS)} texts at "
                f"{dimensions} dimensions; it must be {(len(PROBE_TEXTS), dimensions)}. Check what serves it."
            )
    return np.concatenate([documents, queries])


def embed_with_prompt(embedder: Embedder, queries: Sequence[str], prompt: str | None, dimensions: int) -> FloatArray:
    """Queries behind the literal `prompt`, whatever the embedder's own default is; None is that default.

    An embedder that knows the prompt by a name applies it itself, because only it can leave a prompt out of the pooling.
    """
    texts, instruction = behind_prompt(embedder, queries, prompt)
    return embedder.embed_queries(texts, instruction=instruction, dimensions=dimensions)


def behind_prompt(embedder: Embedder, queries: Sequence[str], prompt: str | None) -> tuple[list[str], str | None]:
    """What to embed, and with which instruction, so that the queries stand behind the literal `prompt`."""
    if prompt is None or prompt == embedder.identity().query_prompt:
        return list(queries), None
    name = next((name for name, known in embedder.instructions.items() if known == prompt), None)
    if name is not None:
        return list(queries), name
    return [prompt + query for query in queries], ""


def verify(contract: Contract, embedder: Embedder, url: str, *, dimensions: int | None = None) -> None:
    """Raise ContractMismatch unless `embedder` sees as the collection was seen. Equal fingerprints embed nothing.

    Args:
        contract: The collection's.
        embedder: Who wants to read or write it.
        url: Where the collection is, for the message.
        dimensions: Length that the caller insists on; None takes the collection's, if the embedder can give it.
    """
    identity = embedder.identity()
    differing = _plain_differences(contract.vectors, identity, dimensions)
    if differing:
        raise _mismatch(url, contract, identity, dimensions, differing)
    if contract.vectors.fingerprint is not None and contract.vectors.fingerprint == identity.fingerprint:
        return
    seen = probe(embedder, contract.vectors.dimensions, query_prompt=contract.reading.query_prompt)
    agreement = cosines(contract.probes, seen)
    # Written so that a NaN is refused too.
    if not (agreement >= PROBE_COSINE).all() or not _are_unit(seen):
        differing = _identity_differences(contract, identity)
        if not _are_unit(seen):
            differing.append(("normalised", True, f"False: norms {_norms(seen)}"))
        raise _mismatch(url, contract, identity, dimensions, differing, agreement)


def _plain_differences(vectors: VectorPart, identity: EmbedderIdentity, dimensions: int | None) -> list[_Difference]:
    length = vectors.dimensions if dimensions is None else dimensions
    ours = VectorPart(length, 0, None, identity.pooling, identity.document_prompt)
    names = ["dimensions", "embedded_text", "distance", "normalised"]
    known = ("pooling", "document_prompt")
    names += [name for name in known if getattr(vectors, name) is not None and getattr(ours, name) is not None]
    differing = [(name, getattr(vectors, name), getattr(ours, name)) for name in names]
    if identity.native_dimensions < vectors.dimensions:
        differing.append(("native_dimensions", vectors.native_dimensions, identity.native_dimensions))
    return [(name, theirs, mine) for name, theirs, mine in differing if theirs != mine]


def _identity_differences(contract: Contract, identity: EmbedderIdentity) -> list[_Difference]:
    pairs = [
        ("model", contract.reading.model, identity.model),
        ("revision", contract.reading.revision, identity.revision),
        ("native_dimensions", contract.vectors.native_dimensions, identity.native_dimensions),
        ("pooling", contract.vectors.pooling, identity.pooling),
        ("fingerprint", _short(contract.vectors.fingerprint), _short(identity.fingerprint)),
    ]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _mismatch(
    url: str,
    contract: Contract,
    identity: EmbedderIdentity,
    dimensions: int | None,
    differing: Sequence[_Difference],
    agreement: FloatArray | None = None,
) -> ContractMismatch:
    lines = [f"  {field}: the collection has {theirs!r}, this embedder {ours!r}" for field, theirs, ours in differing]
    if agreement is not None:
        documents, queries = agreement.reshape(2, -1).min(axis=1)
        lines.append(
            f"  probe texts: cosine down to {documents:.3f} as documents and {queries:.3f} as queries; "
            f"at least {PROBE_COSINE} is the same sight"
        )
    lengths = [] if dimensions is None else [dimensions, *(one for one in contract.vectors.shorter if one < dimensions)]
    option = f" --dimensions {','.join(map(str, lengths))}" if lengths else ""
    rebuild = f"sightline index PATH --into {shlex.quote(url)} --model {shlex.quote(identity.model)}{option} --rebuild"
    remedies = [
        f"To use the collection as it is, leave out the model and dimensions: it was made with {contract.reading.model!r}.",
        f"To make it anew: {rebuild}",
    ]
    return ContractMismatch("\n".join([f"{url} was made by an embedder that sees differently:", *lines, *remedies]))


def cosines(expected: FloatArray, actual: FloatArray) -> FloatArray:
    """Row-wise cosine of two `(n, dimensions)` arrays -> `(n,)`."""
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    row_wise: FloatArray = np.einsum("ij,ij->i", expected, actual) / np.maximum(norms, np.finfo(np.float32).tiny)
    return row_wise


def _are_unit(vectors: FloatArray) -> bool:
    return bool((np.abs(np.linalg.norm(vectors, axis=1) - 1) <= _NORM_TOLERANCE).all())


def _norms(vectors: FloatArray) -> str:
    norms = np.linalg.norm(vectors, axis=1)
    return f"{norms.min():.3f} to {norms.max():.3f}"


def _part(kind: type[_Part], data: Mapping[str, Any]) -> _Part:
    """A part from its JSON object; a key that this version doesn't know is an error, because it might matter."""
    part = kind(**data)
    for name, wanted in get_type_hints(kind).items():
        value = getattr(part, name)
        if not _is_a(value, wanted):
            raise TypeError(f"{name} is {value!r}")
    return part


def _is_a(value: object, wanted: Any) -> bool:
    """Whether a value is of an annotated type; True is no number."""
    if get_origin(wanted) is tuple:
        return isinstance(value, tuple) and all(_is_a(one, int) for one in value)
    return isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))


def _read_probes(text: str, dimensions: int) -> FloatArray:
    if dimensions < 1:
        raise ValueError(f"dimensions is {dimensions}")
    probes = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f2").astype(np.float32)
    if not np.isfinite(probes).all():
        raise ValueError("its probes hold NaN or infinity")
    return probes.reshape(2 * len(PROBE_TEXTS), dimensions)


def _short(fingerprint: str | None) -> str | None:
    return None if fingerprint is None else fingerprint[:12]
