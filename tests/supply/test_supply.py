"""Row 92: an audit that checks nothing fails, and the bill of materials lists what is pinned."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.txt"
Said = list[dict[str, Any]]


def _pinned() -> dict[str, str]:
    """Read apart from the script, from the lines that begin with a name."""
    lines = [line.split(" ")[0] for line in LOCK.read_text().splitlines() if line[:1].isalnum()]
    return dict(line.split("==") for line in lines)


def _clean() -> Said:
    return [{"name": n, "version": v, "vulns": []} for n, v in _pinned().items()]


def _vulnerable(said: Said) -> Said:
    said[3]["vulns"] = [{"id": "PYSEC-2026-1", "fix_versions": ["9.9"], "aliases": []}]
    return said


def _skipped(said: Said) -> Said:
    return [{"name": said[0]["name"], "skip_reason": "not found, could not be audited"}, *said[1:]]


def _older(said: Said) -> Said:
    said[5]["version"] = "0.0.1"
    return said


def _all_skipped(said: Said) -> Said:
    return [{"name": each["name"], "skip_reason": "no index"} for each in said]


def _another(said: Said) -> Said:
    return [*said, {"name": "left-pad", "version": "1", "vulns": []}]


def _run(tool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / f".ci/{tool}"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=60,
    )


def test_a_clean_audit_passes_and_says_that_nobody_was_asked(tmp_path: Path) -> None:
    """All pinned packages looked up, none vulnerable: 0, and no claim to a live look-up."""
    answer = tmp_path / "answer.json"
    answer.write_text(json.dumps({"dependencies": _clean(), "fixes": []}))
    done = _run("audit", "--prepared", answer, LOCK)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(_pinned())} packages audited" in done.stdout
    assert "no live look-up was made" in done.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_vulnerable, "PYSEC-2026-1 (mended in: 9.9)"),
        (_skipped, "was skipped: not found, could not be audited"),
        (_all_skipped, "0 were audited"),
        (lambda said: [], "0 were audited"),
        (lambda said: said[1:], f"{len(_pinned()) - 1} were audited"),
        (_older, "0.0.1 was audited"),
        (_another, "left-pad - is pinned, 1 was audited"),
    ],
    ids=["vulnerable", "one skipped", "all skipped", "empty", "one left out", "older", "another"],
)
def test_any_other_audit_fails(tmp_path: Path, change: Callable[[Said], Said], words: str) -> None:
    """A vulnerability fails, and so does whatever was not looked up as it is pinned."""
    answer = tmp_path / "answer.json"
    answer.write_text(json.dumps({"dependencies": change(_clean()), "fixes": []}))
    done = _run("audit", "--prepared", answer, LOCK)
    assert done.returncode == 1
    assert words in done.stderr


@pytest.mark.parametrize(
    "answer", ["", "No known vulnerabilities found", "[]", '{"dependencies": null}']
)
def test_an_answer_that_is_none_fails(tmp_path: Path, answer: str) -> None:
    """The tool broke, or printed words: nothing was audited."""
    path = tmp_path / "answer"
    path.write_text(answer)
    done = _run("audit", "--prepared", path, LOCK)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing was audited" in done.stderr


def test_requirements_that_pin_nothing_fail(tmp_path: Path) -> None:
    """Offline or not, a file without pins is not an audited one."""
    (tmp_path / "none.txt").write_text("# nothing\n")
    assert _run("audit", "--offline", tmp_path / "none.txt").returncode == 1
    assert _run("audit").returncode == 1


def test_offline_says_so() -> None:
    """Without a look-up nothing is claimed."""
    done = _run("audit", "--offline", LOCK)
    assert done.stdout == (
        f"{LOCK}: {len(_pinned())} packages pinned; not audited: no live look-up was made\n"
    )


def test_the_bill_of_materials_lists_exactly_what_is_pinned(tmp_path: Path) -> None:
    """Every pinned package in its version, and nothing else."""
    if shutil.which("cyclonedx-py", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("needs cyclonedx-bom, of the extra lint")
    done = subprocess.run(
        [str(ROOT / ".ci/sbom"), str(LOCK)],
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    listed = {c["name"]: c["version"] for c in json.loads(done.stdout)["components"]}
    assert listed == {name.lower(): version for name, version in _pinned().items()}


@pytest.mark.parametrize("change", ["left out", "older", "another", "nothing"])
def test_a_bill_of_materials_that_differs_is_none(tmp_path: Path, change: str) -> None:
    """A tool that leaves something out, invents or answers nothing: 1, and nothing on stdout."""
    listed: Any = [{"name": n, "version": v} for n, v in _pinned().items()]
    if change == "left out":
        listed = listed[1:]
    elif change == "older":
        listed[0] = {**listed[0], "version": "0"}
    elif change == "another":
        listed.append({"name": "left-pad", "version": "1"})
    document = {"bomFormat": "CycloneDX", "components": listed} if change != "nothing" else {}
    tool = tmp_path / "cyclonedx-py"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(document)}\nEND\n")
    tool.chmod(0o755)
    done = subprocess.run(
        [str(ROOT / ".ci/sbom"), str(LOCK)],
        env={"PATH": f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
