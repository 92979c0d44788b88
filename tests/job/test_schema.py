"""The schema that editors are given and the check agree; every key is enforced or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.job.desk import Desk
from worker.errors import InvalidInputError
from worker.job.schema import job_schema

HEAD = "name: a\norgId: o1\nscope: all_cached\n"
DEVICES = "devices: [{assetId: a}]\n"
JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))
SCHEMA = jsonschema.Draft202012Validator(job_schema())

# Every key of a job file. Enforced: a value that it cannot have is refused, naming the key.
ENFORCED = {
    "name": "name: a b",
    "reason": "reason: 12",
    "orgId": "orgId: 12",
    "scope": "scope: some",
    "devices": "devices: 1",
    "devices.productKey": "devices: [{productKey: 1, deviceKey: d}]",
    "devices.deviceKey": "devices: [{productKey: p, deviceKey: 1}]",
    "devices.deviceKeys": "devices: [{productKey: p, deviceKeys: [1]}]",
    "devices.assetId": "devices: [{assetId: 1}]",
    "devices.commandIds": "devices: [{assetId: a, commandIds: [x]}]",
    "devices_from": "devices_from: 1",
    "devices_from.file": "devices_from: [{file: x.txt}]",
    "limits": "limits: 1",
    "limits.max_devices": "limits: {max_devices: 0}",
    "limits.min_devices": "limits: {min_devices: 0}",
    "limits.max_commands": "limits: {max_commands: 0}",
    "limits.concurrency": "limits: {concurrency: 0}",
    "limits.rate": "limits: {rate: 0/s}",
    "limits.deadline": "limits: {deadline: 1}",
    "verify": "verify: some",
    "abort": "abort: on",
    "abort.failed": "abort: {failed: 5}",
    "abort.min_sample": "abort: {min_sample: 0}",
    "abort.consecutive": "abort: {consecutive: 0}",
}
REFUSED = {
    "devices_from.search": "devices_from: [{search: \"productKey = 'p'\"}]",
    "match": "match: {older_than: 24h}",
    "phases": "phases: {steps: [1, 10%, 100%]}",
    "accept": "accept: {not_found: 2%}",
    "gateway": "gateway: production",
    "timezone": "timezone: Europe/Berlin",
    "window": 'window: {opens: "02:00", closes: "04:00"}',
    "schedule": 'schedule: {cron: "5 2 * * 6"}',
}


def with_key(line: str) -> str:
    """The smallest job with this line in place of its own."""
    key = line.partition(":")[0]
    own = [one for one in f"{HEAD}{DEVICES}".splitlines() if one.partition(":")[0] != key]
    return "\n".join([*own, line, ""])


def keys_of(name: str, part: dict[str, Any], parts: dict[str, Any]) -> set[str]:
    """All keys that a schema knows, with their path."""
    found: set[str] = set()
    for option in [part, *part.get("anyOf", []), part.get("items", {})]:
        if "$ref" in option:
            target = parts[option["$ref"].rpartition("/")[2]]
            found |= keys_of(name, target, parts)
        for key, value in option.get("properties", {}).items():
            path = f"{name}.{key}".lstrip(".")
            found |= {path} | keys_of(path, value, parts)
    return found


def test_every_key_is_listed_here() -> None:
    """A key that the schema gains must be enforced, and one of coming releases is absent."""
    schema = job_schema()
    assert keys_of("", schema, schema["$defs"]) == set(ENFORCED)


@pytest.mark.parametrize("path", ENFORCED)
def test_enforced(desk: Desk, path: str) -> None:
    """A value that the key cannot have is refused by the check and by the schema."""
    job = with_key(ENFORCED[path])
    assert f" {path.removeprefix('devices.')}:" in desk.refused(job)
    assert not SCHEMA.is_valid(yaml.safe_load(job))


@pytest.mark.parametrize("path", REFUSED)
def test_not_supported_yet(desk: Desk, path: str) -> None:
    """A key of a coming release is refused by name, never accepted and ignored."""
    job = with_key(REFUSED[path])
    if path == "devices_from.search":
        job = job.replace(DEVICES, "")
    assert desk.refused(job).endswith(f": {path}: not supported yet")
    assert not SCHEMA.is_valid(yaml.safe_load(job))


def test_every_key_is_described() -> None:
    """An editor can say of each key what it does."""
    for part in job_schema()["$defs"].values():
        assert part["additionalProperties"] is False
        assert part["description"]
        for name, value in part["properties"].items():
            assert value.get("description"), name


def test_schema_is_valid() -> None:
    """The schema is one itself."""
    jsonschema.Draft202012Validator.check_schema(job_schema())


@pytest.mark.parametrize("path", JOBS, ids=[path.stem for path in JOBS])
def test_examples(path: Path) -> None:
    """The schema accepts the examples."""
    SCHEMA.validate(yaml.safe_load(path.read_text("utf-8")))


VALUES = {
    "limits": ["{}", "{max_devices: 1}", "{rate: none}", "{rate: 07/s}", "{deadline: 1d}"],
    "limits ": ["{x: 1}", "{concurrency: 1024}", "{deadline: 0s}", '{max_devices: "1"}'],
    "verify": ["none", "touched", "all", '"all"', "no"],
    "abort": ["off", "{}", '"off"', "{failed: 5%}", "{failed: 5%, min_sample: 1}", "no", "[]"],
    "reason": ["text", '"12"', '""', "12", "|\n  a\n  b\n"],
    "name": ["a-b", "-a", "12", '"12"', "a_b"],
    "devices": [
        "[{assetId: a}]",
        "[]",
        "[{productKey: p, deviceKeys: [a]}]",
        "[{productKey: p, deviceKeys: []}]",
        "[{productKey: p, deviceKey: a}, {assetId: b}]",
        "[{productKey: p}]",
        "[{assetId: a, productKey: p, deviceKey: a}]",
        '[{assetId: a, commandIds: ["1"]}]',
        '[{productKey: p, deviceKeys: [a], commandIds: ["1"]}]',
    ],
    "scope": ["all_cached", "listed", "matching"],
}


@given(
    job=st.fixed_dictionaries(
        {"scope": st.sampled_from(VALUES["scope"]), "devices": st.sampled_from(VALUES["devices"])},
        optional={
            name: st.sampled_from(VALUES[name])
            for name in ("limits", "limits ", "verify", "abort", "reason", "name")
        },
    )
)
@settings(max_examples=300)
def test_what_is_accepted_is_valid(tmp_path_factory: pytest.TempPathFactory, job: Any) -> None:
    """Everything that the check accepts validates against the schema."""
    text = "".join(
        f"{key}: {value}\n" for key, value in ({"name": "a", "orgId": "o1"} | job).items()
    )
    desk = Desk(tmp_path_factory.getbasetemp())
    try:
        desk.read(text)
    except InvalidInputError:
        return
    SCHEMA.validate(yaml.safe_load(text))
