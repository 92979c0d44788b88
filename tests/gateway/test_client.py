"""The gateway's client: what goes out, what comes of it, and how late it is there."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.gateway.fake_clock import FakeClock
from tests.gateway.fake_transport import FakeTransport, Tries, ok, token_reply
from worker.gateway.client import GatewayClient
from worker.gateway.exchange import Reply
from worker.gateway.signing import joined, sign
from worker.gateway.skew import SkewBounds
from worker.gateway.token import Credentials
from worker.model import (
    Ambiguous,
    Answered,
    AssetId,
    CancelAll,
    CancelOne,
    DeviceKey,
    Evidence,
    Moment,
    NotSent,
    Page,
    Refused,
    Secret,
)

DEVICE = DeviceKey("pk 1", "a&b+c")
ALL = CancelAll(DEVICE, "o1")
SPELLED = {"productKey": DEVICE.productKey, "deviceKey": DEVICE.deviceKey}
DENIED = Reply(sent=True, status=401)


class World:
    """A client over a fake network."""

    def __init__(self, *calls: Reply, tokens: list[Reply] | None = None) -> None:
        self.clock = FakeClock()
        self.transport = FakeTransport(self.clock, tokens, list(calls) or None)
        self.client = GatewayClient(
            self.transport,
            Credentials(Secret("AK"), Secret("SK")),
            self.clock,
            Tries(self.clock),
            30.0,
            frozenset({777}),
        )

    async def authorized(self) -> World:
        assert await self.client.authorize() is None
        return self


@pytest.mark.parametrize(
    ("call", "pairs"),
    [
        (ALL, [("productKey", "pk 1"), ("deviceKey", "a&b+c")]),
        (CancelAll(AssetId("a1"), "o1"), [("assetId", "a1")]),
        (CancelOne(AssetId("a1"), "o1", "17"), [("assetId", "a1"), ("commandId", "17")]),
    ],
)
async def test_a_cancel(call: CancelAll | CancelOne, pairs: list[tuple[str, str]]) -> None:
    """One request, all in the query, signed, without a body."""
    world = await World().authorized()
    assert await world.client.cancel(call) == Answered((), None)
    [request] = world.transport.call_requests
    pairs = [("action", "cancel"), ("orgId", "o1"), *pairs]
    url = urlsplit(request.target)
    assert url.path == "/connect-service/v2.1/commands"
    assert parse_qsl(url.query, strict_parsing=True) == pairs
    assert request.headers == {
        "apim-accesstoken": "T1",
        "apim-timestamp": str(world.clock.wall),
        "apim-signature": sign("T1", joined(pairs), b"", world.clock.wall, "SK"),
    }
    assert (request.body, request.deadline) == (b"", world.clock.monotonic() + 30.0)


async def test_a_launched_cancel_is_the_same_request_and_the_same_evidence() -> None:
    """Told by a plain call, after launch returned; a token that was turned down included."""
    for reply in (ok(code=0, data=[]), DENIED, Reply(sent=True, fault="disconnected")):
        awaited, launched = [await World(reply).authorized() for _ in range(2)]
        told: list[Evidence | Exception] = []
        launched.client.launch(ALL, launched.clock.monotonic(), told.append)
        assert told == []
        await asyncio.sleep(0.01)
        assert told == [await awaited.client.cancel(ALL)]
        assert launched.transport.call_requests == awaited.transport.call_requests


async def test_a_bug_in_reading_a_reply_is_told_not_raised() -> None:
    """A plain call from the transport's callback must not raise there."""
    world = await World(Reply(sent=True, status=200, body=None)).authorized()  # type: ignore[arg-type]
    told: list[Evidence | Exception] = []
    world.client.launch(ALL, world.clock.monotonic(), told.append)
    await asyncio.sleep(0.01)
    assert [type(said) for said in told] == [TypeError]


async def test_authorized_only_with_a_token_that_needs_no_renewal() -> None:
    """Before the first token, and from 80 % of its life on, somebody must fetch one first."""
    world = World(tokens=[token_reply("T1", 100)])
    assert not world.client.authorized(world.clock.monotonic())
    await world.authorized()
    assert world.client.authorized(world.clock.monotonic())
    world.clock.pass_ms(81_000)
    assert not world.client.authorized(world.clock.monotonic())


