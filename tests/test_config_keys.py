"""Keys: from the environment or from guarded files, and never in a message."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from worker.config import Gateway, load_settings
from worker.errors import InvalidInputError
from worker.job.document import load_plain

KUBERNETES = "in Kubernetes set fsGroup and defaultMode: 0440"
KEY = "s3cr3t-key"


def gateway(folder: Path, environ: dict[str, str] | None = None, more: str = "") -> Gateway:
    """A gateway whose keys are in the files `access` and `secret` of the folder."""
    file = folder / "config.yaml"
    file.write_text(
        "gateway:\n  url: https://apim.example.com\n"
        f"  access_key_file: access\n  secret_key_file: secret\n{more}"
    )
    return load_settings(
        load_plain, {"HOME": "/h", **(environ or {})}, config=str(file)
    ).require_gateway()


def secret(path: Path, content: bytes = KEY.encode(), mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def refused(found: Gateway, folder: Path) -> list[str]:
    with pytest.raises(InvalidInputError) as caught:
        found.credentials()
    assert KEY not in str(caught.value) + repr(found)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640, 0o750])
def test_a_guarded_file_is_read(tmp_path: Path, mode: int) -> None:
    """A file that nobody else reaches gives the key, one newline at its end left out."""
    secret(tmp_path / "access", b"a-key\n", mode)
    secret(tmp_path / "secret", KEY.encode(), mode)
    found = gateway(tmp_path).credentials()
    assert (found.access_key.reveal(), found.secret_key.reveal()) == ("a-key", KEY)
    assert KEY not in repr(found)


def test_links_are_followed(tmp_path: Path) -> None:
    """A mounted Kubernetes secret, a link to a link, is read; the target's mode counts."""
    data = tmp_path / "..2026"
    data.mkdir()
    for name in ("access", "secret"):
        secret(data / name, mode=0o440)
        (tmp_path / name).symlink_to(f"..data/{name}")
    (tmp_path / "..data").symlink_to("..2026")
    assert gateway(tmp_path).credentials().access_key.reveal() == KEY
    (data / "access").chmod(0o444)
    [said] = refused(gateway(tmp_path), tmp_path)
    assert said.startswith("config.yaml:3:20: gateway.access_key_file: access has mode 0444")


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o620, 0o644, 0o660])
def test_a_file_that_others_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """A file with a bit of 0o027 is refused; the message has the command that mends it."""
    secret(tmp_path / "access", mode=mode)
    secret(tmp_path / "secret")
    assert refused(gateway(tmp_path), tmp_path) == [
        (
            f"config.yaml:3:20: gateway.access_key_file: access has mode {mode:04o},"
            " others can reach it or its group can write it:"
            f" chmod o-rwx,g-w access; {KUBERNETES}"
        )
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """A file that belongs to neither root nor the user may be changed by its owner: refused."""
    os.chown(secret(tmp_path / "access"), 4242, -1)
    secret(tmp_path / "secret")
    assert refused(gateway(tmp_path), tmp_path) == [
        (
            "config.yaml:3:20: gateway.access_key_file: access belongs to uid 4242,"
            " neither root nor this user (0):"
            f" chown 0 access and chmod o-rwx,g-w access; {KUBERNETES}"
        )
    ]


def test_a_private_key_is_guarded_alike(tmp_path: Path) -> None:
    """The client's private key needs the same protection, and so does a file that holds both."""
    secret(tmp_path / "access")
    secret(tmp_path / "secret")
    secret(tmp_path / "client.key", mode=0o644)
    secret(tmp_path / "client.pem", mode=0o644)
    alone = "  client_cert_file: client.pem\n"
    apart = f"{alone}  client_key_file: client.key\n"
    [said] = refused(gateway(tmp_path, more=apart), tmp_path)
    assert said.startswith("config.yaml:6:20: gateway.client_key_file: client.key has mode 0644")
    [said] = refused(gateway(tmp_path, more=alone), tmp_path)
    assert said.startswith("config.yaml:5:21: gateway.client_cert_file: client.pem has mode 0644")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the key is empty: write the key alone, on one line"),
        (b"\n", "the key is empty: write the key alone, on one line"),
        *(
            (
                content,
                (
                    "the key holds a space, a control character or one outside ASCII:"
                    " write the key alone, on one line that ends with LF"
                ),
            )
            for content in (
                f"{KEY}\n\n".encode(),
                f"{KEY}\r\n".encode(),
                f"{KEY} ".encode(),
                f"{KEY}\0".encode(),
                f"\ufeff{KEY}".encode(),
                f"{KEY}ü".encode(),
                b"\xff" + KEY.encode(),
            )
        ),
        (KEY.encode() * 500, "the key is longer than 4096 bytes: write the key alone"),
    ],
)
def test_a_key_that_cannot_be_one_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    """What no header can carry is refused, and nothing of it is repeated."""
    secret(tmp_path / "access")
    secret(tmp_path / "secret", content)
    assert refused(gateway(tmp_path), tmp_path) == [
        f"config.yaml:4:20: gateway.secret_key_file: {said}"
    ]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A missing file, a folder, a FIFO: refused at once, both keys in one go."""
    os.mkfifo(tmp_path / "access", 0o600)
    assert refused(gateway(tmp_path), tmp_path) == [
        (
            "config.yaml:3:20: gateway.access_key_file: access is not a regular file:"
            " give a file that holds the key"
        ),
        (
            "config.yaml:4:20: gateway.secret_key_file:"
            " the file cannot be opened (No such file or directory):"
            " give the path of a file that this user can read"
        ),
    ]
    (tmp_path / "secret").mkdir()
    assert refused(gateway(tmp_path), tmp_path)[1] == (
        "config.yaml:4:20: gateway.secret_key_file: secret is not a regular file:"
        " give a file that holds the key"
    )


def test_a_key_in_place_of_its_file_is_not_repeated(tmp_path: Path) -> None:
    """Somebody who wrote the key where its file belongs does not find it in the log."""
    secret(tmp_path / "secret")
    environ = {"CANCEL_WORKER_GATEWAY_ACCESS_KEY_FILE": KEY}
    found = gateway(tmp_path, environ)
    with pytest.raises(InvalidInputError) as caught:
        found.credentials()
    assert str(caught.value) == (
        "CANCEL_WORKER_GATEWAY_ACCESS_KEY_FILE: the file cannot be opened"
        " (No such file or directory): give the path of a file that this user can read"
    )


def test_keys_of_the_environment(tmp_path: Path) -> None:
    """The variables win over the files, which are not touched, and leave the environment."""
    environ = {
        "CANCEL_WORKER_GATEWAY_URL": "https://apim.example.com",
        "CANCEL_WORKER_GATEWAY_ACCESS_KEY": "a-key",
        "CANCEL_WORKER_GATEWAY_SECRET_KEY": KEY,
        "CANCEL_WORKER_GATEWAY_SECRET_KEY_FILE": "/nowhere",
        "CANCEL_WORKER_GATEWAY_PROXY": f"http://user:{KEY}@proxy:3128",
        "HOME": "/h",
    }
    found = load_settings(load_plain, environ, places=[])
    assert found.warnings == (
        "CANCEL_WORKER_GATEWAY_SECRET_KEY is set: gateway.secret_key_file is not read",
    )
    assert sorted(environ) == [
        "CANCEL_WORKER_GATEWAY_SECRET_KEY_FILE",
        "CANCEL_WORKER_GATEWAY_URL",
        "HOME",
    ]
    keys = found.require_gateway().credentials()
    assert (keys.access_key.reveal(), keys.secret_key.reveal()) == ("a-key", KEY)
    assert KEY not in repr(found)


def test_secrets_leave_the_environment_even_when_it_is_refused() -> None:
    """A mistake elsewhere does not keep the keys in the environment."""
    environ = {"CANCEL_WORKER_GATEWAY_ACCESS_KEY": KEY, "CANCEL_WORKER_DRAIN": "8"}
    with pytest.raises(InvalidInputError):
        load_settings(load_plain, environ, places=[])
    assert environ == {"CANCEL_WORKER_DRAIN": "8"}


def test_an_unfit_key_of_the_environment_is_refused(tmp_path: Path) -> None:
    """A variable that holds no key is named; what it holds is not."""
    environ = {
        "CANCEL_WORKER_GATEWAY_ACCESS_KEY": f"{KEY}\n",
        "CANCEL_WORKER_GATEWAY_SECRET_KEY": f"{KEY} ",
    }
    unfit = "the key holds a space, a control character or one outside ASCII"
    remedy = "write the key alone, on one line that ends with LF"
    assert refused(gateway(tmp_path, environ), tmp_path) == [
        f"CANCEL_WORKER_GATEWAY_ACCESS_KEY: {unfit}: {remedy}",
        f"CANCEL_WORKER_GATEWAY_SECRET_KEY: {unfit}: {remedy}",
    ]


def test_nothing_is_opened_before_a_command_sends(tmp_path: Path) -> None:
    """Loading, and asking what the gateway is, opens no secret file."""
    assert gateway(tmp_path).url == "https://apim.example.com"
