"""`sightline doctor`: what this machine offers, and whether a model works on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import click

from sightline.cli.options import json_option
from sightline.cli.output import echo, json_text
from sightline.doctor import ModelReport, Report, examine


@click.command(short_help="Show what is installed and whether a model works here.")
@click.option("--model", metavar="MODEL", help="Load this one, or ask a server, and check it: folder, package:NAME, hub name, openai+http://...")
@json_option("the report")
def doctor(model: str | None, as_json: bool) -> int:
    """Show Python, packages, device and model cache; with --model, load that model and check it.

    \b
    Examples:
      sightline doctor
      sightline doctor --model Qwen/Qwen3-Embedding-0.6B
      sightline doctor --model ./models/my-finetune --json
    """
    report = examine(model)
    if as_json:
        echo(json_text(dataclasses.asdict(report)))
    else:
        rows = list(_rows(report))
        width = max(len(label) for label, _ in rows)
        echo("\n".join(f"{label:<{width}}  {value}" for label, value in rows))
    return 0 if report.healthy else 2


def _rows(report: Report) -> Iterator[tuple[str, str]]:
    yield "sightline", report.sightline
    yield "python", report.python
    yield "platform", report.platform
    installed = [f"{package.name} {package.version}" for package in report.packages if package.version]
    yield "installed", ", ".join(installed)
    for package in report.packages:
        if package.version is None:
            yield "missing", f"{package.name}: {package.install}"
    yield from _device_rows(report)
    yield "hub cache", report.hub.cache + ("" if report.hub.cache_exists else " (not there yet)")
    yield "hub", "offline: only the cache is used" if report.hub.offline else "online: what isn't in the cache is fetched"
    if report.model is not None:
        yield from _model_rows(report.model)


def _device_rows(report: Report) -> Iterator[tuple[str, str]]:
    device = report.device
    if device is None:
        yield "device", report.device_problem or "unknown"
        return
    yield "device", f"{device.device}, {device.dtype}, {device.threads} CPU threads"
    yield "CPU", ", ".join(device.cpu_features) or "no bfloat16 units (neither amx nor avx512_bf16)"
    yield "CUDA", ", ".join(device.cuda) or "none"
    yield "MPS", "available" if device.mps else "none"
    yield "devices", ", ".join(device.devices)


def _model_rows(model: ModelReport) -> Iterator[tuple[str, str]]:
    yield "model", model.name
    for key, value in (model.description or {}).items():
        if key != "model" and value not in (None, {}, ()):
            yield f"  {key.replace('_', ' ')}", _shown(value)
    if model.scores is not None:
        yield "  scores", f"{model.scores.measured}, published {model.scores.published}"
    yield "  check", "passed" if model.problem is None else f"FAILED: {model.problem}"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}={text!r}" for name, text in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
