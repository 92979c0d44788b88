"""One token for everybody: fetched once, renewed ahead, given up on for good."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.gateway.fake_clock import FakeClock
from tests.gateway.fake_transport import FakeTransport, Tries, ok, token_reply
from worker.gateway.exchange import Reply
from worker.gateway.signing import encryption
from worker.gateway.token import Credentials, Token, Tokens
from worker.model import NotSent, Secret

KEYS = Credentials(Secret("AK"), Secret("CANARY-SK"))
DOWN = Reply(sent=False, fault="refused")


class World:
    """Tokens over a fake network, and all that can be seen of them."""

    def __init__(
        self,
        *replies: Reply,
        delays: tuple[float, ...] = (1.0, 2.0, 4.0),
        stops_at: int | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.transport = FakeTransport(self.clock, tokens=list(replies) or [token_reply("T1")])
        self.patience = Tries(self.clock, *delays, stops_at=stops_at)
        self.tokens = Tokens(self.transport, KEYS, self.clock, self.patience, 30.0)

    async def ready(self) -> Token:
        """The token to sign with, once there is one."""
        assert await self.tokens.ready() is None
        assert self.tokens.current is not None
        return self.tokens.current

    @property
    def text(self) -> str | None:
        token = self.tokens.current
        return None if token is None else token.text.reveal()

    @property
    def fetches(self) -> int:
        return len(self.transport.token_requests)


def gives_up(rule: str, message: str) -> NotSent:
    return NotSent("no_token", retryable=False, rule=rule, message=message)


async def test_a_token_is_fetched_as_documented() -> None:
    """Path, body and deadline; no signature headers."""
    world = World()
    assert await world.tokens.ready() is None
    assert world.text == "T1"
    request = world.transport.token_requests[0]
    stamp = world.clock.wall
    assert (request.target, request.headers, request.deadline) == (
        "/apim-token-service/v2.0/token/get",
        {"Content-Type": "application/json"},
        world.clock.monotonic() + 30.0,
    )
    assert json.loads(request.body) == {
        "appKey": "AK",
        "encryption": encryption("AK", stamp, "CANARY-SK"),
        "timestamp": stamp,
    }


async def test_a_hundred_waiters_cause_one_fetch() -> None:
    """Row 20: single flight, at the start and when the life is over."""
    world = World(token_reply("T1"), token_reply("T2"))
    for expected in (1, 2):
        results = await asyncio.gather(*(world.tokens.ready() for _ in range(100)))
        assert (results, world.fetches) == ([None] * 100, expected)
        world.clock.pass_ms(7_200_000)


async def test_renewed_ahead_while_nobody_else_waits() -> None:
    """Row 20: at 80 % of its life one renews it, the others go on with the old one."""
    world = World(token_reply("T1", 100), token_reply("T2", 100))
    await world.tokens.ready()
    world.clock.pass_ms(79_999)
    await world.tokens.ready()
    assert world.fetches == 1
    world.clock.pass_ms(1)
    world.transport.gate.clear()
    renewing = asyncio.ensure_future(world.tokens.ready())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await asyncio.wait_for(world.tokens.ready(), 1) is None
    assert (world.text, world.fetches) == ("T1", 2)
    world.transport.gate.set()
    assert await renewing is None
    assert (world.text, world.fetches) == ("T2", 2)


async def test_a_renewal_ahead_that_fails_is_put_off() -> None:
    """Row 21: the old token is good; one try, then again after half of what is left."""
    world = World(token_reply("T1", 100), DOWN, DOWN, token_reply("T2", 100))
    await world.tokens.ready()
    world.clock.pass_ms(80_000)
    assert await world.tokens.ready() is None
    assert await world.tokens.ready() is None
    assert (world.fetches, world.patience.waited) == (2, [])
    world.clock.pass_ms(10_000)
    assert await world.tokens.ready() is None
    assert (world.fetches, world.text) == (3, "T1")
    world.clock.pass_ms(5_000)
    assert await world.tokens.ready() is None
    assert (world.fetches, world.text) == (4, "T2")


async def test_life_counts_from_before_it_was_asked_for() -> None:
    """A slow token service does not lengthen a life."""
    world = World(token_reply("T1", 100), token_reply("T2", 100))
    world.transport.takes_ms = 60_000
    await world.tokens.ready()
    world.clock.pass_ms(40_000)
    await world.tokens.ready()
    assert world.text == "T2"


@pytest.mark.parametrize(
    ("expire", "life"),
    [
        (7200, 7200),
        ("7200", 7200),
        (7200.5, 7200.5),
        (1, 1),
        (None, 300),
        ("soon", 300),
        ("", 300),
        (0, 300),
        (-1, 300),
        (10**9, 300),
        ("nan", 300),
        ("inf", 300),
        (True, 300),
        ([7200], 300),
    ],
)
async def test_expire(expire: Any, life: float) -> None:
    """A number or a string of one; anything else is taken for five minutes."""
    world = World(token_reply("T1", expire), token_reply("T2"))
    start = world.clock.monotonic()
    await world.tokens.ready()
    assert world.tokens.current is not None
    assert world.tokens.current.expires_at == start + life


async def test_misspelt_status() -> None:
    """The vendor's own sample says `stauts`."""
    data = {"accessToken": "T1", "expire": 7200}
    world = World(ok(stauts=0, data=data))
    assert await world.tokens.ready() is None


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        (DOWN, "the token service was not reached (refused)"),
        (
            Reply(sent=True, fault="request_timeout"),
            "the token service was not reached (request_timeout)",
        ),
        (
            Reply(sent=True, status=200, body=b"{", fault="truncated"),
            "the token service was not reached (truncated)",
        ),
        (Reply(sent=True, status=503), "HTTP 503 without a token"),
        (Reply(sent=True, status=200, body=b"<html>CANARY"), "HTTP 200 without a token"),
        (ok(http=503), "HTTP 503, code None of the token service"),
        (ok(data={"accessToken": "T"}), "HTTP 200, code None of the token service"),
        (token_reply("T1", status=1001), "HTTP 200, code 1001 of the token service"),
        (token_reply("T1", status=1004), "HTTP 200, code 1004 of the token service"),
        (token_reply("T1", status=1005), "HTTP 200, code 1005 of the token service"),
        (token_reply("T1", status="0"), "HTTP 200, code None of the token service"),
        (token_reply("T1", status=False), "HTTP 200, code None of the token service"),
        (token_reply("T1", data=None), "HTTP 200, code 0 of the token service"),
        (token_reply(""), "HTTP 200, code 0 of the token service"),
        (token_reply(None), "HTTP 200, code 0 of the token service"),
        (token_reply(17), "HTTP 200, code 0 of the token service"),
        (token_reply("T1\r\nX: y"), "HTTP 200, code 0 of the token service"),
        (token_reply("T" * 5_000), "HTTP 200, code 0 of the token service"),
    ],
)
async def test_tried_again_until_patience_is_spent(reply: Reply, what: str) -> None:
    """Row 21: one failing fetch is retried for all; spent, it stays so for the whole run."""
    world = World(reply)
    failure = gives_up("no_token", f"no token after 4 tries: {what}")
    assert await asyncio.gather(*(world.tokens.ready() for _ in range(10))) == [failure] * 10
    assert (world.fetches, world.patience.waited) == (4, [1.0, 2.0, 4.0])
    world.transport.tokens = [token_reply("T1")]
    assert (await world.tokens.ready(), world.fetches) == (failure, 4)
    assert world.tokens.current is None


