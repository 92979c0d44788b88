"""The configuration: what is merged, what is refused, and what the example promises."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types
import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.config import Limits, Settings, config_schema, load_settings, resolve_limits
from worker.config.options import KEYS, LATER, Options, build, options
from worker.config.sources import PREFIX, Sources, variable
from worker.errors import InvalidInputError, RefusedError, UsageError
from worker.gateway.transport import TransportSettings
from worker.job.document import load_plain
from worker.job.schema import JobLimits, NoRate
from worker.run.reconcile import LookupRules
from worker.run.retry import RetryRules

EXAMPLE = Path(__file__).parent.parent / "config.example.yaml"
#: Options without a default; in the example they stand behind a #.
WITHOUT_DEFAULT = {
    "gateway.name",
    "gateway.url",
    "gateway.access_key_file",
    "gateway.secret_key_file",
    "gateway.ca_file",
    "gateway.client_cert_file",
    "gateway.client_key_file",
    "gateway.proxy",
    "ledger.url",
    "log.file",
}
URL = "https://apim.example.com"


class Desk:
    """A folder with a configuration file, an environment and flags."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {"HOME": "/home/somebody"}
        self.flags: dict[str, str | None] = {}

    def load(self, text: str | None = None, **more: Any) -> Settings:
        if text is not None:
            (self.folder / "config.yaml").write_text(text, encoding="utf-8")
        places = [self.folder / "config.yaml"]
        return load_settings(
            load_plain, self.environ, flags=self.flags, **{"places": places, **more}
        )

    def refused(self, text: str | None = None, **more: Any) -> list[str]:
        with pytest.raises(InvalidInputError) as caught:
            self.load(text, **more)
        assert caught.value.exit_code == 2
        return str(caught.value).replace(f"{self.folder}/", "").splitlines()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# ---------------------------------------------------------------- defaults and order


def test_defaults(desk: Desk) -> None:
    """Without file, environment and flags everything has the default that the contract states."""
    assert desk.load().public() == {
        "source": "defaults",
        "gateway": None,
        "ledger": {
            "url": "sqlite:////home/somebody/.local/state/cancel-worker/ledger.db",
            "keep_input": True,
        },
        "limits": {
            "concurrency": 16,
            "rate": 50.0,
            "max_devices": 5000,
            "max_commands": None,
            "min_devices": None,
            "deadline": None,
        },
        "ceiling": dict.fromkeys(
            ("concurrency", "rate", "max_devices", "max_commands", "min_devices", "deadline")
        ),
        "retry": {
            "attempts": 4,
            "wait_initial": 0.5,
            "wait_max": 20.0,
            "elapsed": 120.0,
            "ambiguous_window": 60.0,
            "retry_after_max": 300.0,
            "budget": 0.1,
            "budget_reserve": 10,
            "passes": 2,
            "cooldown": 10.0,
        },
        "lookup": {"wait": 2.0, "tries": 2},
        "drain": 8.0,
        "log": {"format": "auto", "level": "info", "file": None},
    }


def test_parts_have_the_same_options() -> None:
    """Retry and look-up have an option for each of their rules, with the rule's own default."""
    for section, rules in ((Options().retry, RetryRules()), (Options().lookup, LookupRules())):
        assert msgspec.to_builtins(section) == msgspec.to_builtins(rules)
        assert section.__struct_fields__ == rules.__struct_fields__
        assert isinstance(section, type(rules))


def test_later_sources_win(desk: Desk) -> None:
    """A variable wins over the file, a flag over both; what is not said elsewhere stays."""
    text = "ledger: {url: 'sqlite:////file.db'}\nlog: {level: debug}\nlimits: {rate: 5/s}\n"
    assert desk.load(text).ledger.url == "sqlite:////file.db"
    desk.environ |= {"CANCEL_WORKER_LEDGER_URL": "sqlite:////env.db"}
    desk.environ |= {"CANCEL_WORKER_LIMITS_RATE": "120/m"}
    assert desk.load().ledger.url == "sqlite:////env.db"
    desk.flags = {"ledger.url": "sqlite:////flag.db", "log.file": None}
    found = desk.load()
    assert (found.ledger.url, found.limits.rate, found.log.level, found.log.file) == (
        "sqlite:////flag.db",
        2.0,
        "debug",
        None,
    )


