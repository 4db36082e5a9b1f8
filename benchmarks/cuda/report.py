"""From lines of findings to one result, and from that to the table that is printed last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def collected(path: Path) -> Result:
    """Everything that the parts wrote down, by part."""
    result: Result = {"parts": {}, "checks": [], "left_out": [], "failures": []}
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:  # an empty line, or one at which a process died
            continue
        part = result["parts"].setdefault(line["part"], {"facts": {}})
        match line["kind"]:
            case "fact":
                part["facts"][line["name"]] = line["value"]
            case "check":
                result["checks"].append({name: line[name] for name in ("part", "name", "value", "allowed", "good")})
            case "left out":
                result["left_out"].append(f"{line['part']}: {line['name']} ({line['value']})")
            case "failure":
                result["failures"].append({"part": line["part"], "what": line["value"]})
            case "begin":
                part["began"] = line["at"]
                part["allowed"] = line["allowed"]
            case "end":
                part["seconds"] = round(line["seconds"], 1)
    return result


def went_wrong(result: Result) -> bool:
    """Whether a part failed or a check did."""
    return bool(result["failures"]) or any(not check["good"] for check in result["checks"])


def summary(result: Result) -> str:
    """The short table."""
    facts = {name: part["facts"] for name, part in result["parts"].items()}
    lines = ["", "#" * 100, *_head(facts), *_speeds(facts), *_rest(facts), *_checks(result["checks"])]
    lines += [f"left out  {one}" for one in result["left_out"]]
    lines += [f"FAILED    {one['part']}: {one['what'].splitlines()[-1][:160]}" for one in result["failures"]]
    times = ", ".join(f"{name} {part['seconds']:.0f}" for name, part in result["parts"].items() if "seconds" in part)
    return "\n".join([*lines, f"seconds   {times}"])


def _head(facts: dict[str, Any]) -> list[str]:
    environment, ceilings = facts.get("environment", {}), facts.get("ceilings", {})
    device, versions = environment.get("device", {}), environment.get("versions", {})
    known = [name for name in ("torch", "triton", "transformers", "sentence-transformers") if name in versions]
    lines = [
        f"{device.get('name')}, driver {device.get('driver, clock, power')}; " + ", ".join(f"{n} {versions[n]}" for n in known),
        f"ceilings  {_number(ceilings.get('product_tflops'))} TFLOP/s, {_number(ceilings.get('copy_gb_per_s'))} GB/s; "
        + ", ".join(f"{name} {_number(rate)}" for name, rate in ceilings.get("layer_tflops", {}).items()),
    ]
    rates = facts.get("operators", {}).get("gb_per_s", {})
    for name, each in rates.items():
        lines.append(f"GB/s      {name}: " + ", ".join(f"{one} {_number(rate)}" for one, rate in each.items()))
    return lines


def _speeds(facts: dict[str, Any]) -> list[str]:
    rows = []
    for part, found in facts.items():
        if not part.startswith("speed "):
            continue
        model = part.removeprefix("speed ")
        for mix in (name.removesuffix(": ours") for name in found if name.endswith(": ours")):
            ours, peer = found[f"{mix}: ours"], found.get(f"{mix}: peer", {})
            rows.append(
                (model, mix, _number(ours["tokens_per_s"]), _number(ours.get("tflops")), _share(ours.get("share")),
                 _number(ours.get("tokens_per_pass")), _number(ours.get("peak_gb")), _number(peer.get("tokens_per_s")),
                 str(peer.get("batch", "-")), _number(peer.get("times")))
            )  # fmt: skip
    header = ("model", "mix", "tokens/s", "TFLOP/s", "share", "a pass", "GB", "peer", "batch", "times")
    return _aligned([header, *rows]) if rows else []


def _rest(facts: dict[str, Any]) -> list[str]:
    lines = []
    for name, found in facts.get("latency", {}).items():
        lines.append(f"latency   {name}: " + ", ".join(f"{key} {value:.2f}" for key, value in found.items()))
    device = facts.get("trace", {}).get("device")
    if device:
        lines.append(f"trace     busy {_share(device['busy_share'])} of {device['ms']:.1f} ms, {device['kernels']} kernels, "
                     f"largest gaps {device['largest_gaps_us']} us")  # fmt: skip
    for one in facts.get("trace", {}).get("kernels", [])[:6]:
        lines.append(f"          {_share(one['share']):>5} {one['calls']:6} x {one['name'][:80]}")
    for name, found in facts.get("prefixes", {}).items():
        lines.append(f"prefix    {name}: {_number(found['queries_per_s'])} queries/s")
    for name, found in facts.get("host", {}).items():
        tokens, texts = (_number(found[kind]) for kind in ("tokens_per_s", "texts_per_s"))
        lines.append(f"host      {name}: {tokens} tokens/s, {texts} texts/s at most")
    for name, found in facts.get("budgets", {}).items():
        lines.append(f"budget    {name}: " + ", ".join(f"{mix} {_number(rate)}" for mix, rate in found.items()))
    for name, found in facts.get("ways", {}).items():
        lines.append(f"ways      {name}: {found}")
    for part, found in facts.items():
        lines += [f"runs      {part}, {name}: {value}" for name, value in found.items() if name.endswith("runs")]
    return lines


def _checks(checks: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for part in dict.fromkeys(check["part"] for check in checks):
        some = [check for check in checks if check["part"] == part]
        wrong = [check for check in some if not check["good"]]
        lines.append(f"checks    {part}: {len(some) - len(wrong)} of {len(some)} right")
        lines += [f"WRONG     {one['name']}: {one['value']:.3g}, at most {one['allowed']:.3g} is allowed" for one in wrong[:12]]
    return lines


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    sides = [str.ljust, str.ljust, *[str.rjust] * (len(widths) - 2)]
    return ["  ".join(side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)) for row in rows]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
