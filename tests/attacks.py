"""Counts what is done to Sightline and what it survives, and prints the table when the tests end.

`pytest tests/reliability` prints it; SIGHTLINE_ATTACKS=FILE writes it to a file besides, as JSON.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

_PROPERTY = "attack"
FILE_VARIABLE = "SIGHTLINE_ATTACKS"

Attack = Callable[[str], AbstractContextManager[None]]


class Table:
    """Collects from the reports of tests, which come from all processes that run them."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        self.survived: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take over what a test noted."""
        if report.when == "teardown":
            for name, what in report.user_properties:
                if name == _PROPERTY:
                    kind, survived = json.loads(str(what))
                    self.made[kind] += 1
                    self.survived[kind] += survived

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, if there was an attack."""
        if not self.made:
            return
        width = max(map(len, self.made))
        terminalreporter.section("attacks")
        terminalreporter.line(f"{'attack':<{width}}  count  survived")
        for kind in sorted(self.made):
            terminalreporter.line(f"{kind:<{width}}  {self.made[kind]:5,}  {self.survived[kind]:8,}")
        if FILE_VARIABLE in os.environ:
            rows = [{"attack": kind, "count": self.made[kind], "survived": self.survived[kind]} for kind in sorted(self.made)]
            Path(os.environ[FILE_VARIABLE]).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Collect where the reports arrive."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(), "sightline-attacks")


@pytest.fixture
def attack(request: pytest.FixtureRequest) -> Attack:
    """`with attack("kill -9, Edge"):` counts one attack, survived unless the block raises."""

    @contextmanager
    def attacking(kind: str) -> Iterator[None]:
        survived = False
        try:
            yield
            survived = True
        finally:
            request.node.user_properties.append((_PROPERTY, json.dumps([kind, survived])))

    return attacking
