"""Every error that Sightline raises on purpose.

    SightlineError                 anything below (exit code 2: usage or configuration)
    ├── UsageError                 an argument that can't be used; also a ValueError
    │   ├── UnknownInstruction     a name that neither the model nor the caller defined
    │   ├── DimensionError         a dimension that the model or the collection can't give
    │   ├── UnknownStore           a store URL that no store answers to
    │   └── DeletionRefused        more would be deleted than seems meant
    ├── MissingExtra               an optional dependency isn't installed; also an ImportError
    ├── UnreadableFile             a file that its reader can't make a text of; a run reports and skips it
    ├── ModelError                 a model that can't be used as it is
    │   ├── ModelNotFound          no such folder, package or (reachable) hub model
    │   └── UntrustedModel         a collection names a model that nobody allowed
    ├── InputError                 a text that can't be embedded as asked; also a ValueError
    │   ├── TextTooLong            beyond max_length while on_too_long="error"
    │   └── NonFiniteEmbedding     the model gave NaN or infinity for a text
    ├── EmbedderClosed             used after close()
    ├── ServerFailed               an embedding server can't be reached, or answers what it shouldn't (exit code 4)
    ├── DeviceFailed               a device was lost, and the engine with it
    ├── ContractMismatch           the collection was made by other eyes (exit code 3)
    └── StoreError                 the store can't do what it was asked (exit code 4)
        ├── CollectionNotFound     nothing was indexed there yet (exit code 2)
        ├── UnfinishedCopy         a copy into the collection was begun and isn't whole
        ├── DiskFull               no room on the disk of a store in a directory
        ├── StoreUnreachable       the server doesn't answer, or refuses the key
        └── StoreLocked            another process holds it

A message says what was found, what is allowed and what to type next. `exit_code` is what the command line returns.
"""

from __future__ import annotations


class SightlineError(Exception):
    """Base of every error that Sightline raises on purpose."""

    exit_code = 2


class UsageError(SightlineError, ValueError):
    """An argument that can't be used."""


class UnknownInstruction(UsageError):
    """An instruction name that neither the model nor the caller defined."""


class DimensionError(UsageError):
    """A dimension that the model or the collection can't give."""


class UnknownStore(UsageError):
    """A store URL that no store answers to."""


class DeletionRefused(UsageError):
    """More would be deleted than seems meant. `summary` is the `IndexSummary` of what was done all the same."""

    def __init__(self, message: str, summary: object = None) -> None:
        super().__init__(message)
        self.summary = summary


class MissingExtra(SightlineError, ImportError):
    """An optional dependency that isn't installed: `package` is its name, and `what` needs it."""

    def __init__(self, what: str, *, package: str, extra: str) -> None:
        self.what, self.package = what, package
        super().__init__(f"{what} needs {package!r}, which isn't installed. Install it with: pip install 'sightline[{extra}]'")


class UnreadableFile(SightlineError):
    """A file that its reader can't make a text of. The message is the reason, and what to do about it."""


class ModelError(SightlineError):
    """A model that can't be used as it is."""


class ModelNotFound(ModelError):
    """No such folder, package or reachable hub model."""


class UntrustedModel(ModelError):
    """A collection names a model that is neither on this machine nor allowed by the caller."""


class InputError(SightlineError, ValueError):
    """A text that can't be embedded as asked. `row` is which one of the call's texts, where that is known."""

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


class TextTooLong(InputError):
    """A text beyond the maximum length while `on_too_long="error"`."""


class NonFiniteEmbedding(InputError):
    """The model gave NaN or infinity for a text."""


class EmbedderClosed(SightlineError):
    """The embedder was used after `close()`."""

    def __init__(self, message: str = "This embedder was closed; make a new one.") -> None:
        super().__init__(message)


class ServerFailed(SightlineError):
    """An embedding server that can't be reached, refuses the key or the model, or answers what it shouldn't."""

    exit_code = 4


class DeviceFailed(SightlineError):
    """A device that an engine ran on can't go on; the engine has ended. `device` is its name, the cause what it raised."""

    def __init__(self, message: str, device: str) -> None:
        super().__init__(message)
        self.device = device


class ContractMismatch(SightlineError):
    """The collection was made by an embedder that sees differently."""

    exit_code = 3


class StoreError(SightlineError):
    """The store can't be reached or can't do what it was asked."""

    exit_code = 4


class CollectionNotFound(StoreError):
    """The store has no such collection yet."""

    exit_code = 2


class UnfinishedCopy(StoreError):
    """A copy into the collection was begun and isn't whole, so nothing reads or writes it but the copy itself."""


class DiskFull(StoreError):
    """There is no room on the disk of a store in a directory; what was written stays."""


class StoreUnreachable(StoreError):
    """The server doesn't answer, or refuses the key."""


class StoreLocked(StoreError):
    """Another process holds the store."""
