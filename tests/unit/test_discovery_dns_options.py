"""What may be written under `dns`, and one line for each thing that may not."""

from __future__ import annotations

from typing import Any

import pytest
from dns.rdatatype import AAAA, A

from gc_bootstrap.backends import load, names
from gc_bootstrap.discovery.dns import DnsDiscovery
from gc_bootstrap.discovery.dns.options import Options
from gc_bootstrap.errors import ConfigError
from gc_bootstrap.peer import Peer


def options_of(value: Any) -> Options:
    found = load("discovery", value, "KEY")
    assert isinstance(found, DnsDiscovery)
    return found._options


def problem(value: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load("discovery", value, "gc-bootstrap.discovery")
    (line,) = caught.value.problems
    assert line.startswith("gc-bootstrap.discovery: ")
    assert "\n" not in line
    return line.removeprefix("gc-bootstrap.discovery: ")


def test_it_ships_by_name() -> None:
    assert "dns" in names("discovery")


def test_the_defaults_are_gen_clusters() -> None:
    ip = options_of("dns:workers.prod")
    assert (ip.record_type, ip.host_type, ip.address_types) == ("ip", "ip", (A,))
    assert (ip.port, ip.lookup_timeout) == (8791, 5.0)
    assert (ip.partial, ip.cache, ip.nameservers) == (False, False, ())
    srv = options_of("dns:_dask._tcp.workers.prod?record-type=srv")
    assert (srv.record_type, srv.host_type) == ("srv", "hostname")


def test_the_short_form_and_the_mapping_say_the_same() -> None:
    text = (
        "dns:workers.prod.?ipv6=both&host-type=hostname&port=9000&lookup-timeout=500ms"
        "&nameservers=10.96.0.10,[fd00::a]:5353&partial=true&partial-ttl=1m&cache=true"
    )
    written = {
        "domain": "workers.prod.",
        "ipv6": "both",
        "host-type": "hostname",
        "port": 9000,
        "lookup-timeout": "500ms",
        "nameservers": ["10.96.0.10", "[fd00::a]:5353"],
        "partial": True,
        "partial-ttl": "1m",
        "cache": True,
    }
    options = options_of(text)
    assert options == options_of({"dns": written})
    assert options.nameservers == (Peer("10.96.0.10", 53), Peer("fd00::a", 5353))
    assert (options.lookup_timeout, options.partial_ttl) == (0.5, 60.0)
    assert options.address_types == (A, AAAA)
    assert options.name.is_absolute()


@pytest.mark.parametrize(
    "domain", ["w", "workers.prod.", "_dask._tcp.workers", "Workers.PROD", "münchen.example"]
)
def test_names_are_accepted(domain: str) -> None:
    assert options_of({"dns": {"domain": domain}}).domain == domain


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("", "is not a DNS name such as workers.prod"),
        (".", "is not a DNS name"),
        (None, "is not a DNS name"),
        (5, "is not a DNS name"),
        (["workers.prod"], "is not a DNS name"),
        ("workers..prod", "has two adjacent dots"),
        ("workers.prod..", "has two adjacent dots"),
        ("..", "is not a DNS name"),
        (".workers", "is not a DNS name"),
        ("workers prod", "is not a DNS name"),
        (" workers", "is not a DNS name"),
        ("workers.prod:8791", "is not a DNS name"),
        ("http://workers.prod", "is not a DNS name"),
        ("-workers.prod", "is not a DNS name"),
        ("workers-.prod", "is not a DNS name"),
        ("*.prod", "is not a DNS name"),
        ("wor\\107ers", "is not a DNS name"),
        ("work\ners", "is not a DNS name"),
        ("a" * 64 + ".prod", "has a label of more than 63 characters"),
        (".".join(["a" * 60] * 5), "is longer than 255 characters"),
        ("10.0.0.5", "is an address and not a DNS name"),
        ("fd00::5", "is an address and not a DNS name"),
    ],
)
def test_names_that_are_no_names_are_refused(domain: Any, expected: str) -> None:
    line = problem({"dns": {"domain": domain}})
    assert line.startswith(f"domain: {' '.join(repr(domain).split())} ")
    assert expected in line


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("record-type", "A", "'A' is not one of ip, srv"),
        ("record-type", True, "True is not one of"),
        ("ipv6", "yes", "'yes' is not one of false, true, both"),
        ("ipv6", 1, "1 is not one of"),
        ("host-type", "name", "'name' is not one of ip, hostname"),
        ("port", 0, "0 is not a port between 1 and 65535"),
        ("port", 65536, "65536 is not a port"),
        ("port", "http", "'http' is not a port"),
        ("port", True, "True is not a port"),
        ("port", 87.5, "87.5 is not a port"),
        ("lookup-timeout", "5 parsecs", "'5 parsecs' is not a duration such as 5s"),
        ("lookup-timeout", 0, "0 is not a duration"),
        ("lookup-timeout", "-1s", "'-1s' is not a duration"),
        ("nameservers", [], "[] is not a list of name servers"),
        ("nameservers", "", "'' is not a list of name servers"),
        ("nameservers", 53, "53 is not a list of name servers"),
        ("nameservers", ["10.0.0.5:99999"], "port 99999 is not between 1 and 65535"),
        ("nameservers", ["10.0.0"], "is not an IPv4 address"),
        ("nameservers", [None], "None is not an address"),
        ("partial", "often", "'often' is neither true nor false"),
        ("partial-ttl", "never", "'never' is not a duration"),
        ("cache", 60, "60 is neither true nor false"),
        ("ttl", 60, "unknown option 'ttl'; there are: cache, domain,"),
    ],
)
def test_a_bad_option_is_refused_with_key_and_value(option: str, value: Any, expected: str) -> None:
    line = problem({"dns": {"domain": "workers.prod", option: value}})
    assert expected in line
    assert line.startswith((f"{option}: ", "unknown option"))


def test_a_port_contradicts_srv() -> None:
    assert "SRV records have their own" in problem("dns:workers.prod?record-type=srv&port=9000")


def test_all_problems_are_said_at_once() -> None:
    line = problem("dns:a..b?port=0&ipv6=maybe")
    assert all(key in line for key in ("domain: 'a..b'", "port: 0", "ipv6: 'maybe'"))


def test_a_missing_name_is_said() -> None:
    assert problem({"dns": {}}) == "option 'domain' is missing"
    assert "domain: '' is not a DNS name" in problem("dns")


def test_its_name_in_logs_is_its_short_form() -> None:
    assert repr(DnsDiscovery("workers.prod")) == "dns:workers.prod"
    assert repr(DnsDiscovery("w", record_type="srv")) == "dns:w?record-type=srv"
