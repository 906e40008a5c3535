"""What one object of the API says about peers. Pure functions of plain dicts.

The API's own definitions are followed (``discovery.k8s.io/v1``, EndpointConditions):

- ``ready``: "a nil value indicates an unknown state. In most cases consumers should interpret this
  unknown state as ready."
- ``serving``: "if nil, consumers should defer to the ready condition". It differs from ``ready``
  only for an endpoint that is terminating, and that one is leaving with and without it.
- ``terminating``: a nil value means "that the endpoint is not terminating".

With ``publishNotReadyAddresses`` an endpoint may be ready and terminating at once: it is leaving.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gc_bootstrap.discovery.kubernetes.options import Family, Options
from gc_bootstrap.errors import PeerError, one_line
from gc_bootstrap.peer import Peer

ZONE_LABEL = "topology.kubernetes.io/zone"
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
"""Annotation of an Endpoints object of more than 1,000 addresses: the others were left out."""

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """What an object says of one peer: which pod it is (its UID), whether it is about to go."""

    pod: str
    leaving: bool
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one object says.

    Parameters
    ----------
    entries
        The peers that it names.
    family
        Of the addresses, where the object holds one family only and the Service may have another.
    problem
        Why it does not say everything, in one line: something in it is no peer, or was left out.
        Empty when all is well.
    """

    entries: dict[Peer, Entry]
    family: Family | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """One endpoint that is ready or leaving, as the object has it."""

    ip: str
    leaving: bool
    pod: str = ""
    pod_name: str = ""
    node: str = ""
    zone: str = ""
    hostname: str = ""
    subdomain: str = ""


class _ProblemError(PeerError):
    """Something in an object is not what is needed; the message says what, without where."""


def read_slice(obj: Json, options: Options) -> Reading:
    """Read an EndpointSlice (``discovery.k8s.io/v1``)."""
    kind = obj.get("addressType")
    family: Family | None = {"IPv4": "ipv4", "IPv6": "ipv6"}.get(str(kind))  # type: ignore[assignment]
    ports = obj.get("ports") or ()
    found = _slice_endpoints(obj)
    return _read("EndpointSlice", obj, found, ports, options, family=family)


def _slice_endpoints(obj: Json) -> Iterator[Found]:
    for endpoint in obj.get("endpoints") or ():
        leaving = is_leaving(endpoint.get("conditions") or {})
        if leaving is None:
            continue
        pod = _pod_of(endpoint)
        yield Found(
            # "These are all assumed to be fungible and clients may choose to only use the first
            # element" (the API reference, Endpoint.addresses).
            ip=endpoint["addresses"][0],
            leaving=leaving,
            pod=pod.get("uid") or "",
            pod_name=pod.get("name") or "",
            node=endpoint.get("nodeName") or "",
            zone=endpoint.get("zone") or "",
            hostname=endpoint.get("hostname") or "",
        )


def is_leaving(conditions: Json) -> bool | None:
    """Whether an endpoint is leaving, by its EndpointConditions; None: it is no peer now."""
    if conditions.get("terminating") is True:
        return True
    return None if conditions.get("ready") is False else False


def read_endpoints(obj: Json, options: Options) -> Reading:
    """Read an Endpoints object (``v1``). It says nothing of pods that are leaving."""
    metadata = obj.get("metadata") or {}
    entries: dict[Peer, Entry] = {}
    problem = ""
    if OVER_CAPACITY in (metadata.get("annotations") or {}):
        problem = f"Endpoints {metadata.get('name')}: over 1,000, the others were left out"
    for subset in obj.get("subsets") or ():
        addresses = (_endpoint_address(address) for address in subset.get("addresses") or ())
        found = [f for f in addresses if options.ip_family in (None, _family(f.ip))]
        part = _read("Endpoints", obj, found, subset.get("ports") or (), options)
        entries.update(part.entries)
        problem = problem or part.problem
    return Reading(entries, problem=problem)


def _endpoint_address(address: Json) -> Found:
    pod = _pod_of(address)
    return Found(
        ip=address["ip"],
        leaving=False,
        pod=pod.get("uid") or "",
        pod_name=pod.get("name") or "",
        node=address.get("nodeName") or "",
        hostname=address.get("hostname") or "",
    )


def read_pod(obj: Json, options: Options) -> Reading:
    """Read a Pod (``v1``)."""
    found = _pod(obj, options)
    spec = obj.get("spec") or {}
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    ports = [
        {**port, "port": port.get("containerPort")}
        for container in containers
        for port in container.get("ports") or ()
    ]
    return _read("Pod", obj, [found] if found else [], ports, options)


