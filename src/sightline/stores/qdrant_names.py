"""Which collection a name stands for: its alias, what lies behind and beside it, and what a killed writer left there."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from qdrant_client import QdrantClient, models

from sightline.errors import CollectionNotFound
from sightline.stores.qdrant_database import Call, Database, T
from sightline.stores.qdrant_errors import NameTaken
from sightline.stores.qdrant_vectors import collection_settings
from sightline.types import VectorLayout

CONTRACT_KEY, MARK_KEY = "sightline_contract", "sightline_mark"
# "new" until it is usable, then "live" or "staging". What is "new" and has no alias is what a killed `create` left.
STATE_KEY = "sightline_state"
NEW, LIVE, STAGING = "new", "live", "staging"
# Set before a swap: the collection that loses its alias and is dropped after it, by the next writer if need be.
REPLACES_KEY = "sightline_replaces"
# Set while indexing is put off: the threshold (kB) that it had. Scalars, 0 and "" for "no longer": true however metadata merges.
_DEFERRED_KEY = "sightline_indexing_threshold"
_NEVER_INDEX_KB = 1_000_000_000
_DEFAULT_THRESHOLD_KB = 10_000


class Names:
    """The collections of one name in one database."""

    def __init__(self, url: str, database: Database, name: str) -> None:
        self._url = url
        self._database = database
        self._name = name

    def _request(self, what: str, call: Call[T]) -> T:
        return self._database.request(self._url, what, call)

    def make(self, layout: VectorLayout, contract: Mapping[str, Any], *, is_staging: bool) -> None:
        """Make a collection; it counts from the moment that the alias or its state says so."""
        self._sweep(self._beside())
        physical = f"{self._name}__{uuid.uuid4().hex[:12]}"
        settings = collection_settings(layout)
        metadata = {CONTRACT_KEY: contract, MARK_KEY: {}, STATE_KEY: NEW}
        # No one else makes this name: if it is taken, an attempt before had gone well and its answer was lost.
        with suppress(NameTaken):
            self._request("creating", lambda client: client.create_collection(physical, metadata=metadata, **settings))
        self._database.index_payload(physical)
        if not is_staging:
            self._move_alias(physical)
        self.put(physical, {STATE_KEY: STAGING if is_staging else LIVE})

    def promote(self, staged: str) -> None:
        """Move the alias in one step; what it stood for is remembered, so that `tidy` drops it even after a crash."""
        self._database.check()
        self.restore_indexing(staged)
        self.put(staged, {REPLACES_KEY: self.alias_target() or ""})
        self._database.check()
        self._move_alias(staged)

    def info(self, name: str) -> models.CollectionInfo | None:
        """Settings of a collection, or of the one that an alias stands for."""
        try:
            return self._request("reading the settings", lambda client: client.get_collection(name))
        except CollectionNotFound:
            return None

    def _metadata(self, name: str) -> Mapping[str, Any]:
        info = self.info(name)
        return {} if info is None else info.config.metadata or {}

    def _aliases(self) -> dict[str, str]:
        found = self._request("reading the aliases", lambda client: client.get_aliases())
        return {one.alias_name: one.collection_name for one in found.aliases}

    def alias_target(self) -> str | None:
        """The collection that the name stands for; None when it is no alias."""
        return self._aliases().get(self._name)

    def _beside(self) -> dict[str, Mapping[str, Any]]:
        """Metadata of the collections of ours under this name that no alias stands for."""
        own_name = re.compile(re.escape(self._name) + "__[0-9a-f]{12}")
        listed = self._request("listing the collections", lambda client: client.get_collections())
        taken = set(self._aliases().values())
        names = sorted(one.name for one in listed.collections if own_name.fullmatch(one.name) and one.name not in taken)
        found = {name: self._metadata(name) for name in names}
        return {name: metadata for name, metadata in found.items() if CONTRACT_KEY in metadata}

    def staged(self) -> str | None:
        """The collection that a rebuild fills."""
        if not self._database.is_present():
            return None
        staged = [name for name, metadata in self._beside().items() if metadata.get(STATE_KEY) == STAGING]
        return staged[0] if staged else None

    def _move_alias(self, physical: str) -> None:
        """Let the name stand for `physical`: one operation, which readers see wholly or not at all."""
        create = models.CreateAlias(collection_name=physical, alias_name=self._name)
        operations: list[Any] = [models.CreateAliasOperation(create_alias=create)]
        if self.alias_target() is not None:
            operations.insert(0, models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=self._name)))
        self._request("moving the alias", lambda client: client.update_collection_aliases(operations))
        self._database.epoch += 1

    def tidy(self) -> None:
        """Finish what a killed writer left: a swap whose old collection is still there, a half-made one, indexing put off."""
        if not self._database.is_present():
            return
        live = self.alias_target() or self._name
        beside = self._beside()
        metadata = self._metadata(live)
        self.restore_indexing(live, metadata)
        replaced = metadata.get(REPLACES_KEY)
        if replaced in beside:
            self.drop(replaced)
        if replaced or metadata.get(STATE_KEY) in (NEW, STAGING):
            self.put(live, {STATE_KEY: LIVE, REPLACES_KEY: ""})
        self._sweep(beside)
        for name, found in beside.items():
            if found.get(STATE_KEY) == STAGING:
                self.restore_indexing(name, found)

    def _sweep(self, beside: Mapping[str, Mapping[str, Any]]) -> None:
        """Drop what a `create` that was cut short left."""
        for name, metadata in beside.items():
            if metadata.get(STATE_KEY) == NEW:
                self.drop(name)

    def drop(self, physical: str) -> None:
        """Remove a collection."""
        with suppress(CollectionNotFound):
            self._request("dropping a collection", self._database.drop(physical))
        self._database.epoch += 1

    def put(self, physical: str, metadata: Mapping[str, Any]) -> None:
        """Replace these keys of a collection's metadata in one operation."""
        self._request("writing the settings", lambda client: client.update_collection(physical, metadata=dict(metadata)))

    def restore_indexing(self, physical: str, metadata: Mapping[str, Any] | None = None) -> None:
        """Index from the threshold on that the collection had before a bulk load."""
        known = self._metadata(physical) if metadata is None else metadata
        threshold = int(known.get(_DEFERRED_KEY) or 0)
        if threshold:
            self._request("turning indexing on", partial(_set_indexing, physical, threshold, 0))
        self._database.deferred.discard(physical)


def defer_indexing(physical: str, client: QdrantClient) -> None:
    """Index no more, and remember from which threshold on it was done, unless that is remembered already."""
    info = client.get_collection(physical)
    threshold = info.config.optimizer_config.indexing_threshold
    if threshold == 0 or (info.config.metadata or {}).get(_DEFERRED_KEY):
        return  # 0: somebody turned indexing off for good
    _set_indexing(physical, _NEVER_INDEX_KB, threshold or _DEFAULT_THRESHOLD_KB, client)


def _set_indexing(physical: str, threshold_kb: int, remembered_kb: int, client: QdrantClient) -> None:
    """Set the threshold and what it was before in one operation."""
    optimizers = models.OptimizersConfigDiff(indexing_threshold=threshold_kb)
    client.update_collection(physical, optimizers_config=optimizers, metadata={_DEFERRED_KEY: remembered_kb})