def test_search_order(desk: Desk) -> None:
    """--config wins over the variable, that over the known places, the first of those counts."""
    first, second, third, fourth = (desk.folder / f"{n}.yaml" for n in "abcd")
    for number, path in enumerate((first, second, third, fourth), 1):
        path.write_text(f"drain: {number}s\n")
    places = [desk.folder / "none.yaml", third, fourth]
    found = desk.load(places=places)
    assert (found.source, found.drain) == (str(third), 3.0)
    desk.environ["CANCEL_WORKER_CONFIG"] = str(second)
    assert desk.load(places=places).source == str(second)
    assert desk.load(places=places, config=str(first)).source == str(first)
    desk.environ["CANCEL_WORKER_CONFIG"] = ""
    assert desk.load(places=places).source == str(third)


def test_a_named_file_must_be_there(desk: Desk) -> None:
    """A configuration that somebody names and that is missing is never passed over."""
    assert desk.refused(config="no.yaml") == [
        "--config: there is no file 'no.yaml': name one that exists"
    ]
    desk.environ["CANCEL_WORKER_CONFIG"] = "no.yaml"
    assert desk.refused() == [
        "CANCEL_WORKER_CONFIG: there is no file 'no.yaml': name one that exists"
    ]
    assert desk.refused(config="") == ["--config: there is no file '': name one that exists"]


def test_a_place_that_cannot_be_read_is_not_passed_over(desk: Desk) -> None:
    """A file that is there and cannot be read is an error: its ceiling must not vanish."""
    (desk.folder / "config.yaml").mkdir()
    [said] = desk.refused()
    assert said.startswith("config.yaml:1:1: ")
    loop = desk.folder / "loop.yaml"
    loop.symlink_to(loop)
    [said] = desk.refused(places=[loop])
    assert said.startswith("loop.yaml:1:1: cannot be read")


