"""Keys in the environment: no process of ours that reads files gets them, and no message shows them, whoever put them there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

# QDRANT_API_KEY, HF_TOKEN, AWS_SECRET_ACCESS_KEY, PGPASSWORD; not TOKENIZERS_PARALLELISM.
_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)")
# A shorter value is no key, and may be a word of the message.
_SHORTEST = 8


def without_keys(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment whose names aren't those of keys."""
    return {name: value for name, value in environment.items() if not _NAME.search(name.upper())}


def hide_keys(text: str) -> str:
    """A text with `***` for every key of this process's environment: a server may repeat what it was sent."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and value in text and _NAME.search(name.upper()):
            text = text.replace(value, "***")
    return text
