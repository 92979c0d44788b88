"""Jobs that are accepted: what comes of them, and that nothing of the list is lost or altered."""

from __future__ import annotations

import hashlib
from itertools import permutations
from pathlib import Path

import pytest

from tests.job.desk import Desk, ListSheet
from worker.errors import Finding, InvalidInputError
from worker.job.plan import Forecast, Row, forecast, out_of_reach, read_job
from worker.job.schema import Abort, Job, JobLimits, NoRate, Source

HEAD = "name: a\norgId: o1\nscope: all_cached\n"
JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))


def test_whole_job(desk: Desk) -> None:
    """Every key that a job may have arrives, in its unit."""
    job = (
        "name: nightly-cleanup\nreason: |\n  CHG-1042\n  firmware\norgId: o1\nscope: all_cached\n"
        "devices: [{assetId: a1}]\n"
        "limits: {max_devices: 20000, min_devices: 1, max_commands: 5000, concurrency: 16,"
        " rate: 600/m, deadline: 45m}\n"
        "verify: all\nabort: {failed: 2.5%, min_sample: 10, consecutive: 3}\n"
    )
    expected = Job(
        name="nightly-cleanup",
        reason="CHG-1042\nfirmware\n",
        orgId="o1",
        scope="all_cached",
        limits=JobLimits(20000, 1, 5000, 16, 10.0, 2700.0),
        verify="all",
        abort=Abort(0.025, 10, 3),
        path=str(desk.folder / "job.yaml"),
        sources=(
            Source(str(desk.folder / "job.yaml"), hashlib.sha256(job.encode()).hexdigest(), 1),
        ),
    )
    assert expected == desk.read(job)
    assert [Row(0, 7, 11, None, None, "a1", None)] == desk.sheet.rows


def test_defaults(desk: Desk) -> None:
    """What is not written is not invented; only abort has its documented defaults."""
    job = desk.read(f"{HEAD}devices: [{{assetId: a1}}]\n")
    assert (job.reason, job.limits, job.verify) == (None, JobLimits(), None)
    assert job.abort == Abort(failed=0.05, min_sample=50, consecutive=20)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("off", None),
        ('"off"', None),
        ("{}", Abort()),
        ("{failed: 0%}", Abort(failed=0.0)),
        ("{failed: 100%, consecutive: 1}", Abort(failed=1.0, consecutive=1)),
    ],
)
def test_abort(desk: Desk, written: str, expected: Abort | None) -> None:
    """`abort: off` stands unquoted, although YAML 1.1 reads a false there."""
    assert desk.read(f"{HEAD}devices: [{{assetId: a1}}]\nabort: {written}\n").abort == expected


def test_rate_none_is_written(desk: Desk) -> None:
    """`rate: none` is not the same as no rate."""
    job = desk.read(f"{HEAD}devices: [{{assetId: a1}}]\nlimits: {{rate: none}}\n")
    assert job.limits == JobLimits(rate=NoRate())


def test_every_form(desk: Desk) -> None:
    """Each form of a device becomes rows with the place that named it."""
    desk.read(
        "name: a\norgId: o1\nscope: listed\ndevices:\n"
        '  - {productKey: p, deviceKey: d, commandIds: ["3", "1"]}\n'
        "  - commandIds:\n      - '2'\n    assetId: a1\n"
    )
    expected = [Row(0, 5, 5, "p", "d", None, "3 1"), Row(0, 6, 5, None, None, "a1", "2")]
    assert expected == desk.sheet.rows
    desk.read(f"{HEAD}devices:\n  - {{productKey: p, deviceKeys: [d, e]}}\n")
    expected = [Row(0, 5, 34, "p", "d", None, None), Row(0, 5, 37, "p", "e", None, None)]
    assert expected == desk.sheet.rows


def test_order_of_keys_is_free(desk: Desk) -> None:
    """The same job whatever the order of its keys, in the head and in an entry."""
    parts = ["name: a\n", "orgId: o1\n", "scope: all_cached\n", "devices: [{assetId: x}]\n"]
    for order in permutations(parts):
        desk.read("".join(order))
        assert desk.devices() == [(None, None, "x", None)]
    late = (
        "devices:\n- {deviceKeys: [d, 设 备], productKey: p}\n- {deviceKeys: [f], productKey: q}\n"
    )
    desk.read(HEAD + late)
    expected = [Row(0, 5, 17, "p", "d", None, None), Row(0, 5, 20, "p", "设 备", None, None)]
    assert [*expected, Row(0, 6, 17, "q", "f", None, None)] == desk.sheet.rows


def test_late_keys_of_a_refused_entry_go_nowhere(desk: Desk) -> None:
    """What waited for its productKey is dropped when the entry is refused."""
    devices = "- {deviceKeys: [d], productKey: 1}\n- {deviceKeys: [e], productKey: q}\n"
    desk.refused(f"{HEAD}devices:\n{devices}")
    assert desk.devices() == [("q", "e", None, None)]


@pytest.mark.parametrize(
    "text",
    ["a b", "设备1", "100%2B", "a&commandId=1", "x#/?,;", "e\u0301", "é", "089", "1e5", "a'b"],
)
def test_identity_passes_unchanged(desk: Desk, text: str) -> None:
    """Text that can be seen passes as it is: not trimmed, not decoded, not normalised."""
    desk.read(f'{HEAD}devices: [{{productKey: "{text}", deviceKeys: ["{text}"]}}]\n')
    assert [(text, text, None, None)] == desk.devices()


