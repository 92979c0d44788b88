"""The results as a table in Markdown, the same as JSON, and a plot."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from bench.goals import Line, Row
from bench.rounds import Figure, Spread, spread

_PACKAGES = ("aiohttp", "requests", "httpx", "pycurl", "enos-poseidon", "SQLAlchemy", "msgspec")


def write(
    folder: Path, lines: Sequence[Line], races: Mapping[str, Mapping[str, Sequence[Figure]]]
) -> Path:
    """Write `DATE.md`, `DATE.json` and `DATE.png` into the folder; the page's path."""
    folder.mkdir(exist_ok=True)
    stem = datetime.now(UTC).strftime("%Y-%m-%d")
    page = folder / f"{stem}.md"
    page.write_text(_page(lines, races, f"{stem}.png"))
    document = {"machine": _machine(), "lines": lines, "races": races}
    (folder / f"{stem}.json").write_bytes(msgspec.json.format(msgspec.json.encode(document)))
    _plot(folder / f"{stem}.png", races)
    return page


def table(lines: Sequence[Line]) -> str:
    """The rows of the goals, for a page or a terminal."""
    told = ["| what | median | min to max | goal | |", "|---|---|---|---|---|"]
    for line in lines:
        if isinstance(line, Row):
            shown = line.measured
            note = f" ({line.note})" if line.note else ""
            told.append(
                f"| {line.name} | {_n(shown.middle)} {line.unit} | {_n(shown.low)} to "
                f"{_n(shown.high)} | {line.asked} | {line.verdict}{note} |"
            )
        else:
            told.append(f"| {line.name} | not measured | | | {line.why} |")
    return "\n".join(told) + "\n"


def _page(
    lines: Sequence[Line], races: Mapping[str, Mapping[str, Sequence[Figure]]], plot: str
) -> str:
    told = ["# What a device costs\n", *(f"- {line}" for line in _machine()), ""]
    told += [table(lines)]
    for name, race in races.items():
        told += [f"\n## {name}\n", "| peer | CPU us a device | devices/s |"]
        told += ["|---|---|---|"]
        for peer, figures in race.items():
            cpu = spread([figure.cpu_us for figure in figures])
            rate = spread([figure.rate for figure in figures])
            told.append(f"| {peer} | {_s(cpu)} | {_s(rate)} |")
    told.append(f"\n![CPU time a device]({plot})\n")
    told.append("Repeat it with `python -m bench`; ratios are taken within a round, the figures")
    told.append("are medians with minimum and maximum.")
    return "\n".join(told) + "\n"


def _plot(path: Path, races: Mapping[str, Mapping[str, Sequence[Figure]]]) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - only a full run draws

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, len(races), figsize=(6 * len(races), 3.6), squeeze=False)
    for axis, (name, race) in zip(axes[0], races.items(), strict=True):
        peers = list(race)
        middles = [spread([each.cpu_us for each in race[peer]]).middle for peer in peers]
        colours = ["tab:orange" if peer == "cancel-worker" else "tab:gray" for peer in peers]
        bars = axis.barh(peers, middles, color=colours)
        axis.bar_label(bars, [f"{value:.0f}" for value in middles], padding=3)
        axis.set_xscale("log")
        axis.invert_yaxis()
        axis.set_title(f"{name}: CPU us a device")
        axis.margins(x=0.2)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _machine() -> list[str]:
    used = []
    for package in _PACKAGES:
        try:
            used.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    python = sys.version.split()[0]
    return [f"{when}, Python {python} on {platform.machine()}, {_cpu()}", ", ".join(used)]


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "an unnamed processor"


def _n(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _s(shown: Spread) -> str:
    return f"{_n(shown.middle)} ({_n(shown.low)} to {_n(shown.high)})"