async def test_a_search() -> None:
    """The body is signed byte for byte as the documentation writes it."""
    world = await World(ok(code=0, data=[], pagination={"totalSize": 0})).authorized()
    assert await world.client.search(AssetId("a1"), "o1", 2, 3) == Page((), 0, None)
    [request] = world.transport.call_requests
    body = b'{"expression":"state = 2","pagination":{"pageNo":3,"pageSize":50}}'
    assert request.body == body
    pairs = parse_qsl(urlsplit(request.target).query)
    assert pairs == [("action", "search"), ("orgId", "o1"), ("assetId", "a1")]
    stamp = int(request.headers["apim-timestamp"])
    assert request.headers["apim-signature"] == sign("T1", joined(pairs), body, stamp, "SK")
    assert request.headers["Content-Type"] == "application/json"


async def test_an_empty_command_id_never_widens_a_call() -> None:
    """A lost id is an error, never a cancel of everything."""
    world = await World().authorized()
    with pytest.raises(ValueError, match="has no value"):
        await world.client.cancel(CancelOne(DEVICE, "o1", ""))
    assert world.transport.call_requests == []


async def test_no_two_requests_carry_one_signature() -> None:
    """The same call again within a millisecond gets another timestamp."""
    world = await World().authorized()
    for _ in range(5):
        await world.client.cancel(ALL)
    signatures = {r.headers["apim-signature"] for r in world.transport.call_requests}
    assert len(signatures) == 5


async def test_nothing_is_sent_without_a_token() -> None:
    """Row 21: proven not sent; `authorize` comes first."""
    world = World()
    assert await world.client.cancel(ALL) == NotSent("no_token")
    assert await world.client.search(DEVICE, "o1", 1, 1) == NotSent("no_token")
    assert world.transport.call_requests == []


async def test_a_stale_token() -> None:
    """Row 19: Refused(token), then a fresh one and the same call again."""
    world = World(DENIED, ok(code=0, data=[]), tokens=[token_reply("T1"), token_reply("T2")])
    await world.authorized()
    read = await world.client.cancel(ALL)
    assert read == Refused(401, None, "token", transient=True)
    await world.authorized()
    assert isinstance(await world.client.cancel(ALL), Answered)
    assert [r.headers["apim-accesstoken"] for r in world.transport.call_requests] == ["T1", "T2"]


async def test_fresh_tokens_turned_down() -> None:
    """Row 101: a refusal says how many in a row, those of searches too."""
    world = World(DENIED, ok(code=1203), DENIED, ok(code=0, data=[]), DENIED)
    counts = []
    for kind in ("search", "cancel", "search", "cancel", "cancel"):
        client = (await world.authorized()).client
        search = client.search(DEVICE, "o1", 1, 1) if kind == "search" else None
        read = await (search or client.cancel(ALL))
        counts.append(read.fresh_tokens if isinstance(read, Refused) else None)
    assert counts == [0, 1, 2, None, 0]
    assert len(world.transport.token_requests) == 4


async def test_a_call_turned_down_again() -> None:
    """Row 101: a further 401 fetches no token while the one at hand works for others."""
    world = await World(ok(code=0, data=[]), DENIED).authorized()
    await world.client.cancel(ALL)
    for _ in range(3):
        read = await world.client.cancel(ALL, refused_before=True)
        assert read == Refused(401, None, "token", transient=True)
        page = await world.client.search(DEVICE, "o1", 1, 1, refused_before=True)
        assert page == read
        await world.authorized()
    assert len(world.transport.token_requests) == 1


@pytest.mark.parametrize(
    ("reply", "trusted"),
    [
        (ok(code=0, data=[]), True),
        (ok(code=99404), False),
        (ok(code=99500), False),
        (Reply(sent=True, status=503), False),
    ],
)
async def test_what_proves_a_token(reply: Reply, trusted: bool) -> None:
    """Rows 19, 101: a success with a fresh token, and nothing less, proves it."""
    world = World(DENIED, reply, DENIED)
    await world.authorized()
    await world.client.cancel(ALL)
    await world.authorized()
    await world.client.cancel(ALL)
    read = await world.client.cancel(ALL)
    assert isinstance(read, Refused)
    assert read.fresh_tokens == (0 if trusted else 1)


