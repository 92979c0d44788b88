"""The gateway's keys: where they come from, and the files that may hold them.

Stands apart because nothing here may repeat what it read, nor a path that could not be opened:
somebody may have written the key itself where its file belongs.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterable

from msgspec import Struct

from worker.config.kinds import UnfitError
from worker.config.places import Place, raise_any
from worker.errors import Finding
from worker.gateway.token import Credentials
from worker.model import Secret

_LONGEST = 4096  # bytes of a key
_OTHERS = 0o027  # whoever else may reach the file, and a group that may write it
_KUBERNETES = "in Kubernetes set fsGroup and defaultMode: 0440"


class KeySource(Struct, frozen=True):
    """Where one key comes from."""

    option: str  # access_key or secret_key
    variable: Secret | None = None  # the key itself, from the environment; it wins over the file
    file: str | None = None
    place: Place | None = None  # that names the file

    @property
    def name(self) -> str:
        """The variable that may hold the key itself."""
        return f"CANCEL_WORKER_GATEWAY_{self.option.upper()}"

    @property
    def used(self) -> Place:
        """Where the key that counts is given."""
        return Place(self.name) if self.place is None or self.variable is not None else self.place

    @property
    def missing(self) -> str | None:
        """How to give the key, when nothing does."""
        if self.variable is not None or self.file is not None:
            return None
        return f"gateway.{self.option}_file: name a file that holds it, or set {self.name}"

    def read(self) -> Secret:
        """The key; UnfitError when it cannot be used."""
        if self.variable is not None:
            return _fit(self.variable.reveal())
        return read_secret(self.file or "")


def read_credentials(
    access_key: KeySource, secret_key: KeySource, guarded: Iterable[tuple[str, Place]] = ()
) -> Credentials:
    """Both keys, read once; InvalidInputError with everything that is wrong with either.

    guarded are files that somebody else reads and that need the same protection.
    """
    findings: list[Finding] = []
    found: list[Secret] = []
    for source in (access_key, secret_key):
        try:
            found.append(source.read())
        except UnfitError as error:
            findings.append(source.used.finding(error))
    for path, place in guarded:
        try:
            os.close(_opened(path))
        except UnfitError as error:
            findings.append(place.finding(error))
    raise_any(findings)
    return Credentials(*found)


def read_secret(path: str) -> Secret:
    """The text of a secret file, one newline at its end left out; UnfitError when unusable."""
    descriptor = _opened(path)
    with os.fdopen(descriptor, "rb") as file:
        try:
            data = file.read(_LONGEST + 2)
        except OSError as error:
            raise UnfitError(f"cannot be read ({error.strerror})") from None
    return _fit(data.decode("latin-1").removesuffix("\n"))


def _opened(path: str) -> int:
    """A descriptor of the file, links followed, its protection checked."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a usable path"
        remedy = "give the path of a file that this user can read"
        raise UnfitError(f"the file cannot be opened ({reason})", remedy) from None
    try:
        _check_protection(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_protection(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnfitError(f"{path} is not a regular file", "give a file that holds the key")
    command = f"chmod o-rwx,g-w {shlex.quote(path)}"
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS:
        problem = f"{path} has mode {mode:04o}, others can reach it or its group can write it"
        raise UnfitError(problem, f"{command}; {_KUBERNETES}")
    user = os.geteuid()
    if status.st_uid not in (0, user):
        problem = f"{path} belongs to uid {status.st_uid}, neither root nor this user ({user})"
        remedy = f"chown {user} {shlex.quote(path)} and {command}; {_KUBERNETES}"
        raise UnfitError(problem, remedy)


def _fit(text: str) -> Secret:
    """A key that a header can carry; the messages repeat nothing of it."""
    if not text:
        raise UnfitError("the key is empty", "write the key alone, on one line")
    if len(text) > _LONGEST:
        raise UnfitError(f"the key is longer than {_LONGEST} bytes", "write the key alone")
    if not re.fullmatch("[!-~]+", text):
        problem = "the key holds a space, a control character or one outside ASCII"
        raise UnfitError(problem, "write the key alone, on one line that ends with LF")
    return Secret(text)