def test_an_empty_file_is_all_defaults(desk: Desk) -> None:
    """A file of comments changes nothing."""
    empty = desk.load("# nothing\n")
    defaults = desk.load(places=[])
    assert empty.public() == {**defaults.public(), "source": str(desk.folder / "config.yaml")}


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("limit: {}", "1:1: unknown key limit: did you mean limits?"),
        ("rate: 5/s", "1:1: unknown key rate: did you mean limits.rate or ceiling.rate?"),
        (
            "lookup: {pause: 2s}",
            "1:10: unknown key pause: known here: wait, tries",
        ),
        (
            "drain: 8",
            (
                "1:8: drain: 8 is not a duration:"
                " write a whole number with its unit, such as 250ms, 5s, 10m, 2h or 1d"
            ),
        ),
        ("drain: 2h", "1:8: drain: 2h is out of range: write 0s to 1h"),
        ("drain: [8s]", "1:8: drain: not a single value: write one value"),
        ("drain:", "1:7: drain: nothing is written: give a value, or leave the key out"),
        (
            "limits: {rate: 50}",
            (
                "1:16: limits.rate: 50 is not a rate:"
                " write requests per second or minute, such as 50/s or 600/m, or none"
            ),
        ),
        (
            "limits: {rate: 0/s}",
            (
                "1:16: limits.rate: 0/s is not a rate:"
                " write requests per second or minute, such as 50/s or 600/m, or none"
            ),
        ),
        (
            "limits: {concurrency: 0}",
            "1:23: limits.concurrency: 0 is out of range: write a whole number from 1 to 1024",
        ),
        (
            "limits: {concurrency: 1025}",
            "1:23: limits.concurrency: 1025 is out of range: write a whole number from 1 to 1024",
        ),
        (
            "limits: {concurrency: 0x10}",
            (
                "1:23: limits.concurrency: 0x10 is not a whole number:"
                " write a whole number from 1 to 1024"
            ),
        ),
        (
            'limits: {concurrency: "8"}',
            "1:23: limits.concurrency: stands in quotes, so it is text: write it without quotes",
        ),
        (
            'limits: {max_commands: "8"}',
            "1:24: limits.max_commands: stands in quotes, so it is text: write it without quotes",
        ),
        (
            "limits: {max_commands: many}",
            (
                "1:24: limits.max_commands: many is not a whole number:"
                " write a whole number from 1 to 1000000000, or none"
            ),
        ),
        (
            "limits: 5",
            (
                "1:1: limits: not a mapping: write its keys below it"
                " (concurrency, rate, max_devices, max_commands, min_devices, deadline),"
                " or leave it out"
            ),
        ),
        (
            "retry: {budget: 0.1}",
            (
                "1:17: retry.budget: 0.1 is not a share:"
                " write a percentage from 0% to 100%, such as 5%"
            ),
        ),
        (
            "retry: {wait_initial: 30s}",
            (
                "1:23: retry.wait_initial: retry.wait_initial is longer than retry.wait_max:"
                " make it at most as long"
            ),
        ),
        (
            "gateway: {allow_http: yes}",
            "1:23: gateway.allow_http: yes is neither true nor false: write true or false",
        ),
        (
            "gateway: {cancel_all: byid}",
            "1:23: gateway.cancel_all: byid is not known here: write direct or by_id",
        ),
        (
            "gateway: {orgs: o1}",
            "1:17: gateway.orgs: not a list: write [one, two], or [] for none",
        ),
        (
            "gateway: {orgs: [o1, 0123]}",
            "1:22: gateway.orgs: is a number in YAML: write it in quotes",
        ),
        (
            "gateway: {refused_codes: [99500, 0]}",
            (
                "1:34: gateway.refused_codes: 0 is out of range:"
                " write a whole number from 1 to 1000000000"
            ),
        ),
        (
            "gateway: {client_key_file: k.pem}",
            (
                "1:28: gateway.client_key_file: there is no certificate to it:"
                " give gateway.client_cert_file too"
            ),
        ),
        (
            "gateway: {name: yes}",
            "1:17: gateway.name: is true or false in YAML: write it in quotes",
        ),
        (
            "log: {file: ~/worker.log}",
            "1:13: log.file: begins with ~, which is not expanded: write the whole path",
        ),
        ("gateway: {name: ''}", "1:17: gateway.name: is empty: give a value, or leave it out"),
        (
            "gateway: {name: ' a'}",
            (
                '1:17: gateway.name: " a" is not a name:'
                " write printable text without spaces around it, at most 256 characters"
            ),
        ),
        ('log: {file: "a\\x00b"}', "1:13: log.file: holds a control character: remove it"),
        ("log: {file: ''}", "1:13: log.file: is empty: give a path, or leave it out"),
    ],
)
def test_refused(desk: Desk, text: str, said: str) -> None:
    """What the file cannot say is refused with its position and what to write instead."""
    assert desk.refused(text) == [f"config.yaml:{said}"]


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("drain: 8s\ndrain: 9s", "2:1"),
        ("- drain", "1:1"),
        ("drain: &a 8s", "1:8"),
        ("drain: !!str 8s", "1:8"),
        ("limits: {<<: {}}", "1:10"),
        ("drain: 8s\n---\ndrain: 9s", "2:1"),
    ],
)
def test_the_loader_is_strict(desk: Desk, text: str, position: str) -> None:
    """What makes two readings possible is refused, as in a job."""
    assert [line.split(": ")[0] for line in desk.refused(text)] == [f"config.yaml:{position}"]