async def test_a_token_after_some_tries() -> None:
    """Row 21: the service comes back; each try has its own encryption."""
    world = World(DOWN, ok(http=503), token_reply("T1"), delays=(0.0, 0.0, 0.0))
    assert await world.tokens.ready() is None
    assert (world.text, world.fetches) == ("T1", 3)
    proofs = {json.loads(r.body)["encryption"] for r in world.transport.token_requests}
    assert len(proofs) == 3


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (1002, "unknown access key (code 1002 of the token service)"),
        (1003, "the secret key does not fit (code 1003 of the token service)"),
    ],
)
@pytest.mark.parametrize("http", [200, 400, 401])
async def test_bad_keys(status: int, message: str, http: int) -> None:
    """Bad keys are not tried again: rule auth."""
    reply = token_reply(None, status=status)
    world = World(Reply(sent=True, status=http, body=reply.body))
    assert await world.tokens.ready() == gives_up("auth", message)
    assert await world.tokens.ready() == gives_up("auth", message)
    assert (world.fetches, world.patience.waited) == (1, [])


async def test_a_redirect_of_the_token_service() -> None:
    """Rows 17 and 18: any redirect stops the run."""
    world = World(Reply(sent=True, status=302))
    message = "the token service answered with a redirect (HTTP 302): check gateway.url"
    assert await world.tokens.ready() == gives_up("redirect", message)
    assert world.fetches == 1