async def test_configured_codes_reach_the_reading() -> None:
    """Row 28: gateway.refused_codes counts for cancels and searches."""
    world = await World(ok(code=777)).authorized()
    refused = Refused(200, 777, "code_777")
    assert await world.client.cancel(ALL) == refused
    assert await world.client.search(DEVICE, "o1", 1, 1) == refused


async def test_ambiguous_stays_ambiguous() -> None:
    """A method sends once and reads once."""
    world = await World(Reply(sent=True, fault="disconnected")).authorized()
    assert await world.client.cancel(ALL) == Ambiguous("disconnected")
    assert len(world.transport.call_requests) == 1


# ---------------------------------------------------------------- the gateway's clock


def dated(text: str, **members: int) -> Reply:
    return ok({"date": text}, **members, data=[])


def latest(world: World) -> int:
    """The latest that the gateway's clock can read now."""
    return world.client.moment(world.clock.monotonic()).latest_ms


WALL = 1_700_000_000_000  # Tue, 14 Nov 2023 22:13:20 GMT
MONO = 10_000


async def test_skew_is_bounded_by_one_reply() -> None:
    """The Date was true at some moment between sending and receiving, and is cut to seconds."""
    world = await World(dated("Tue, 14 Nov 2023 22:13:20 GMT", code=0)).authorized()
    assert latest(world) == WALL
    world.transport.takes_ms = 300
    await world.client.cancel(ALL)
    assert world.client.skew.bounds == SkewBounds(WALL - MONO - 300, WALL - MONO + 1_000)
    assert latest(world) == WALL + 1_301
    world.clock.pass_ms(5_000)
    assert latest(world) == WALL + 6_301


async def test_skew_is_narrowed_by_more_replies() -> None:
    """The bounds of several replies are intersected; a contradiction starts again."""
    world = await World(
        dated("Tue, 14 Nov 2023 22:13:20 GMT", code=0),
        dated("Tue, 14 Nov 2023 22:13:20 GMT", code=0),
        dated("Tue, 14 Nov 2023 23:13:20 GMT", code=0),
    ).authorized()
    await world.client.cancel(ALL)
    world.clock.pass_ms(900)
    await world.client.cancel(ALL)
    assert world.client.skew.bounds == SkewBounds(WALL - MONO, WALL - MONO + 100)
    await world.client.cancel(ALL)
    hour = WALL + 3_600_000
    assert world.client.skew.bounds == SkewBounds(hour - MONO - 900, hour - MONO + 100)


@pytest.mark.parametrize("date", ["", "today", "Tue, 14 Nov 2023 22:13:20"])
async def test_a_date_that_is_none(date: str) -> None:
    """What cannot be read says nothing."""
    world = await World(dated(date, code=0)).authorized()
    await world.client.cancel(ALL)
    assert world.client.skew.bounds is None


@pytest.mark.parametrize(
    ("date", "takes_ms", "apart_ms"),
    [
        ("Tue, 14 Nov 2023 22:13:20 GMT", 300, 2_000),
        ("Tue, 14 Nov 2023 22:13:22 GMT", 0, 2_000),
        ("Tue, 14 Nov 2023 22:13:23 GMT", 0, 3_000),
        ("Tue, 14 Nov 2023 22:13:17 GMT", 0, 2_000),  # it may have been 22:13:17.999
        ("Tue, 14 Nov 2023 22:13:16 GMT", 0, 3_000),
        ("Tue, 14 Nov 2023 22:13:23 GMT", 5_000, 2_000),  # written at any moment of the 5 s
        ("Tue, 14 Nov 2023 22:33:20 GMT", 0, 1_200_000),
        ("Thu, 16 Nov 2023 22:13:20 GMT", 0, 26 * 3_600_000),  # and no further
    ],
)
async def test_how_far_date_and_the_local_clock_differ(
    date: str, takes_ms: int, apart_ms: int
) -> None:
    """Row 96: the least that explains the reply, 2 s to 26 h in whole seconds; told as it grows."""
    world = await World(dated(date, code=0)).authorized()
    heard: list[int] = []
    world.client.skew.on_apart = heard.append
    world.transport.takes_ms = takes_ms
    for _ in range(2):
        await world.client.cancel(ALL)
    assert world.client.skew.apart_ms == apart_ms
    assert heard == ([apart_ms] if apart_ms > 2_000 else [])


