"""Whether the configuration of the current folder may say where the keys go (row 104)."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from worker.config import Settings, load_settings
from worker.errors import UsageError
from worker.job.document import load_plain

_ROOT = os.geteuid() == 0
_SOMEBODY = 10001
_KEYS = {
    "HOME": "/home/somebody",
    "CANCEL_WORKER_GATEWAY_ACCESS_KEY": "access",
    "CANCEL_WORKER_GATEWAY_SECRET_KEY": "secret",
}
_TEXT = "gateway: {url: https://apim.example.com}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a config.yaml of the user's own."""
    made = tmp_path / "here"
    made.mkdir(mode=0o755)
    (made / "config.yaml").write_text(_TEXT)
    (made / "config.yaml").chmod(0o664)
    monkeypatch.chdir(made)
    return made


def _load(config: str | None = None, **environ: str) -> Settings:
    return load_settings(load_plain, {**_KEYS, **environ}, config=config)


def _said(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        _load().require_gateway()
    assert caught.value.exit_code == 2
    return str(caught.value).replace(str(folder), "HERE")


def _give_away(path: Path) -> None:
    if not _ROOT:
        pytest.skip("needs root")
    os.chown(path, _SOMEBODY, _SOMEBODY)


_REMEDY = ", so it may say where your keys go: give --config config.yaml if it is the right one"


def test_a_folder_of_the_user(folder: Path) -> None:
    """A group may write: only others are strangers."""
    folder.chmod(0o775)
    assert _load().require_gateway().url == "https://apim.example.com"


@pytest.mark.parametrize(
    ("name", "mode", "said"),
    [
        ("config.yaml", 0o666, "the file has mode 0666, others can write it"),
        ("", 0o777, "folder HERE has mode 0777, others can write it"),
        ("", 0o1777, "folder HERE has mode 1777, others can write it"),
    ],
    ids=["the file", "the folder", "a sticky folder"],
)
def test_others_can_write(folder: Path, name: str, mode: int, said: str) -> None:
    (folder / name).chmod(mode)
    assert _said(folder) == f"config.yaml is not used to send: {said}{_REMEDY}"


@pytest.mark.parametrize("name", ["config.yaml", ""], ids=["the file", "the folder"])
def test_another_owner(folder: Path, name: str) -> None:
    _give_away(folder / name)
    what = "the file" if name else "folder HERE"
    flaw = f"belongs to uid {_SOMEBODY}, neither root nor this user (0)"
    assert _said(folder) == f"config.yaml is not used to send: {what} {flaw}{_REMEDY}"


def test_a_link_into_a_folder_of_others(folder: Path, tmp_path: Path) -> None:
    """The folder that counts too is the one in which the file is."""
    there = tmp_path / "there"
    there.mkdir()
    there.chmod(0o777)
    (folder / "config.yaml").rename(there / "config.yaml")
    (folder / "config.yaml").symlink_to(there / "config.yaml")
    assert re.search(r"folder \S+/there has mode 0777", _said(folder))


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    mounts = (["--bind", folder, folder], ["-o", "remount,bind,ro", folder])
    if not _ROOT or any(
        subprocess.run(["mount", *map(str, each)], capture_output=True, check=False).returncode
        for each in mounts
    ):
        pytest.skip("needs root and the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_read_only_mount(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Kubernetes mounts a ConfigMap: mode 0777, and nobody can write it."""
    folder.chmod(0o777)
    monkeypatch.chdir("/")
    with _read_only(folder):
        monkeypatch.chdir(folder)
        assert _load().require_gateway().url == "https://apim.example.com"
        monkeypatch.chdir("/")


@pytest.mark.parametrize("how", ["--config", "the variable"])
def test_a_named_file_is_the_users_choice(folder: Path, how: str) -> None:
    folder.chmod(0o777)
    found = (
        _load(config="config.yaml")
        if how == "--config"
        else _load(CANCEL_WORKER_CONFIG="config.yaml")
    )
    assert found.require_gateway().url == "https://apim.example.com"


def test_without_the_gateway(folder: Path) -> None:
    """What sends nothing uses the file wherever it is."""
    folder.chmod(0o777)
    assert (_load().source, _load().gateway is not None) == ("config.yaml", True)
