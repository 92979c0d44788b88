"""Which configuration file is used, and whether its folder may be trusted with the keys.

`./config.yaml` names the host that receives the keys, and the current folder is where a person
happens to stand. So a command that needs the gateway uses that file only when nobody else could
have written it. A file that somebody names is that person's own choice.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from worker.config.places import NamedFinding, raise_any

#: Names the configuration file.
VARIABLE = "CANCEL_WORKER_CONFIG"
#: Where the configuration is looked for when nothing names it.
PLACES = (Path("config.yaml"), Path("/etc/cancel-worker/config.yaml"))


def find(config: str | None, named: str, places: Sequence[Path]) -> tuple[Path | None, str | None]:
    """The file to read, and why it may not be used for sending (None: it may).

    `config` is the value of `--config`, `named` that of its variable; a file that is named must
    exist, or InvalidInputError.
    """
    if config is None and not named:
        found = next((path for path in places if _is_there(path)), None)
        if found is None or found.is_absolute():
            return found, None
        return found, next(_distrust(found), None)
    name, who = (named, VARIABLE) if config is None else (config, "--config")
    if not name or not _is_there(Path(name)):
        finding = NamedFinding(who, 0, 0, f"there is no file {name!r}", "name one that exists")
        raise_any([finding])
    return Path(name), None


def _is_there(path: Path) -> bool:
    """Whether there is something; what cannot be looked at is there, or a ceiling would vanish."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True
    return True


def _distrust(path: Path) -> Iterator[str]:
    """Why somebody else may have written the file: its owner or mode, or that of its folder."""
    real = Path(os.path.realpath(path))
    folders = dict.fromkeys((Path.cwd(), real.parent))  # a link leads to another folder
    for each, what in ((real, "the file"), *((folder, f"folder {folder}") for folder in folders)):
        try:
            flaw = _flaw(each)
        except OSError as error:
            flaw = f"cannot be looked at ({error.strerror})"
        if flaw:
            yield (
                f"{path} is not used to send: {what} {flaw}, so it may say where your keys go: "
                f"give --config {path} if it is the right one"
            )


def _flaw(path: Path) -> str | None:
    status = path.stat()
    user = os.geteuid()
    if status.st_uid not in (0, user):
        return f"belongs to uid {status.st_uid}, neither root nor this user ({user})"
    if status.st_mode & stat.S_IWOTH and not os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"has mode {stat.S_IMODE(status.st_mode):04o}, others can write it"
    return None
