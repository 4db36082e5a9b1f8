"""What an operator can choose. No third-party import, so that wrong settings are found before anything is loaded."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sightline.errors import UsageError

MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the server takes in at a time; more is refused, never kept waiting without bound.

    Args:
        queue_texts: Texts that were taken in and not answered yet, all requests together; no single request may have more.
        body_bytes: Of one request. Eight times as much is held of all together.
        read_seconds: How long a client may take to send a request.
        write_seconds: How long it may leave a piece of its answer untaken. One that stands still would keep its place for ever.
    """

    queue_texts: int = 32_768
    body_bytes: int = 32 * MEGABYTE
    read_seconds: float = 60.0
    write_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("queue_texts", "body_bytes", "read_seconds", "write_seconds"):
            if (value := getattr(self, name)) <= 0:
                raise UsageError(f"{name}={value} is out of range: more than 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """All of a server.

    Args:
        model: Folder, `package:NAME` or hub name; None is the collection's own, or the default model without one.
        collection: Store URL of a collection that `/v1/search` asks.
        names: What clients call the model; without any, as `model` is called.
        host: Address to listen on.
        port: 0 takes a free one, which the log names.
        api_key: What clients must send; None asks for nothing, on a loopback address only.
        allow_unauthenticated: Listen without a key on any address.
        dimensions: Length of the vectors of a request that doesn't say; None is the model's own.
        instructions: Named instructions besides the model's own: name -> task sentence.
        device: As for `sightline.EmbeddingEngine`, and so are the next six.
        devices: Instead of `device`, several.
        dtype: Number format.
        max_length: Longest input in tokens.
        max_batch_tokens: Token budget of one pass.
        on_too_long: What becomes of a longer one.
        deterministic: A text's vector is the same to the bit whatever it is embedded with.
        trust: Fetch the model that the collection names, whatever it is.
        token_ids: Take token ids of the model's own tokenizer as input.
        limits: How much is taken in at a time.
        drain_seconds: How long requests may take once the process is told to end.
        access_log: A line for each request.
    """

    model: str | None = None
    collection: str | None = None
    names: Sequence[str] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = field(default=None, repr=False)
    allow_unauthenticated: bool = False
    dimensions: int | None = None
    instructions: Mapping[str, str] = field(default_factory=dict)
    device: str | None = None
    devices: Sequence[str] | str | None = None
    dtype: str | None = None
    max_length: int | None = None
    max_batch_tokens: int | None = None
    on_too_long: Literal["truncate", "error", "average"] = "truncate"
    deterministic: bool = False
    trust: bool = False
    token_ids: bool = False
    limits: Limits = field(default_factory=Limits)
    drain_seconds: int = 30
    access_log: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port={self.port} is out of range: 1 to 65535, or 0 for a free one.")
        if self.drain_seconds < 0:
            raise UsageError(f"drain_seconds={self.drain_seconds} is out of range: at least 0.")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key.strip()):
            raise UsageError("The API key is empty, or has characters that no HTTP header can carry. Choose another one.")
        if self.api_key is not None and self.api_key != self.api_key.strip():
            raise UsageError("The API key begins or ends with a blank, which HTTP takes away: nobody could send it.")
        if self.api_key is None and not self.allow_unauthenticated and not is_loopback(self.host):
            raise UsageError(
                f"Without an API key the server listens on this machine only, and {self.host!r} can be reached from others. "
                "Set the environment variable SIGHTLINE_API_KEY, or leave the door open with --allow-unauthenticated."
            )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and nobody else's."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