@pytest.mark.parametrize(
    ("ahead_ms", "apart_ms"), [(-600_000, 2_000), (2_000, 2_000), (2_001, 3_000), (60_000, 60_000)]
)
async def test_how_far_a_create_time_is_ahead(ahead_ms: int, apart_ms: int) -> None:
    """Row 96: of the Date of its own reply, in a cancel and in a search."""
    row = {"commandId": "1", "createTime": WALL + ahead_ms, **SPELLED}
    page = {"pageNo": 1, "pageSize": 50, "totalSize": 1}
    date = {"date": "Tue, 14 Nov 2023 22:13:20 GMT"}
    for search in (False, True):
        reply = ok(date, code=0, data=[row], pagination=page)
        world = await World(reply).authorized()
        if search:
            await world.client.search(DEVICE, "o1", 1, 1)
        else:
            await world.client.cancel(ALL)
        assert world.client.skew.apart_ms == apart_ms


async def test_a_difference_that_an_earlier_process_saw() -> None:
    """Row 96: it is kept with the run, and holds for its moments from the beginning."""
    world = await World().authorized()
    world.client.skew.known_apart(8_000)
    moment = world.client.moment(world.clock.monotonic())
    assert moment == Moment(0, WALL, 8_000)
    assert not moment.precedes(WALL + 3_600_000)
    assert Moment(0, WALL).precedes(WALL + 2_001)
    assert not Moment(0, WALL).precedes(WALL + 2_000)


async def test_the_gateway_does_not_sleep_with_the_machine() -> None:
    """Row 53: after a suspend the bound moves on by what the wall clock shows."""
    world = await World(dated("Tue, 14 Nov 2023 22:13:20 GMT", code=0)).authorized()
    await world.client.cancel(ALL)
    world.clock.wall += 600_000
    assert latest(world) == WALL + 601_001
    world.clock.wall -= 1_200_000
    assert latest(world) == WALL + 1_001


@pytest.mark.parametrize(
    ("date", "words"),
    [
        ("Tue, 14 Nov 2023 22:18:32 GMT", "the gateway's clock is 312 s ahead of this machine"),
        ("Tue, 14 Nov 2023 22:08:08 GMT", "the gateway's clock is 312 s behind this machine"),
        ("Tue, 14 Nov 2023 22:13:23 GMT", None),
    ],
)
async def test_a_refusal_names_the_skew(date: str, words: str | None) -> None:
    """Row 40: a 401 and a 99400 say how far the clocks are apart, others do not."""
    for reply, said in [
        (Reply(sent=True, status=401, headers={"date": date}), None),
        (dated(date, code=99400), None),
        (ok({"date": date}, code=99400, msg="bad"), "bad"),
    ]:
        world = await World(reply).authorized()
        read = await world.client.cancel(ALL)
        assert isinstance(read, Refused)
        assert read.message == ("; ".join(filter(None, [said, words])) or None)
    world = await World(dated(date, code=99404)).authorized()
    read = await world.client.cancel(ALL)
    assert isinstance(read, Refused)
    assert read.message is None


async def test_timestamps_are_never_shifted() -> None:
    """Row 40: a measured skew changes no timestamp."""
    world = await World(dated("Tue, 14 Nov 2023 23:13:20 GMT", code=0)).authorized()
    await world.client.cancel(ALL)
    world.clock.pass_ms(5_000)
    await world.client.cancel(ALL)
    assert world.transport.call_requests[1].headers["apim-timestamp"] == str(WALL + 5_000)


async def test_no_secret_in_what_comes_out() -> None:
    """Row 86: evidence holds neither token nor key."""
    for reply in (DENIED, ok(code=99400), Reply(sent=True, status=503), ok(code=0, data=None)):
        world = await World(reply, tokens=[token_reply("CANARY-T")]).authorized()
        assert "CANARY" not in repr(await world.client.cancel(ALL))
        assert json.loads(world.transport.token_requests[0].body)["appKey"] == "AK"
