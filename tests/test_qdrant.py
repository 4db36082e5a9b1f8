"""Facts about the Qdrant store."""

from __future__ import annotations
import pytest
from sightline.stores import open_store
from sightline.testing import StoreConformance

class TestLocalMode(StoreConformance):
    """qdrant-client's local mode does what every store does; it writes some 200 points a second."""

    many = 600

    @pytest.fixture
    def store(self, tmp_path):
        store = open_store(f"qdrant:{tmp_path}/kb/handbook")
        yield store
        store.close()
