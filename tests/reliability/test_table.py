"""Facts about the table of attacks, which the figures of docs/reliability.md come from."""

from __future__ import annotations

import json

import pytest

pytest_plugins = ["pytester"]


def test_the_table_tells_what_survived(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack whose block raises is counted, not survived; those of all tests of a kind are added up."""
    monkeypatch.setenv("SIGHTLINE_ATTACKS", str(pytester.path / "table.json"))
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makeconftest("pytest_plugins = ['attacks']")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_kills(attack, number):
            with attack("kill"):
                assert number != 1
        """
    )
    pytester.runpytest_inprocess("-q").stdout.fnmatch_lines(["kill*3*2"])
    written = json.loads((pytester.path / "table.json").read_text(encoding="utf-8"))
    assert written == [{"attack": "kill", "count": 3, "survived": 2}]