async def test_tls_on_the_way_to_the_token_service() -> None:
    """Row 37: no retry."""
    world = World(Reply(sent=False, fault="tls"))
    message = "TLS failed on the way to the token service: check gateway.url and gateway.ca_file"
    assert await world.tokens.ready() == gives_up("tls", message)
    assert world.fetches == 1


@pytest.mark.parametrize(
    ("header", "waited"),
    [("7", [7.0, 7.0, 7.0]), ("1", [1.0, 2.0, 4.0]), ("301", []), ("9" * 20, [])],
)
async def test_retry_after_of_the_token_service(header: str, waited: list[float]) -> None:
    """Row 26: what it asks for is waited, up to five minutes; more is giving up."""
    world = World(Reply(sent=True, status=429, headers={"retry-after": header}))
    result = await world.tokens.ready()
    assert result is not None
    assert (result.rule, world.patience.waited) == ("no_token", waited)


async def test_stopping() -> None:
    """A run that stops tries no more, and so does everybody who waited."""
    world = World(DOWN, stops_at=1)
    stopping = NotSent("stopping", retryable=False)
    assert await asyncio.gather(*(world.tokens.ready() for _ in range(5))) == [stopping] * 5
    assert world.fetches == 1


async def test_nothing_is_asked_for_once_the_run_stops() -> None:
    """No first try after a stop, and none when the old token dies while it is renewed."""
    world = World(token_reply("T1", 100), DOWN)
    world.patience.stopping = True
    stopping = NotSent("stopping", retryable=False)
    assert await world.tokens.ready() == stopping
    assert world.fetches == 0
    world = World(token_reply("T1", 100), DOWN)
    await world.tokens.ready()
    world.clock.pass_ms(80_000)
    world.transport.takes_ms = 30_000

    def stop() -> None:
        world.patience.stopping = True

    world.transport.before_reply = stop
    assert await world.tokens.ready() == stopping
    assert world.fetches == 2


async def test_a_cut_is_a_stop() -> None:
    """A fetch that the draining run cut off is not tried again."""
    world = World(Reply(sent=True, fault="cut"))
    stopping = NotSent("stopping", retryable=False)
    assert (await world.tokens.ready(), await world.tokens.ready()) == (stopping, stopping)
    assert (world.fetches, world.patience.waited) == (1, [])


async def test_rejected_while_it_is_renewed() -> None:
    """Row 19: a 401 during a renewal ahead that fails; the renewer goes on until there is one."""
    world = World(token_reply("T1", 100), DOWN, DOWN, token_reply("T2", 100))
    await world.tokens.ready()
    old = world.tokens.current
    assert old is not None
    world.clock.pass_ms(80_000)
    world.transport.gate.clear()
    renewing = asyncio.ensure_future(world.tokens.ready())
    await asyncio.sleep(0.01)
    assert world.tokens.refused(old, again=False) == 0
    world.transport.gate.set()
    assert await renewing is None
    assert (world.text, world.fetches, world.patience.waited) == ("T2", 4, [1.0])


async def test_a_life_shorter_than_its_fetch() -> None:
    """A token is used at least once, and a slow service is not asked for ever."""
    world = World(token_reply("T1", 1))
    world.transport.takes_ms = 5_000
    assert await world.tokens.ready() is None
    assert (world.text, world.fetches) == ("T1", 1)


async def test_the_one_who_fetches_is_cancelled() -> None:
    """The next in line takes over."""
    world = World()
    world.transport.gate.clear()
    first = asyncio.ensure_future(world.tokens.ready())
    second = asyncio.ensure_future(world.tokens.ready())
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0)
    world.transport.gate.set()
    assert await second is None
    assert (world.text, world.fetches) == ("T1", 2)