def test_plain_text_that_yaml_keeps(desk: Desk) -> None:
    """What YAML 1.1 leaves as text may stand unquoted, also where it looks like a number."""
    texts = ["089", "0o17", "1e5", "9e999", "mqtt_01", "00:1B:44:11:3A:B7", "n", "1.2.3"]
    desk.read(f"{HEAD}devices: [{{productKey: p, deviceKeys: [{', '.join(texts)}]}}]\n")
    assert texts == [deviceKey for _, deviceKey, _, _ in desk.devices()]


def test_chunks(desk: Desk) -> None:
    """Rows come in chunks of at most 10,000, all of them, in order."""
    keys = [f"k{i}" for i in range(25_000)]
    desk.read(f"{HEAD}devices: [{{productKey: p, deviceKeys: [{','.join(keys)}]}}]\n")
    assert desk.sheet.chunks == [10_000, 10_000, 5_000]
    assert keys == [deviceKey for _, deviceKey, _, _ in desk.devices()]


def test_unusual_keys_are_warnings(desk: Desk) -> None:
    """A deviceKey outside what EnOS documents passes with a warning; 20 are kept, all counted."""
    job = desk.read(
        f"{HEAD}devices: [{{productKey: p, deviceKey: abc}}, {{productKey: p, deviceKey: abcd}}]\n"
        "devices_from: [{file: f.csv}]\n",
        f_csv="productKey,deviceKey\n" + "".join(f"p,a b{i}\n" for i in range(30)),
    )
    said = ("deviceKey is unusual", "EnOS documents 4 to 64 letters, digits and -_.:")
    path = str(desk.folder)
    expected = [Finding(f"{path}/job.yaml", 4, 11, *said)]
    expected += [Finding(f"{path}/f.csv", line, 1, *said) for line in range(2, 21)]
    assert (tuple(expected), 11) == (job.warnings, job.more_warnings)
    assert len(desk.sheet.rows) == 32


def test_ten_thousand_warnings_lose_nothing(desk: Desk) -> None:
    """Warnings never end the reading: the list is complete however many there are."""
    keys = ",".join(f"é{i}" for i in range(10_500))
    job = desk.read(f"{HEAD}devices: [{{productKey: p, deviceKeys: [{keys}]}}]\n")
    assert (len(desk.sheet.rows), job.more_warnings) == (10_500, 10_480)
    rows = "".join(f"p,é{i}\n" for i in range(10_500))
    job = desk.read(
        f"{HEAD}devices_from: [{{file: f.csv}}]\n", f_csv=f"productKey,deviceKey\n{rows}"
    )
    assert (len(desk.sheet.rows), job.more_warnings) == (10_500, 10_480)


def test_same_device_in_two_sources(desk: Desk) -> None:
    """The same device in two sources is no finding: the plan unites it."""
    job = f"{HEAD}devices: [{{assetId: a}}]\ndevices_from: [{{file: f.csv}}, {{file: g.csv}}]\n"
    read = desk.read(job, f_csv="assetId\na\n", g_csv="assetId\na\nb\n")
    assert [source.rows for source in read.sources] == [1, 1, 2]
    assert [row.source for row in desk.sheet.rows] == [0, 1, 2, 2]


def test_unreadable_job(tmp_path: Path) -> None:
    """A job that cannot be opened is a finding, not a crash."""
    for name in ("missing.yaml", "a\0b", "x" * 300, "."):
        with pytest.raises(InvalidInputError):
            read_job(tmp_path / name, ListSheet())


@pytest.mark.parametrize("path", JOBS, ids=[path.stem for path in JOBS])
def test_examples(path: Path) -> None:
    """The example jobs are accepted without a warning."""
    sheet = ListSheet()
    job = read_job(path, sheet)
    assert (job.name, job.warnings) == (path.stem, ())
    assert sum(source.rows for source in job.sources) == len(sheet.rows) > 0


def test_forecast() -> None:
    """The rate bounds a run, else the replies that are waited for; none bounds nothing to do."""
    assert forecast(1000, 1000, 0, rate=50.0, concurrency=16) == Forecast(1000, 0, 20.0)
    assert forecast(1000, 1000, 0, rate=None, concurrency=10) == Forecast(1000, 0, 10.0)
    assert forecast(1, 50, 0, rate=None, concurrency=16) == Forecast(50, 0, 5.0)
    assert forecast(0, 0, 0, rate=50.0, concurrency=16) == Forecast(0, 0, 0.0)


def test_forecast_of_a_rate_that_is_out_of_reach() -> None:
    """Replies are waited for, whatever rate is asked."""
    assert forecast(1000, 1000, 0, rate=500.0, concurrency=10) == Forecast(1000, 0, 10.0)


def test_forecast_with_verification_and_pauses() -> None:
    """A search for each target at most, and what nothing is sent in."""
    told = forecast(1000, 1000, 1000, rate=50.0, concurrency=16, waits=62.0)
    assert (told, told.requests) == (Forecast(1000, 1000, 102.0), 2000)


@pytest.mark.parametrize(("rate", "concurrency"), [(None, 1), (160.0, 16), (50.0, 16)])
def test_a_rate_in_reach(rate: float | None, concurrency: int) -> None:
    """So many requests at once may come to that."""
    assert out_of_reach(rate, concurrency) is None


def test_a_rate_out_of_reach() -> None:
    """Above concurrency / latency: it says what may be had."""
    assert out_of_reach(161.0, 16) == (
        "161/s is out of reach: 16 requests at once, each answered after 100 ms, are 160/s"
    )
