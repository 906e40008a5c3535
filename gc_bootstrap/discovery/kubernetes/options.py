"""The options of the discovery, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gc_bootstrap.errors import ConfigError

ResourceName = Literal["endpointslices", "endpoints", "pods"]
Address = Literal["ip", "hostname", "pod-dns"]
Family = Literal["ipv4", "ipv6"]

DEFAULT_PORT_NAME = "agent"

# RFC 1123 section 2.1, as Kubernetes' validation has it (apimachinery, validation.IsDNS1123Label).
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
# IANA service names (RFC 6335 section 5.1) are what containers and, for them, Services may name.
_PORT_NAME = _LABEL


@dataclass(frozen=True, slots=True)
class Options:
    """What to look for, and how to read it; see :class:`KubernetesDiscovery` for each."""

    service: str | None = None
    namespace: str | None = None
    resource: ResourceName = "endpointslices"
    selector: str | None = None
    address: Address = "ip"
    port: int | str = DEFAULT_PORT_NAME
    ip_family: Family | None = None
    cluster_domain: str = "cluster.local"
    kubeconfig: str | None = None
    context: str | None = None

    @classmethod
    def checked(cls, **given: Any) -> Options:
        """Check every value.

        Raises
        ------
        ConfigError
            With all that is wrong, in one line.
        """
        check = _Check(given)
        options = cls(
            service=check.name("service"),
            namespace=check.name("namespace"),
            resource=check.one_of("resource", get_args(ResourceName)),
            selector=check.text("selector"),
            address=check.one_of("address", get_args(Address)),
            port=check.port("port"),
            ip_family=check.one_of("ip_family", get_args(Family)),
            cluster_domain=check.domain("cluster_domain"),
            kubeconfig=check.text("kubeconfig"),
            context=check.text("context"),
        )
        problems = check.problems or _contradictions(options)
        if problems:
            raise ConfigError("; ".join(problems))
        return options


def _contradictions(options: Options) -> list[str]:
    """What is wrong with values that are each right by themselves."""
    problems = []
    if options.resource == "pods":
        if options.selector is None:
            problems.append("selector: missing; pods are found by labels, such as app=dask-agent")
    else:
        if options.service is None:
            problems.append(f"service: missing; {options.resource} belong to a Service")
        if options.selector is not None:
            problems.append("selector: only resource: pods takes one; a Service has its own")
    return problems


class _Check:
    """Collects what is wrong with the values given."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self.problems: list[str] = []

    def _wrong(self, option: str, expected: str) -> None:
        written = option.replace("_", "-")
        self.problems.append(f"{written}: {self._given[option]!r} is not {expected}")

    def text(self, option: str) -> str | None:
        value = self._given.get(option)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # what the short form makes of a name such as 42
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            self._wrong(option, "a text")
            return None
        return value.strip()

    def name(self, option: str) -> str | None:
        value = self.text(option)
        if value is not None and not _LABEL.match(value):
            self._wrong(option, f"the name of a {option}, such as dask-agents")
            return None
        return value

    def one_of(self, option: str, choices: tuple[str, ...]) -> Any:
        value = self._given.get(option)
        if value is not None and (not isinstance(value, str) or value not in choices):
            self._wrong(option, f"one of {', '.join(choices)}")
        return value

    def port(self, option: str) -> int | str:
        value = self._given[option]
        good = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536
        if not good and not (
            isinstance(value, str) and _PORT_NAME.match(value) and not value.isdigit()
        ):
            self._wrong(option, "a port from 1 to 65535, nor the name of one")
        return value  # type: ignore[no-any-return]

    def domain(self, option: str) -> str:
        value = (self.text(option) or "").rstrip(".").lower()
        if value and not all(_LABEL.match(label) for label in value.split(".")):
            self._wrong(option, "a domain such as cluster.local")
        return value
