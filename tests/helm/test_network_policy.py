"""Who reaches whom, by the rendered NetworkPolicies as Kubernetes defines them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.chart import SETS, Object, Values, render

Labels = dict[str, str]
COMPONENT = "app.kubernetes.io/component"


def _matches(selector: Object, labels: Labels) -> bool:
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def _is_peer(peer: Object, labels: Labels, namespace: str, own: str) -> bool:
    if "namespaceSelector" in peer:
        if not _matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace}):
            return False
    elif namespace != own:
        return False
    return _matches(peer.get("podSelector", {}), labels)


def _names(port: Object, number: int) -> bool:
    first = int(port["port"])
    last = int(port["endPort"]) if "endPort" in port else first
    return port.get("protocol") == "TCP" and first <= number <= last


def reaches(
    objects: list[Object], labels: Labels, to: Labels, port: int, namespace: str = "prod"
) -> bool:
    """Whether a pod may connect to another one of the namespace `prod`.

    https://kubernetes.io/docs/concepts/services-networking/network-policies/: a pod that no policy
    selects is open, one that is selected takes what any of its policies allows.
    """
    policies = [
        o["spec"]
        for o in objects
        if o["kind"] == "NetworkPolicy" and _matches(o["spec"]["podSelector"], to)
    ]
    rules = [rule for policy in policies for rule in policy["ingress"]]
    return not policies or any(
        any(_names(p, port) for p in rule["ports"])
        and any(_is_peer(peer, labels, namespace, "prod") for peer in rule["from"])
        for rule in rules
    )


def _pods(objects: list[Object]) -> dict[str, Labels]:
    return {
        o["metadata"]["name"].rpartition("-")[2]: o["spec"]["template"]["metadata"]["labels"]
        for o in objects
        if o["kind"] in ("Deployment", "StatefulSet")
    }


STRANGER: Labels = {"app": "web"}
CLIENT: Labels = {"gc-bootstrap/client": "true"}
PROMETHEUS: Labels = {"app.kubernetes.io/name": "prometheus"}
AGENT, SCHEDULER, DASHBOARD = 8791, 8786, 8787
DASK = (9000, 9050, 9099)


def test_only_the_scheduler_reaches_the_control_port() -> None:
    objects = render({"pools": {"gpu": {}}})
    pods = _pods(objects)
    for to in ("default", "gpu"):
        reached_by = {n for n, labels in pods.items() if reaches(objects, labels, pods[to], AGENT)}
        assert reached_by == {"scheduler"}
        for labels in (STRANGER, CLIENT, PROMETHEUS):
            assert not reaches(objects, labels, pods[to], AGENT)
    # Another cluster's scheduler in the same namespace is a stranger, too.
    other = _pods(render({}, name="other"))["scheduler"]
    assert not reaches(objects, other, pods["default"], AGENT)


def test_members_reach_one_anothers_dask_ports_and_nobody_else_does() -> None:
    objects = render({"pools": {"gpu": {}}})
    pods = _pods(objects)
    for labels in pods.values():
        for to in ("default", "gpu"):
            assert all(reaches(objects, labels, pods[to], port) for port in DASK)
    assert reaches(objects, pods["gpu"], pods["scheduler"], SCHEDULER)
    assert not reaches(objects, pods["gpu"], pods["scheduler"], DASHBOARD)
    for labels in (STRANGER, CLIENT, PROMETHEUS):
        assert not any(reaches(objects, labels, pods["gpu"], port) for port in DASK)


def test_clients_reach_the_scheduler_where_they_are_allowed_to() -> None:
    objects = render({})
    scheduler = _pods(objects)["scheduler"]
    (test,) = [o["metadata"]["labels"] for o in objects if o["kind"] == "Pod"]
    assert reaches(objects, test, scheduler, SCHEDULER)
    for port in (SCHEDULER, DASHBOARD):
        assert reaches(objects, CLIENT, scheduler, port)
        assert not reaches(objects, CLIENT, scheduler, port, namespace="other")
        assert not reaches(objects, STRANGER, scheduler, port)
    closed = render({"networkPolicy": {"clients": []}})
    assert not reaches(closed, CLIENT, scheduler, SCHEDULER)
    assert reaches(closed, test, scheduler, SCHEDULER)  # `helm test` works with any clients


def test_prometheus_reaches_metrics_where_a_monitor_is_on() -> None:
    objects = render(SETS["monitored"])
    pods = _pods(objects)
    for to, port in (("default", AGENT), ("default", 9099), ("scheduler", DASHBOARD)):
        assert reaches(objects, PROMETHEUS, pods[to], port, namespace="monitoring")
        assert not reaches(objects, STRANGER, pods[to], port)
        assert not reaches(render({}), PROMETHEUS, pods[to], port, namespace="monitoring")


def test_releases_of_one_cluster_are_members_of_it() -> None:
    cluster: Values = {"cluster": {"name": "research"}}
    objects = render({**cluster, "scheduler": {"enabled": False}}, name="pools")
    (agent,) = _pods(objects).values()
    scheduler = _pods(render(cluster, name="dask"))["scheduler"]
    assert reaches(objects, scheduler, agent, AGENT)
    assert not reaches(objects, scheduler, agent, AGENT, namespace="other")
    cluster["cluster"]["namespaces"] = ["other"]
    objects = render({**cluster, "scheduler": {"enabled": False}}, name="pools")
    assert reaches(objects, scheduler, agent, AGENT, namespace="other")
    assert not reaches(objects, scheduler, agent, AGENT, namespace="third")


def test_a_published_dashboard_is_reached_from_outside() -> None:
    objects = render({"scheduler": {"ingress": {"enabled": True}}})
    scheduler = _pods(objects)["scheduler"]
    assert reaches(objects, STRANGER, scheduler, DASHBOARD, namespace="ingress-nginx")
    assert not reaches(objects, STRANGER, scheduler, SCHEDULER, namespace="ingress-nginx")


def test_without_policies_all_is_open() -> None:
    objects = render(SETS["open"])
    assert reaches(objects, STRANGER, _pods(objects)["default"], AGENT)


@pytest.mark.parametrize("discovery", ["kubernetes", "dns"])
def test_restricted_egress_keeps_dns_and_the_api(discovery: str) -> None:
    objects = render({"discovery": discovery, **SETS["restricted-egress"]})
    policies: dict[str, Any] = {
        o["spec"]["podSelector"]["matchLabels"][COMPONENT]: o["spec"]
        for o in objects
        if o["kind"] == "NetworkPolicy"
    }
    open_ports = {
        component: {p["port"] for rule in spec["egress"] if "to" not in rule for p in rule["ports"]}
        for component, spec in policies.items()
    }
    api = {443, 6443} if discovery == "kubernetes" else set()
    assert open_ports == {"scheduler": {53} | api, "agent": {53}}
    for spec in policies.values():
        assert spec["policyTypes"] == ["Ingress", "Egress"]
    # By default nothing is said about egress: tasks read their data from anywhere.
    for obj in render({}):
        if obj["kind"] == "NetworkPolicy":
            assert obj["spec"]["policyTypes"] == ["Ingress"]
