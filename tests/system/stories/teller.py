"""Tells one story: the starts of its shape, one after another or two at once, and their judge."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.system.stories.files import read_remaining, write_job
from tests.system.stories.judge import Judge, Tally
from tests.system.stories.nursery import Nursery
from tests.system.stories.plot import Plot, Signal
from tests.system.stories.record import Run
from tests.system.stories.theatre import Start, Theatre

_RESUMES = 4  # until nothing is open, besides those that are killed


class Story(NamedTuple):
    """What became of one seed."""

    plot: Plot
    tally: Tally
    wrong: tuple[tuple[int, str], ...]
    told: tuple[str, ...]  # start by start


async def tell(plot: Plot, folder: Path, nursery: Nursery) -> Story:
    """Play one story in an empty folder."""
    theatre = Theatre(plot, folder, nursery)
    async with theatre.open():
        teller = Teller(plot, theatre)
        await teller.tell()
        return Story(plot, teller.judge.tally, tuple(teller.judge.wrong), tuple(teller.told))


class Teller:
    """One story while it is told."""

    def __init__(self, plot: Plot, theatre: Theatre) -> None:
        self.plot = plot
        self.theatre = theatre
        self.judge = Judge(plot, theatre)
        self.told: list[str] = []
        self._signals = iter(plot.signals)
        self._paths: dict[str, Path] = {}
        for job in plot.jobs:
            path, wanted = write_job(theatre.folder, job, list(theatre.fleet.devices))
            self._paths[job.name] = path
            self.judge.wanted[job.name] = wanted

    async def tell(self) -> None:
        shape = self.plot.shape
        await getattr(self, f"_{shape}")()
        if shape == "moved":
            return
        await self._finish()
        runs = self.judge.runs()
        if self.plot.clears and self._benign:
            self.judge.converged(runs)
        if self.plot.asks:
            await self._ask(runs)
        self.judge.at_the_end(runs)

    # ------------------------------------------------------------ shapes

    async def _single(self) -> None:
        await self._run("story-a")

    async def _crowd(self) -> None:
        await self._run("story-a")

    async def _planned(self) -> None:
        flags = ("--preview", "-o", "json") if self.plot.debug else ("-o", "json")
        await self._do("plan", self._paths["story-a"], jobs=["story-a"], flags=flags)
        run = self._newest("story-a")
        if run is not None:
            await self._do("run", "--plan", run.run_id, jobs=["story-a"], signal=self._signal())

    async def _series(self) -> None:
        await self._do("run", *self._paths.values(), jobs=list(self._paths), signal=self._signal())

    async def _together(self) -> None:
        """Two jobs at the same time on one ledger."""
        await self._both("run", [(job, self._paths[job]) for job in ("story-a", "story-b")])
        left = [(job, run.run_id) for job in self._paths if (run := self._open(job))]
        if len(left) == 2:
            await self._both("resume", left)

    async def _twice(self) -> None:
        """One job twice at the same time: one lock a job and ledger, whatever its name."""
        path = self._paths["story-a"]
        await self._both("run", [("story-a", path), ("story-a", path)])
        if (run := self._open("story-a")) is not None:
            await self._both("resume", [("story-a", run.run_id), ("story-a", run.run_id)])

    async def _moved(self) -> None:
        """The ledger's file goes away in the middle of a run."""
        start = await self.theatre.start(
            "run",
            self._paths["story-a"],
            *self._flags("story-a"),
            jobs=["story-a"],
            lost=self.plot.loss,
        )
        await self.theatre.quiet()
        self.judge.after_the_loss(start)
        self.told.append(_line(start, []))

    async def _restored(self) -> None:
        """The ledger is put back to a copy that was made on the way."""
        end = Signal("KILL", "cancel", max(2, self.plot.limit), 0.02)
        keep = asyncio.ensure_future(self.theatre.back_up())
        await self._run("story-a", end)
        keep.cancel()
        run = self._newest("story-a")
        if run is not None and self.theatre.restore():
            await self._do("resume", run.run_id, "--assume-sent", jobs=["story-a"])

    async def _older(self) -> None:
        """An older run is resumed after a newer one of another job."""
        await self._run("story-a", self._signal() or Signal("KILL", "cancel", 1, 0.0))
        await self._run("story-b")
        run = self._newest("story-a")
        if run is not None:
            await self._resume(run)

    async def _remaining(self) -> None:
        await self._run("story-a")
        path = self.theatre.folder / "story-a-ends.remaining"
        if path.exists():
            wanted = read_remaining(path)
            self.judge.wanted[wanted.job] = wanted
            job = path.with_name("again.yaml")
            job.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
            await self._do("run", job, jobs=[wanted.job])

    async def _limit(self) -> None:
        limit = ("--limit", str(self.plot.limit))
        await self._run("story-a", self._signal(), *limit)
        for _ in range(2):
            if (run := self._open("story-a")) is not None:
                await self._resume(run)

    async def _retry(self) -> None:
        await self._run("story-a")
        self._clear()
        if (run := self._newest("story-a")) is not None:
            await self._resume(run, retry=True)

    async def _verify(self) -> None:
        await self._run("story-a")
        if (run := self._newest("story-a")) is not None:
            await self._do("verify", run.run_id, jobs=["story-a"], flags=("-o", "json"))

    # ------------------------------------------------------------ parts of them

    async def _run(self, job: str, signal: Signal | None = None, *flags: str) -> None:
        await self._do("run", self._paths[job], *flags, jobs=[job], signal=signal or self._signal())

    async def _resume(self, run: Run, *, retry: bool = False) -> Start:
        kinds = ("failed", "rejected", "not_found")
        flags = ("--retry", ",".join(kinds)) if retry else ()
        return await self._do(
            "resume",
            run.run_id,
            *flags,
            jobs=[run.job],
            signal=self._signal(),
            retried=frozenset(kinds) if retry else frozenset(),
        )

    async def _both(self, what: str, given: Sequence[tuple[str, str | Path]]) -> None:
        self.judge.before()
        starts = await asyncio.gather(
            *(
                self.theatre.start(
                    what,
                    of,
                    *self._flags(f"{job}-{at}"),
                    jobs=[job],
                    end=self._signal(),
                    linked=self.plot.linked and at > 0,
                )
                for at, (job, of) in enumerate(given)
            )
        )
        await self._over(starts)

    async def _ask(self, runs: list[Run]) -> None:
        """What the other commands say of the runs is what the ledger holds."""
        for run in runs:
            kind = "csv" if run.number % 2 else "ndjson"
            start = await self.theatre.start("report", run.run_id, "-f", kind, jobs=[run.job])
            self.judge.reported(start, kind, run)
        listed = await self.theatre.start("runs", "-o", "json", jobs=[])
        self.judge.listed(listed, runs)

    async def _do(
        self,
        *arguments: str | Path,
        jobs: list[str],
        signal: Signal | None = None,
        flags: tuple[str, ...] | None = None,
        retried: frozenset[str] = frozenset(),
    ) -> Start:
        self.judge.before()
        given = self._flags(jobs[0] if len(jobs) == 1 else "{job}") if flags is None else flags
        start = await self.theatre.start(*arguments, *given, jobs=jobs, end=signal, retried=retried)
        await self._over([start])
        return start

    async def _over(self, starts: Iterable[Start]) -> None:
        starts = list(starts)
        await self.theatre.quiet()
        runs = self.judge.after(starts)
        for start in starts:
            self.told.append(_line(start, runs))

    async def _finish(self) -> None:
        """Resume whatever is open, with what is left of the signals, then in fine weather."""
        if self.plot.clears:
            self._clear()
        for _ in range(_RESUMES):
            left = [r for r in self.judge.runs() if r.started_ms and not self.judge.complete(r)]
            ends = [(await self._resume(run)).signalled for run in left]
            stood = {r.run_id: r.tally for r in left if r.finished}
            now = {r.run_id: r.tally for r in self.judge.runs() if r.run_id in stood}
            if not any(ends) and stood == now and len(stood) == len(left):
                break  # another resume would change nothing either

    def _clear(self) -> None:
        self.theatre.weather.clear = True
        self.theatre.gateway.refused_devices.clear()

    def _flags(self, name: str) -> list[str]:
        flags = ["--yes"] if self.plot.text else ["--yes", "-o", "json"]
        formats = set(self.plot.formats)
        if self.plot.shape == "remaining":
            formats.add("remaining")
        for kind in sorted(formats):
            flags += ["--report", f"{kind}={self.theatre.folder}/{name}-ends.{kind}"]
        return flags

    def _signal(self) -> Signal | None:
        return next(self._signals, None)

    def _newest(self, job: str) -> Run | None:
        found = [run for run in self.judge.runs() if run.job == job]
        return found[-1] if found else None

    def _open(self, job: str) -> Run | None:
        run = self._newest(job)
        return None if run is None or self.judge.complete(run) else run

    @property
    def _benign(self) -> bool:
        """Whether fine weather must settle everything."""
        laws = self.plot.laws
        odd = laws.names in ("none", "other", "wrong", "changing") or laws.foreign_rows
        apart = bool(laws.date_shift) or bool(laws.create_shift) or laws.date_shift is None
        bound = any(job.limits for job in self.plot.jobs)
        return not (odd or apart or bound or laws.newcomers or laws.others or laws.strict_time)


def _line(start: Start, runs: list[Run]) -> str:
    arguments = " ".join(a.rpartition("/")[2] for a in start.arguments if a not in ("--yes", "-o"))
    ends = [
        f"{run.job}: {', '.join(f'{k} {n}' for k, n in sorted(run.tally.items()))}"
        + (f", stop {run.end['stop']['rule']}" if run.end.get("stop") else "")
        for run in runs
        if run.run_id in start.runs
    ]
    how = "killed" if start.killed else f"exit {start.code}"
    sign = f" [{start.signal.kind}]" if start.signal and start.signalled else ""
    return f"{start.number}. {arguments}{sign} -> {how}; {'; '.join(ends) or 'no run'}"