async def test_a_sleep_of_the_machine() -> None:
    """Row 53: wall clock and monotonic clock drift apart by more than a minute."""
    world = World(token_reply("T1"), token_reply("T2"))
    await world.tokens.ready()
    world.clock.wall += 60_000
    await world.tokens.ready()
    assert (world.text, world.fetches) == ("T1", 1)
    world.clock.wall += 1
    await world.tokens.ready()
    assert (world.text, world.fetches) == ("T2", 2)
    world.clock.wall -= 3_600_000
    await world.tokens.ready()
    assert world.fetches == 3
    await world.tokens.ready()
    assert world.fetches == 3


async def test_a_refused_token_is_replaced_once() -> None:
    """Row 19: the first 401 fetches anew; those for the token replaced just sign again."""
    world = World(token_reply("T1"), token_reply("T1"))  # the service gives the same text again
    old = await world.ready()
    old.has_worked = True
    assert world.tokens.refused(old, again=False) == 0
    assert world.tokens.current is None
    assert await asyncio.gather(*(world.tokens.ready() for _ in range(5))) == [None] * 5
    assert world.fetches == 2
    assert world.tokens.refused(old, again=False) == 0  # a late 401 for the old one
    await world.ready()
    assert world.fetches == 2


async def test_fresh_tokens_refused_are_counted_in_a_row() -> None:
    """Row 101: fetched because of a 401 and turned down in its turn, until one has a success."""
    world = World()
    counts = []
    for has_worked in (False, False, False, True, False, False):
        token = await world.ready()
        token.has_worked = has_worked
        counts.append(world.tokens.refused(token, again=False))
    assert counts == [0, 1, 2, 0, 1, 2]
    assert world.fetches == 6


async def test_a_late_success_speaks_for_its_own_token() -> None:
    """Row 101: two fetches of one text are two tokens; an old one's success proves no new one."""
    world = World(token_reply("T1"))
    old = await world.ready()
    assert world.tokens.refused(old, again=False) == 0
    fresh = await world.ready()
    old.has_worked = True
    assert world.tokens.refused(fresh, again=False) == 1


async def test_a_late_success_of_an_old_token_takes_nothing_from_a_new_one() -> None:
    """Row 101: the new token worked, then the old one's last reply comes, then the new one dies."""
    world = World()
    old = await world.ready()
    world.tokens.refused(old, again=False)
    fresh = await world.ready()
    fresh.has_worked = True
    old.has_worked = True
    assert world.tokens.refused(fresh, again=False) == 0


async def test_a_token_that_works_for_others_is_kept() -> None:
    """Row 101: a further 401 of a call fetches none while the token has had a success."""
    world = World()
    token = await world.ready()
    token.has_worked = True
    assert world.tokens.refused(token, again=True) == 0
    assert world.tokens.current is token
    assert world.tokens.refused(token, again=False) == 0  # the first 401 of another call
    token = await world.ready()
    assert world.tokens.refused(token, again=True) == 1  # this one has had no success yet
    await world.ready()
    assert world.fetches == 3


async def test_a_token_renewed_in_time_may_be_refused() -> None:
    """Row 19: only a token fetched because of a 401 is fresh."""
    world = World(token_reply("T1", 100), token_reply("T2", 100))
    await world.ready()
    world.clock.pass_ms(90_000)
    token = await world.ready()
    assert token.text.reveal() == "T2"
    assert world.tokens.refused(token, again=False) == 0


@pytest.mark.parametrize(("has_worked", "counts"), [(False, [0, 1, 2]), (True, [0, 1, 0])])
async def test_a_renewal_is_no_success(has_worked: bool, counts: list[int]) -> None:
    """Row 101: what replaces an unproven token in time is as unproven as it was."""
    world = World(token_reply("T1"), token_reply("T2"), token_reply("T3", 100), token_reply("T4"))
    told = [world.tokens.refused(await world.ready(), again=False) for _ in range(2)]
    token = await world.ready()
    token.has_worked = has_worked
    world.clock.pass_ms(90_000)
    renewed = await world.ready()
    assert renewed.text.reveal() == "T4"
    assert [*told, world.tokens.refused(renewed, again=False)] == counts


async def test_no_secret_shows() -> None:
    """Row 86: no repr holds a key or a token."""
    world = World()
    await world.tokens.ready()
    assert "CANARY" not in repr(KEYS)
    assert "T1" not in repr(world.tokens.current)
