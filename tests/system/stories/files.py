"""Job files and inventories of a story, as people write them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from tests.system.stories.fleet import Device, Spelling
from tests.system.stories.gateway import ORG
from tests.system.stories.plot import Job, Row


class Wanted:
    """What a job names: by each spelling that may be called, the ids listed (none: all)."""

    def __init__(self, job: str, listed: bool) -> None:
        self.job = job
        self.listed = listed
        self.rows: dict[Spelling, tuple[str, ...]] = {}

    def add(self, spelling: Spelling, ids: tuple[str, ...]) -> None:
        known = self.rows.get(spelling, ())
        self.rows[spelling] = (*known, *(i for i in ids if i not in known))


def spelled(row: Row, device: Device) -> Spelling:
    """How the worker must name it."""
    return device.by_asset if row.name == "asset" else device.by_pair


def write_job(folder: Path, job: Job, devices: list[Device]) -> tuple[Path, Wanted]:
    """The job's files, and what they mean."""
    wanted = Wanted(job.name, job.listed)
    for row in job.rows:
        wanted.add(spelled(row, devices[row.device]), row.ids)
    lines = [f"name: {job.name}", f"orgId: {ORG}"]
    lines.append(f"scope: {'listed' if job.listed else 'all_cached'}")
    if job.verify:
        lines.append(f"verify: {job.verify}")
    if not job.abort:
        lines.append("abort: off")
    if job.limits:
        lines.append(f"limits: {job.limits}")
    half = len(job.rows) // 2 if job.form == "two" else 0
    inline = job.rows if job.form in ("yaml", "grouped") else job.rows[:half]
    if inline:
        lines += ["devices:", *_inline(job, inline, devices)]
    if job.form in ("csv", "ndjson", "two"):
        kind = "csv" if job.form == "csv" else "ndjson"
        # Of two sources the second names some devices again: they are united.
        rows = job.rows[half // 2 :] if job.form == "two" else job.rows
        lines += ["devices_from:", f"  - file: {job.name}.{kind}"]
        write = _write_csv if kind == "csv" else _write_ndjson
        write(folder / f"{job.name}.{kind}", rows, devices)
    path = folder / f"{job.name}.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path, wanted


def read_remaining(path: Path) -> Wanted:
    """What a remaining job names; its rows are in an NDJSON that it names."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    named = next(json.loads(line[6:]) for line in lines if line.startswith("name: "))
    file = next(line.split("file: ")[1] for line in lines if line.strip().startswith("- file: "))
    wanted = Wanted(named, "scope: listed" in text)
    inventory = path.with_name(json.loads(file))
    for line in inventory.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        pair = row.get("productKey", ""), row.get("deviceKey", "")
        name = Spelling("", *pair) if all(pair) else Spelling(row["assetId"])
        wanted.add(name, tuple(row.get("commandIds", ())))
    return wanted


def _inline(job: Job, rows: tuple[Row, ...], devices: list[Device]) -> list[str]:
    if job.form == "grouped":
        products: dict[str, list[str]] = {}
        for row in rows:
            device = devices[row.device]
            products.setdefault(device.productKey, []).append(device.deviceKey)
        return [
            f"  - {{productKey: {_quoted(product)}, deviceKeys: {_quoted(keys)}}}"
            for product, keys in products.items()
        ]
    return [f"  - {_quoted(_entry(row, devices[row.device]))}" for row in rows]


def _entry(row: Row, device: Device) -> dict[str, object]:
    entry: dict[str, object] = {"assetId": device.assetId}
    if row.name == "pair":
        entry = {"productKey": device.productKey, "deviceKey": device.deviceKey}
    if row.ids:
        entry["commandIds"] = list(row.ids)
    return entry


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _write_csv(path: Path, rows: tuple[Row, ...], devices: list[Device]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        listed = ["commandIds"] if any(row.ids for row in rows) else []
        writer.writerow(["productKey", "deviceKey", "site", "assetId", *listed])
        for row in rows:
            entry = _entry(row, devices[row.device])
            names = [entry.get(n, "") for n in ("productKey", "deviceKey")]
            ids = [" ".join(row.ids)] if listed else []
            writer.writerow([*names, "Köln, Süd", entry.get("assetId", ""), *ids])


def _write_ndjson(path: Path, rows: tuple[Row, ...], devices: list[Device]) -> None:
    lines = [_quoted(_entry(row, devices[row.device])) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