@pytest.mark.parametrize("path", LATER)
def test_options_of_later_releases_are_refused(desk: Desk, path: str) -> None:
    """An option that is not built yet is refused, in the file and in the environment."""
    *above, key = path.split(".")
    text = f"{above[0]}:\n  {key}: []\n" if above else f"{key}: []\n"
    position = "2:3" if above else "1:1"
    assert desk.refused(text) == [f"config.yaml:{position}: {path}: not supported yet"]
    desk.environ[variable(path)] = "x"
    assert desk.refused("") == [f"{variable(path)}: not supported yet"]


def test_part_of_a_later_option_is_refused(desk: Desk) -> None:
    """The options below one that is not built yet are refused as well."""
    desk.environ["CANCEL_WORKER_NOTIFY_URL"] = URL
    assert desk.refused() == ["CANCEL_WORKER_NOTIFY_URL: not supported yet"]


@pytest.mark.parametrize("path", KEYS)
def test_a_key_in_the_file_is_refused_and_not_repeated(desk: Desk, path: str) -> None:
    """A key that somebody writes into the configuration is refused, and never shown."""
    key = path.partition(".")[2]
    assert desk.refused(f"gateway: {{{key}: s3cr3t}}") == [
        (
            f"config.yaml:1:11: {path}: a key never stands in the configuration:"
            f" give {path}_file, or set {variable(path)} in the environment"
        )
    ]


def test_everything_wrong_is_said_at_once(desk: Desk) -> None:
    """File, variables and flags are all checked before anything is refused."""
    desk.environ |= {"CANCEL_WORKER_DRAIN": "8", "CANCEL_WORKER_LOOKUP_TRIES": "0"}
    desk.flags = {"ledger.url": "ledger.db", "log.level": "loud"}
    unit = "write a whole number with its unit, such as 250ms, 5s, 10m, 2h or 1d"
    text = "gateway: {url: 'http://apim.example.com'}\ndrain: 9\nlookup: {wait: 3}\n"
    assert desk.refused(text) == [
        (
            "config.yaml:1:16: gateway.url: http would show the keys to the network:"
            " write https; for an Edge gateway set gateway.allow_http: true"
        ),
        f"config.yaml:2:8: drain: 9 is not a duration: {unit}",
        f"config.yaml:3:16: lookup.wait: 3 is not a duration: {unit}",
        f"CANCEL_WORKER_DRAIN: 8 is not a duration: {unit}",
        "CANCEL_WORKER_LOOKUP_TRIES: 0 is out of range: write a whole number from 1 to 100",
        "--ledger: is not a URL: write sqlite:////absolute/path/ledger.db",
        "--log-level: loud is not known here: write debug, info, warning or error",
    ]


def test_the_first_twenty_findings(desk: Desk) -> None:
    """A file full of mistakes is answered with the first twenty and the count of the others."""
    desk.environ["CANCEL_WORKER_DRAIN"] = "8"
    said = desk.refused("".join(f"nonsense{n}: 1\n" for n in range(30)))
    assert [line.split(": ")[0] for line in said] == [
        *(f"config.yaml:{n}:1" for n in range(1, 21)),
        "… and 11 more",
    ]


def test_the_loaders_findings_are_counted_too(desk: Desk) -> None:
    """What the YAML loader finds stands beside what the environment holds, and none is lost."""
    desk.environ["CANCEL_WORKER_DRAIN"] = "8"
    said = desk.refused("".join(f"a{n}: &x 1\n" for n in range(30)))
    assert (len(said), said[-1]) == (21, "… and 11 more")


