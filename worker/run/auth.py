"""What a 401 (or code 1203) means for the run: the rule `auth`.

A 401 means something for three things, each decided in one place. For the token: whether it is
thrown away (`gateway.token.Tokens.refused`). For its call: the first 401 is free, each further one
is an attempt (`run.executor`; of a search `run.reconcile`). For the run: here.
"""

from __future__ import annotations

from collections.abc import Callable

from worker.model import Device, Evidence, Refused, SearchReply, Stop

_ENOUGH = 5  # targets
_CHECK = "are the keys for this gateway, is this machine's clock right?"


def turned_down(reply: Evidence | SearchReply) -> bool:
    """Whether the gateway did not take the token of this request."""
    return isinstance(reply, Refused) and reply.cause == "token"


class AuthRule:
    """Whether tokens that the gateway turns down stop the run."""

    def __init__(self, open_targets: Callable[[], int | None]) -> None:
        """open_targets: how many are begun and not settled; None: more may begin."""
        self._open_targets = open_targets
        self._devices: set[Device] = set()  # fresh tokens were turned down at their cancels
        self._request_ids: list[str] = []
        self.has_worked = False  # any request of the run had a success

    def judge(self, refused: Refused, device: Device | None) -> Stop | None:
        """The stop that a refusal of a fresh token is a reason for.

        device is the one whose cancel was refused; None: a search was, which never counts.
        """
        if refused.fresh_tokens == 1:  # the first since a success
            self._devices.clear()
            self._request_ids.clear()
        if not refused.fresh_tokens or device is None:
            return None
        self._devices.add(device)
        if refused.requestId:
            self._request_ids.append(refused.requestId)
        count, still_open = len(self._devices), self._open_targets()
        enough = _ENOUGH if still_open is None else min(_ENOUGH, still_open)
        if not self.has_worked:
            enough = 1
        if count < enough:
            return None
        what = "a token that it had just given"
        if count > 1:
            what = (
                f"{refused.fresh_tokens} tokens in a row that it had just given, at cancels of "
                f"{count} targets"
            )
        told = f"the gateway turned down {what}: {_CHECK}"
        said = "; ".join(filter(None, (told, refused.message)))
        return Stop("auth", said, count, enough, tuple(self._request_ids[-5:]))