def _pod(obj: Json, options: Options) -> Found | None:
    metadata, spec, status = (obj.get(part) or {} for part in ("metadata", "spec", "status"))
    ready = any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in status.get("conditions") or ()
    )
    leaving = bool(metadata.get("deletionTimestamp"))
    # https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-phase
    ended = status.get("phase") in ("Succeeded", "Failed")
    if ended or not (leaving or (ready and status.get("phase") == "Running")):
        return None
    ips = [status.get("podIP"), *(ip.get("ip") for ip in status.get("podIPs") or ())]
    ip = next((ip for ip in ips if ip and options.ip_family in (None, _family(ip))), None)
    if ip is None:
        return None  # it has none yet, or none of the family that was asked for
    return Found(
        ip=ip,
        leaving=leaving,
        pod=metadata.get("uid") or "",
        pod_name=metadata.get("name") or "",
        node=spec.get("nodeName") or "",
        zone=(metadata.get("labels") or {}).get(ZONE_LABEL) or "",
        # Only a pod that names both has a name of its own in DNS.
        hostname=spec.get("hostname") or "",
        subdomain=spec.get("subdomain") or "",
    )


def _pod_of(endpoint: Json) -> Json:
    target = endpoint.get("targetRef") or {}
    return target if target.get("kind") == "Pod" else {}


def _family(ip: str) -> Family:
    return "ipv6" if ":" in ip else "ipv4"


def _read(
    kind: Literal["EndpointSlice", "Endpoints", "Pod"],
    obj: Json,
    found: Iterable[Found],
    ports: Iterable[Json],
    options: Options,
    family: Family | None = None,
) -> Reading:
    """Make peers of what was found. What cannot be one is a problem and not an empty answer."""
    entries: dict[Peer, Entry] = {}
    problem = ""
    number: int | None = None
    names = kind == "EndpointSlice" and family is None  # addressType: FQDN
    for one in found:
        try:
            if number is None:
                number = _port(ports, options)
            host = one.ip if names else _host(one, options)
            peer = Peer.parse(f"[{host}]:{number}" if ":" in host else f"{host}:{number}")
        except PeerError as exc:
            name = (obj.get("metadata") or {}).get("name")
            problem = problem or f"{kind} {name}: {one_line(exc)}"
            continue
        entry = Entry(one.pod, one.leaving, _labels(one))
        before = entries.get(peer)
        if before is not None and merged_leaving([before, entry]) == before.leaving:
            continue
        entries[peer] = entry
    return Reading(entries, family, problem=problem)


def merged_leaving(entries: Iterable[Entry]) -> bool:
    """Whether a peer that several entries name is leaving.

    A pod that is leaving in one of them is leaving: that never turns back. Where two pods have one
    address, the one that stays decides.
    """
    pods: dict[str, bool] = {}
    for entry in entries:
        pods[entry.pod] = pods.get(entry.pod, False) or entry.leaving
    return all(pods.values())


def _labels(found: Found) -> dict[str, str]:
    labels = {"pod": found.pod_name, "node": sys.intern(found.node), "zone": sys.intern(found.zone)}
    return {name: value for name, value in labels.items() if value}


def _port(ports: Iterable[Json], options: Options) -> int:
    if isinstance(options.port, int):
        return options.port
    others = []
    for port in ports:
        if (port.get("protocol") or "TCP") != "TCP":
            continue
        number = port.get("port")
        if port.get("name") == options.port and isinstance(number, int):
            return number
        others.append(f"{port.get('name') or 'unnamed'} {number}")
    there_are = f"there are: {', '.join(others)}" if others else "there are no TCP ports"
    raise _ProblemError(f"no port is named {options.port!r}; {there_are}; set port")


def _host(found: Found, options: Options) -> str:
    if options.address == "ip":
        return found.ip
    domain = f".{options.cluster_domain}" if options.cluster_domain else ""
    if options.address == "pod-dns":
        # kubernetes/dns, docs/specification.md, section 2.3.1; CoreDNS does the same for IPv6.
        dashed = str(ipaddress.ip_address(found.ip)).replace(".", "-").replace(":", "-")
        return f"{dashed}.{options.namespace}.pod{domain}"
    subdomain = found.subdomain or options.service
    if not found.hostname or not subdomain:
        raise _ProblemError(
            f"{found.pod_name or found.ip} has no hostname; pods of a StatefulSet have one,"
            " others need hostname and subdomain in their spec"
        )
    return f"{found.hostname}.{subdomain}.{options.namespace}.svc{domain}"