def test_relative_paths_start_at_the_file(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path starts where it is written: the file's folder, else the working folder."""
    elsewhere = desk.folder / "elsewhere"
    elsewhere.mkdir()
    text = "log: {file: a.log}\nledger: {url: 'sqlite:///state/l.db'}\n"
    monkeypatch.chdir(elsewhere)
    found = desk.load(text)
    assert found.log.file == f"{desk.folder}/a.log"
    assert found.ledger.url == f"sqlite:///{desk.folder}/state/l.db"
    desk.flags = {"log.file": "b.log"}
    assert desk.load().log.file == f"{elsewhere}/b.log"


# ---------------------------------------------------------------- the environment


def test_variables_are_named_after_their_path(desk: Desk) -> None:
    """Each option has one variable; lists are separated by commas, empty is unset."""
    desk.environ |= {
        "CANCEL_WORKER_GATEWAY_URL": URL,
        "CANCEL_WORKER_GATEWAY_TIMEOUT_REQUEST": "45s",
        "CANCEL_WORKER_GATEWAY_ORGS": "o1, o2",
        "CANCEL_WORKER_GATEWAY_REFUSED_CODES": "99500,99501",
        "CANCEL_WORKER_LIMITS_RATE": "",
        "CANCEL_WORKER_CEILING_RATE": "none",
        "CANCEL_WORKER_LEDGER_KEEP_INPUT": "false",
        "CANCEL_WORKER_LIMIT_RATE": "",
    }
    found = desk.load()
    assert found.gateway is not None
    assert found.gateway.options.timeout.request == 45.0
    assert found.gateway.options.orgs == ("o1", "o2")
    assert found.gateway.options.refused_codes == (99500, 99501)
    assert (found.limits.rate, found.ceiling.rate) == (50.0, None)
    assert found.ledger.keep_input is False
    assert found.warnings == ()
    assert len({variable(path) for path in options()}) == len(options())


def test_a_path_that_no_record_can_hold(desk: Desk) -> None:
    """A path that is not UTF-8 is refused, or reports and records could not name it."""
    desk.environ["CANCEL_WORKER_LOG_FILE"] = "/var/log/\udcff"
    assert desk.refused() == ["CANCEL_WORKER_LOG_FILE: is not UTF-8: name the file in UTF-8"]


def test_an_unknown_variable_is_a_warning(desk: Desk) -> None:
    """A name that nobody knows changes nothing and is named, with the one that was meant."""
    desk.environ |= {
        "CANCEL_WORKER_LIMITS_RATES": "5/s",
        "CANCEL_WORKER_ZEBRA": "1",
        "CANCEL_WORKER_ACTOR": "ci",
        "CANCEL_WORKER_CONFIG": "",
        "CANCEL_WORKER_PORT": "tcp://10.0.0.1:80",
        "CANCEL_WORKER_PORT_80_TCP_ADDR": "10.0.0.1",
        "CANCEL_WORKER_SERVICE_HOST": "10.0.0.1",
        "OTHER": "1",
    }
    assert desk.load(also_known=["CANCEL_WORKER_ACTOR"]).warnings == (
        (
            "CANCEL_WORKER_LIMITS_RATES is not known and does nothing:"
            " did you mean CANCEL_WORKER_LIMITS_RATE?"
        ),
        "CANCEL_WORKER_ZEBRA is not known and does nothing: config.example.yaml has all options",
    )


# ---------------------------------------------------------------- the gateway


def test_a_command_that_sends_is_told_what_is_missing(desk: Desk) -> None:
    """Without url and keys everything loads, and a command that sends names what to give."""
    found = desk.load("gateway: {secret_key_file: s}\n")
    with pytest.raises(UsageError) as caught:
        found.require_gateway()
    source = desk.folder / "config.yaml"
    assert str(caught.value).splitlines() == [
        f"the gateway is not configured (configuration: {source}):",
        "  gateway.url: write it, or set CANCEL_WORKER_GATEWAY_URL",
        (
            "  gateway.access_key_file: name a file that holds it,"
            " or set CANCEL_WORKER_GATEWAY_ACCESS_KEY"
        ),
    ]


def test_the_gateway_as_its_users_take_it(desk: Desk) -> None:
    """The gateway's settings reach the transport as they were given."""
    found = desk.load(
        f"gateway:\n  url: {URL}:8443/apim/\n  keepalive: 20s\n  ca_file: ca.pem\n"
        "  timeout: {connect: 250ms}\n  proxy: http://proxy:3128\n"
    )
    gateway = found.gateway
    assert gateway is not None
    assert (gateway.name, gateway.url) == ("apim.example.com", f"{URL}:8443/apim")
    transport = gateway.transport(4)
    assert transport.proxy is not None
    assert transport.proxy.reveal() == "http://proxy:3128"
    assert msgspec.structs.replace(transport, proxy=None) == TransportSettings(
        url=f"{URL}:8443/apim",
        connect_timeout=0.25,
        ca_file=f"{desk.folder}/ca.pem",
        keepalive=20.0,
        connections=4,
    )


def test_organizations(desk: Desk) -> None:
    """With gateway.orgs a job for another organization is refused (7); without, any may run."""
    gateway = desk.load(f"gateway: {{url: '{URL}', name: prod, orgs: [o1, o2]}}").gateway
    assert gateway is not None
    gateway.check_org("o2")
    with pytest.raises(RefusedError) as caught:
        gateway.check_org("o3")
    assert (str(caught.value), caught.value.exit_code) == (
        "orgId o3 is not allowed on gateway prod: gateway.orgs has o1, o2",
        7,
    )
    free = desk.load(f"gateway: {{url: '{URL}'}}").gateway
    assert free is not None
    free.check_org("o3")


# ---------------------------------------------------------------- limits


def test_flag_over_job_over_configuration(desk: Desk) -> None:
    """Each limit comes from the flag, else the job, else the configuration."""
    found = desk.load("limits: {concurrency: 8, rate: 10/s, max_devices: 70, deadline: 1h}")
    job = JobLimits(rate=NoRate(), max_devices=60, min_devices=2, max_commands=9)
    assert resolve_limits({"max_devices": "50", "rate": None}, job, found) == (
        Limits(
            concurrency=8,
            rate=None,
            max_devices=50,
            max_commands=9,
            min_devices=2,
            deadline=3600.0,
        ),
        (),
    )
    assert resolve_limits({}, None, found) == (found.limits, ())


def test_nothing_passes_the_ceiling(desk: Desk) -> None:
    """What is above the ceiling is lowered to it, whoever asked, and a note says so."""
    found = desk.load(
        "ceiling: {concurrency: 4, rate: 90/m, max_devices: 100, max_commands: 7,"
        " min_devices: 3, deadline: 45m}\n"
    )
    job = JobLimits(max_devices=101, rate=5.0, min_devices=9)
    limits, notes = resolve_limits({"rate": "none"}, job, found)
    assert limits == Limits(
        concurrency=4,
        rate=1.5,
        max_devices=100,
        max_commands=7,
        min_devices=3,
        deadline=2700.0,
    )
    above = "is above the ceiling,"
    assert notes == (
        f"limits.concurrency of the configuration: 16 {above} 4 is used (ceiling.concurrency)",
        f"--rate: none {above} 90/m is used (ceiling.rate)",
        f"limits.max_devices of the job: 101 {above} 100 is used (ceiling.max_devices)",
        f"limits.min_devices of the job: 9 {above} 3 is used (ceiling.min_devices)",
    )
    within = JobLimits(concurrency=4, rate=1.5, max_devices=100, max_commands=1, deadline=1.0)
    assert resolve_limits({}, within, found) == (
        Limits(
            concurrency=4,
            rate=1.5,
            max_devices=100,
            max_commands=1,
            min_devices=None,
            deadline=1.0,
        ),
        (),
    )


def test_flags_of_limits_are_checked(desk: Desk) -> None:
    """A flag that is no value is refused under its own name, all of them at once."""
    with pytest.raises(InvalidInputError) as caught:
        resolve_limits({"max_devices": "-1", "rate": "5"}, None, desk.load())
    assert str(caught.value).splitlines() == [
        "--max-devices: -1 is not a whole number: write a whole number from 1 to 1000000000",
        (
            "--rate: 5 is not a rate:"
            " write requests per second or minute, such as 50/s or 600/m, or none"
        ),
    ]


# ---------------------------------------------------------------- the ledger's place


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"STATE_DIRECTORY": "/var/lib/cw:/var/lib/b"}, "sqlite:////var/lib/cw/ledger.db"),
        ({"XDG_STATE_HOME": "/s t"}, "sqlite:////s%20t/cancel-worker/ledger.db"),
        ({"XDG_STATE_HOME": "s"}, "sqlite:////h/.local/state/cancel-worker/ledger.db"),
        (
            {"STATE_DIRECTORY": "", "HOME": "/a?b"},
            "sqlite:////a%3Fb/.local/state/cancel-worker/ledger.db",
        ),
    ],
)
def test_where_the_ledger_is(desk: Desk, environ: dict[str, str], url: str) -> None:
    """systemd's folder, else XDG's, else the home; a path never becomes syntax of the URL."""
    desk.environ |= {"HOME": "/h", "XDG_STATE_HOME": "", **environ}
    assert desk.load().ledger.url == url


