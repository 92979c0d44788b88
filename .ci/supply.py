"""What stands between us and other people's code: the audit and the bill of materials, judged.

    .ci/audit FILE…              ask the advisory service, by pip-audit, about what FILE pins
    .ci/audit --prepared J FILE… judge pip-audit's JSON output J instead of asking
    .ci/audit --offline FILE…    ask nobody, and say so
    .ci/sbom FILE                the CycloneDX bill of materials of FILE, on stdout

An audit that skipped a package has not audited it, and one of nothing is none: both fail. So does
a bill of materials that does not list exactly what is pinned. Exit code 0 or 1.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)
_AUDIT = ("pip-audit", "--strict", "--disable-pip", "--require-hashes", "--format", "json")
_SBOM = ("cyclonedx-py", "requirements", "--output-reproducible", "--pyproject", "pyproject.toml")


def pins(text: str) -> dict[str, str]:
    """Name, as the index normalises it, to version."""
    return {_normal(name): version for name, version in _PIN.findall(text)}


def judge_audit(pinned: Mapping[str, str], output: str) -> list[str]:
    """Why an audit is not a clean one; empty when every pinned package was looked up."""
    if not pinned:
        return ["nothing is pinned, so nothing was audited"]
    found = _read(output).get("dependencies")
    if not isinstance(found, list):
        return ["pip-audit gave no result: nothing was audited"]
    wrong, audited = [], {}
    for each in found:
        name = _normal(str(each.get("name")))
        if "skip_reason" in each or not isinstance(each.get("vulns"), list):
            wrong.append(f"{name} was skipped: {each.get('skip_reason', 'no result')}")
            continue
        audited[name] = str(each.get("version"))
        wrong += [f"{name} {audited[name]}: {_words(found)}" for found in each["vulns"]]
    return wrong + _differences(pinned, audited, "audited")


def judge_sbom(pinned: Mapping[str, str], output: str) -> list[str]:
    """Where a bill of materials and the pins differ; empty when they agree."""
    document = _read(output)
    if document.get("bomFormat") != "CycloneDX" or not pinned:
        return ["no CycloneDX document, or nothing is pinned"]
    listed = {_normal(c["name"]): str(c.get("version")) for c in document.get("components", ())}
    return _differences(pinned, listed, "listed")


def _differences(pinned: Mapping[str, str], found: Mapping[str, str], how: str) -> list[str]:
    wrong = [
        f"{name} {pinned.get(name, '-')} is pinned, {found.get(name, '-')} was {how}"
        for name in sorted({*pinned, *found})
        if pinned.get(name) != found.get(name)
    ]
    if wrong:
        wrong.append(f"{len(pinned)} packages are pinned and {len(found)} were {how}")
    return wrong


def _read(output: str) -> dict[str, Any]:
    try:
        document = json.loads(output)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _words(vulnerability: Mapping[str, Any]) -> str:
    mended = ", ".join(vulnerability.get("fix_versions") or ["no version yet"])
    return f"{vulnerability.get('id')} (mended in: {mended})"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _run(command: Iterable[str]) -> str:
    """What a tool prints; its exit code is not believed, its output is judged."""
    done = subprocess.run(  # noqa: S603 - the commands above, with files of this project
        [*command], capture_output=True, text=True, check=False
    )
    sys.stderr.write(done.stderr)
    return done.stdout


def _audit(arguments: list[str]) -> list[str]:
    prepared, offline = None, arguments[:1] == ["--offline"]
    if offline:
        arguments = arguments[1:]
    elif arguments[:1] == ["--prepared"]:
        prepared, arguments = arguments[1], arguments[2:]
    wrong = [] if arguments else ["give the requirements files to audit"]
    for name in arguments:
        pinned = pins(Path(name).read_text())
        if offline:
            _say(f"{name}: {len(pinned)} packages pinned; not audited: no live look-up was made")
            wrong += [] if pinned else [f"{name}: nothing is pinned"]
            continue
        output = Path(prepared).read_text() if prepared else _run([*_AUDIT, "-r", name])
        found = judge_audit(pinned, output)
        wrong += [f"{name}: {each}" for each in found]
        if not found:
            source = "by a prepared answer: no live look-up was made" if prepared else "live"
            _say(f"{name}: {len(pinned)} packages audited, no known vulnerability ({source})")
    return wrong


def _sbom(arguments: list[str]) -> list[str]:
    (name,) = arguments
    output = _run([*_SBOM, name])
    wrong = judge_sbom(pins(Path(name).read_text()), output)
    if not wrong:
        sys.stdout.write(output)
    return wrong


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def main(arguments: list[str]) -> int:
    """`audit …` or `sbom …`."""
    tool = {"audit": _audit, "sbom": _sbom}[arguments[0]]
    wrong = tool(arguments[1:])
    for line in wrong:
        sys.stderr.write(f"FAILED {line}\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
