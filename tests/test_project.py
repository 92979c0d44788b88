"""The files around the code agree with each other: README, CI, requirements, image, licence."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version as installed
from pathlib import Path

import pytest

import worker

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
LOCKS = {
    "requirements.txt": PROJECT["dependencies"],
    "requirements-test.txt": [
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["test"],
    ],
    "requirements-build.txt": PYPROJECT["build-system"]["requires"],
}
REHEARSAL = (
    "python3 -m venv .venv && .venv/bin/pip install -q . && "
    ".venv/bin/cancel-worker run jobs/example.yaml --rehearse"
)
TESTS = (
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && "
    ".venv/bin/python -m pytest -q"
)


def bounds(requirements: list[str]) -> dict[str, tuple[int, ...]]:
    """The lower bound of each requirement by its normalised name."""
    found = {}
    for requirement in requirements:
        match = re.fullmatch(r"([A-Za-z0-9-]+)>=([0-9.]+)", requirement)
        assert match, f"{requirement}: write NAME>=VERSION"
        found[match[1].lower()] = numbers(match[2])
    return found


def numbers(version: str) -> tuple[int, ...]:
    """A version for comparing: 3.14.5 is (3, 14, 5), and 1.2.0 is (1, 2)."""
    parts = tuple(int(part) for part in version.split("."))
    while parts and parts[-1] == 0:
        parts = parts[:-1]
    return parts


def pins(name: str) -> dict[str, tuple[str, int]]:
    """What a requirements file pins: name -> version and how many hashes."""
    found: dict[str, tuple[str, int]] = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / name).read_text()):
        if match := re.match(r"([A-Za-z0-9-]+)==(\S+) ", entry):
            found[match[1]] = match[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_pins_satisfy_the_lower_bounds(name: str) -> None:
    """Each direct dependency is pinned to a version that pyproject.toml accepts."""
    pinned = {one: numbers(version) for one, (version, _) in pins(name).items()}
    lower = bounds(LOCKS[name])
    assert {one: pinned.get(one, ()) for one in lower if pinned.get(one, ()) < lower[one]} == {}


@pytest.mark.parametrize("name", LOCKS)
def test_pins_have_hashes(name: str) -> None:
    """Every line that pip reads is a pinned version with at least one SHA-256."""
    found = pins(name)
    assert [one for one, (_, hashes) in found.items() if not hashes] == []
    entries = [line for line in (ROOT / name).read_text().splitlines() if line[:1].isalnum()]
    assert len(entries) == len(found) > 0


@pytest.mark.parametrize("name", LOCKS)
def test_requirements_name_no_place(name: str) -> None:
    """No index, no URL and no path: whoever installs decides where packages come from."""
    text = (ROOT / name).read_text()
    assert re.findall(r"(?i)://|https?:|--(?:extra-)?index|--find|--trusted|^-|/\w+/", text) == []


@pytest.mark.parametrize("extra", ["", "test"])
def test_lower_bounds_are_what_is_tested(extra: str) -> None:
    """A lower bound is the series that these tests run with: older ones are not promised."""
    wanted = bounds(PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"])
    older = {
        one: installed(one) for one, lower in wanted.items() if numbers(installed(one)) < lower
    }
    assert older == {}
    ahead = {
        one: installed(one)
        for one, lower in wanted.items()
        if numbers(pins("requirements-test.txt")[one][0])[: len(lower)] != lower
    }
    assert ahead == {}


def test_readme_begins_with_two_commands() -> None:
    """A newcomer copies one line to see a run, and one line to run the tests."""
    blocks = re.findall(
        r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert blocks[:2] == [("sh", f"{REHEARSAL}\n"), ("sh", f"{TESTS}\n")]


def test_ci_runs_the_commands_of_the_readme(tmp_path: Path) -> None:
    """CI takes both commands out of the README, so that they cannot drift apart."""
    script = (ROOT / ".ci/run").read_text()
    function = re.search(r"^readme_command\(\) \{\n.*?^\}$", script, re.MULTILINE | re.DOTALL)
    assert function
    assert re.findall(r"\$\(readme_command (\d)\)", script) == ["1", "2"]
    said = subprocess.run(
        [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            f"temp=T\n{function[0]}\nreadme_command 1\nreadme_command 2",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    moved = [REHEARSAL.replace(".venv", "T/venv1"), TESTS.replace(".venv", "T/venv2")]
    assert said.splitlines() == moved


def test_tests_come_last_in_ci() -> None:
    """The last line of CI's script is the test run, whose closing line is then the last printed."""
    last = (ROOT / ".ci/run").read_text().splitlines()[-1]
    assert last.endswith('bash -c "$(readme_command 2)"')


def test_image_installs_only_what_has_a_hash() -> None:
    """Every pip command of the image checks hashes, or installs the wheel built beside it."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    commands = re.findall(r"pip (?:--python \S+ )?(?:install|wheel) [^&\n]*", text)
    assert len(commands) == 4
    assert [
        one for one in commands if "--require-hashes" not in one and "--no-deps" not in one
    ] == []


def test_image_is_made_for_a_read_only_root() -> None:
    """No root, exec form, SIGTERM, and one folder for everything that is written."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert 'ENTRYPOINT ["cancel-worker"]' in lines
    assert "USER 10001:10001" in lines
    assert "STOPSIGNAL SIGTERM" in lines
    folder = "/var/lib/cancel-worker"
    assert f'VOLUME ["{folder}"]' in lines
    text = "\n".join(lines)
    for name in ("STATE_DIRECTORY", "SQLITE_TMPDIR", "TMPDIR"):
        assert f"{name}={folder}" in text


def test_build_context_holds_what_the_image_copies() -> None:
    """Whatever a COPY names is let through by .dockerignore, and nothing else is."""
    copied: set[str] = set()
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied.update(line.split()[1:-1])
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert "*" in ignore


def test_licence_is_the_one_that_is_declared() -> None:
    """The text is the whole Apache License 2.0, as the metadata says."""
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert text.count("\n") == 202


def test_changelog_knows_the_version() -> None:
    """A version that is built stands in the changelog."""
    assert worker.__version__ in (ROOT / "CHANGELOG.md").read_text()


def test_entry_point_is_installed() -> None:
    """`cancel-worker --version` says the version of this tree."""
    script = Path(sys.executable).with_name("cancel-worker")
    if not script.exists():
        pytest.skip("not installed: pip install -e '.[test]'")
    said = subprocess.run(
        [str(script), "--version"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert said.strip() == worker.__version__