def test_a_ledger_folder_that_no_record_can_hold(desk: Desk) -> None:
    """A folder that is not UTF-8 is refused, not mangled."""
    desk.environ["STATE_DIRECTORY"] = "/x\udcff"
    assert desk.refused() == ["STATE_DIRECTORY: is not UTF-8: name the folder in UTF-8"]


# ---------------------------------------------------------------- example and schema


def uncommented() -> str:
    """The example with the options that have no default."""
    return re.sub(r"(?m)^( *)#(?=[a-z])", r"\1", EXAMPLE.read_text(encoding="utf-8"))


def written_in(text: str) -> dict[str, Any]:
    """Path and value of everything that the text sets."""
    sources = Sources()
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        sources.read_file(Path(file.name), load_plain)
    assert sources.findings == []
    return sources.values


def test_the_example_shows_every_option_with_its_default() -> None:
    """Every option is in the example, in the order of the types, with the default it has."""
    shown = written_in(EXAMPLE.read_text(encoding="utf-8"))
    assert shown == {p: o.default for p, o in options().items() if p not in WITHOUT_DEFAULT}
    assert set(written_in(uncommented())) == set(options())
    assert build(shown) == Options()


def test_each_option_of_the_example_has_a_comment() -> None:
    """Each line of the example that sets something says what it is."""
    lines = [line for line in uncommented().splitlines() if line and not line.startswith("#")]
    said = [line for line in lines if " # " in line]
    assert [line for line in lines if line not in said] == ["  timeout:", "retry:", "log:"]


def test_the_example_is_valid_by_the_schema() -> None:
    """The schema accepts the example, and refuses what the program refuses."""
    schema = config_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for text in (EXAMPLE.read_text(encoding="utf-8"), uncommented()):
        validator.validate(yaml.safe_load(text))
    wrongs: tuple[dict[str, Any], ...] = (
        {"drain": 8},
        {"limit": {}},
        {"limits": {"rate": "50"}},
        {"limits": {"concurrency": 0}},
        {"limits": {"max_commands": "some"}},
        {"gateway": {"url": "https://user:pw@host"}},
        {"gateway": {"access_key": "x"}},
        {"ledger": {"url": "postgresql://h/db"}},
    )
    for wrong in wrongs:
        assert not validator.is_valid(wrong), wrong


def test_the_schema_describes_every_option() -> None:
    """Every option and section has a description; every default is the one that is used."""
    found: dict[str, Any] = {}

    def walk(node: dict[str, Any], prefix: str) -> None:
        for key, inner in node["properties"].items():
            assert inner["description"], key
            if "properties" in inner:
                assert inner["additionalProperties"] is False
                walk(inner, f"{prefix}{key}.")
            else:
                found[f"{prefix}{key}"] = inner.get("default")

    walk(config_schema(), "")
    assert set(found) == set(options())
    defaults = {path: value for path, value in found.items() if value is not None}
    assert set(found) - set(defaults) == WITHOUT_DEFAULT
    assert written_in(nested(defaults)) == {path: options()[path].default for path in defaults}


def nested(values: dict[str, Any]) -> str:
    """The values by path as a document."""
    root: dict[str, Any] = {}
    for path, value in values.items():
        *above, key = path.split(".")
        section = root
        for name in above:
            section = section.setdefault(name, {})
        section[key] = value
    return json.dumps(root)


def test_the_record_of_the_settings_holds_no_secret(desk: Desk) -> None:
    """What the ledger keeps of the settings is plain JSON without keys and passwords."""
    desk.environ |= {
        "CANCEL_WORKER_GATEWAY_ACCESS_KEY": "s3cr3t-a",
        "CANCEL_WORKER_GATEWAY_SECRET_KEY": "s3cr3t-b",
        "CANCEL_WORKER_GATEWAY_PROXY": "http://user:s3cr3t-c@proxy:3128",
    }
    found = desk.load(f"gateway: {{url: '{URL}', secret_key_file: k}}")
    record = json.dumps(found.public())
    assert json.loads(record)["gateway"] == {
        "name": "apim.example.com",
        "url": URL,
        "orgs": [],
        "allow_http": False,
        "cancel_all": "direct",
        "refused_codes": [],
        "timeout": {"connect": 5.0, "request": 30.0},
        "keepalive": 15.0,
        "ca_file": None,
        "client_cert_file": None,
        "client_key_file": None,
        "proxy": "http://proxy:3128",
    }
    assert "s3cr3t" not in record + repr(found) + str(found.warnings)


# ---------------------------------------------------------------- any text at all

FUZZ = settings(max_examples=100, deadline=None)
NAMES = [*(variable(path) for path in (*options(), *LATER, *KEYS)), "CANCEL_WORKER_CONFIG"]
WORDS = st.one_of(
    st.text(max_size=40),
    st.from_regex(r"(https?|sqlite|postgresql)://[a-z@:/?#%\[\]0-9.\\-]{0,30}", fullmatch=True),
    st.from_regex(r"-?[0-9]{1,15}(ms|s|h|/s|%)?", fullmatch=True),
)


@FUZZ
@given(name=st.sampled_from(NAMES), text=WORDS.map(lambda text: text.replace("\0", "")))
def test_any_variable_may_hold_any_text(name: str, text: str) -> None:
    """Whatever a variable holds is taken and can be recorded, or is refused under its name."""
    assert taken({"HOME": "/h", name: text}) or name in refusal({"HOME": "/h", name: text})


@FUZZ
@given(
    path=st.sampled_from(list(options())),
    text=WORDS,
    style=st.sampled_from(["plain", "quoted", "listed"]),
)
def test_any_option_of_the_file_may_hold_any_text(
    tmp_path_factory: pytest.TempPathFactory, path: str, text: str, style: str
) -> None:
    """Whatever scalar the file holds is taken and can be recorded, or is refused in its place."""
    value = {"plain": text, "quoted": json.dumps(text), "listed": f"[{json.dumps(text)}]"}[style]
    *above, key = path.split(".")
    lines = [f"{'  ' * depth}{name}:" for depth, name in enumerate(above)]
    lines.append(f"{'  ' * len(above)}{key}: {value}")
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    environ = {"HOME": "/h", "CANCEL_WORKER_CONFIG": str(file)}
    assert taken(environ) or refusal(environ).startswith(f"{file}:")


def taken(environ: dict[str, str]) -> bytes:
    """The record of the settings; empty when they are refused."""
    try:
        return msgspec.json.encode(load_settings(load_plain, {**environ}, places=[]).public())
    except UsageError:
        return b""


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(UsageError) as caught:
        load_settings(load_plain, {**environ}, places=[])
    return str(caught.value)


def test_every_variable_has_the_prefix() -> None:
    """All names begin alike, so that an unknown one can be told."""
    assert all(name.startswith(PREFIX) for name in NAMES)
