"""What the chart renders, for each of the value sets."""

from __future__ import annotations

import json
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import click
import helm_python
import kubernetes_validate
import pytest
import yaml

import gc_bootstrap
from gc_bootstrap import backends
from gc_bootstrap.cli.agent import command as agent
from gc_bootstrap.config import read_pools
from tests.helm.chart import (
    CHART,
    GOLDEN,
    GOLDENS,
    NEWEST,
    OLDEST,
    SETS,
    Object,
    Values,
    chart,
    golden,
    of_kind,
    pod_specs,
    render,
)

ALL = pytest.mark.parametrize("values", SETS.values(), ids=SETS)
CUSTOM = {"ServiceMonitor", "PodMonitor", "ScaledObject"}
"""Kinds of the Prometheus operator and of KEDA: Kubernetes has no schema for them."""


@ALL
def test_lint_has_no_warning(values: Values) -> None:
    report = helm_python.lint(CHART, values, strict=True, kube_version=f"v{OLDEST}.0")
    warnings = [m for m in report["messages"] if m["severity"] > 1]  # 1 is "info"
    assert (warnings, report["errors"]) == ([], [])


def test_package_holds_the_chart_and_nothing_else(tmp_path: Path) -> None:
    archive = helm_python.package(CHART, destination=tmp_path)
    assert Path(archive).name == f"gc-bootstrap-{chart().version}.tgz"
    with tarfile.open(archive) as tar:
        names = {name.removeprefix("gc-bootstrap/") for name in tar.getnames()}
    files = {str(p.relative_to(CHART)) for p in CHART.rglob("*") if p.is_file()}
    assert names == files
    with helm_python.Chart.load(archive) as packed:
        assert packed.render(name="dask").keys() == chart().render(name="dask").keys()


def test_the_chart_is_for_this_version() -> None:
    assert chart().metadata["appVersion"] == gc_bootstrap.__version__
    assert chart().metadata["kubeVersion"] == f">={OLDEST}.0-0"


@pytest.mark.parametrize("name", GOLDENS)
def test_manifests_are_the_golden_ones(name: str) -> None:
    hint = "changed on purpose? run: python -m tests.helm.chart"
    assert golden(name) == (GOLDEN / f"{name}.yaml").read_text(), hint


@cache
def _check(text: str, minor: str) -> None:
    kubernetes_validate.validate(json.loads(text), minor, strict=True)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("minor", [OLDEST, NEWEST])
@ALL
def test_every_object_is_valid_in_kubernetes(values: Values, minor: str) -> None:
    objects = render(values)
    assert len(objects) > 5
    for obj in objects:
        if obj["kind"] not in CUSTOM:
            _check(json.dumps(obj), minor)


@ALL
def test_every_object_has_a_name_of_its_own_and_says_whose_it_is(values: Values) -> None:
    objects = render(values)
    names = [(o["kind"], o["metadata"]["namespace"], o["metadata"]["name"]) for o in objects]
    assert len(set(names)) == len(names)
    for obj in objects:
        labels = obj["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "dask"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"


@ALL
def test_selectors_select_their_own_pods_and_no_others(values: Values) -> None:
    objects = render(values)
    templates = {
        name: o["spec"]["template"]["metadata"]["labels"]
        for name, o in of_kind(objects, "Deployment", "StatefulSet").items()
    }

    def selected(selector: dict[str, str]) -> set[str]:
        return {name for name, labels in templates.items() if selector.items() <= labels.items()}

    for name, workload in of_kind(objects, "Deployment", "StatefulSet").items():
        assert selected(workload["spec"]["selector"]["matchLabels"]) == {name}
    for name, service in of_kind(objects, "Service").items():
        assert selected(service["spec"]["selector"]) == {name}
    for name, budget in of_kind(objects, "PodDisruptionBudget").items():
        assert selected(budget["spec"]["selector"]["matchLabels"]) == {name}


# -- what the scheduler and the agents make of it -------------------------------------------------


def _scheduler_config(objects: list[Object]) -> Any:
    (found,) = [
        o for name, o in of_kind(objects, "ConfigMap").items() if name.endswith("-scheduler")
    ]
    return yaml.safe_load(found["data"]["dask.yaml"])


@ALL
def test_the_schedulers_configuration_is_accepted(values: Values) -> None:
    objects = render(values)
    if not values.get("scheduler", {}).get("enabled", True):
        assert not any(name.endswith("-scheduler") for name in of_kind(objects, "ConfigMap"))
        return
    pools, problems = read_pools(configured=_scheduler_config(objects)["gc-bootstrap"])
    assert problems == []
    assert pools
    for name, pool in pools.items():
        backends.load("discovery", pool.discovery, f"pools.{name}")


def test_each_pool_has_a_discovery_of_its_service_and_its_own_deadline() -> None:
    config = _scheduler_config(render(SETS["everything"]))
    assert config["gc-bootstrap"]["refresh-interval"] == "2s"
    assert config["distributed"]["scheduler"]["allowed-failures"] == 5
    found = {name: pool["discovery"] for name, pool in config["gc-bootstrap"]["pools"].items()}
    assert found == {
        name: {"kubernetes": {"service": f"dask-gc-bootstrap-{name}", "namespace": "prod"}}
        for name in ("cpu", "gpu")
    }
    assert config["gc-bootstrap"]["pools"]["gpu"]["drain"] == {"timeout": "10m"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("dns", {"domain": "dask-gc-bootstrap-default.prod.svc.cluster.local."}),
        (
            "srv",
            {
                "domain": "_agent._tcp.dask-gc-bootstrap-default.prod.svc.k8s.example.com.",
                "record-type": "srv",
            },
        ),
    ],
)
def test_dns_names_are_those_of_the_headless_services(
    values: str, expected: dict[str, str]
) -> None:
    objects = render(SETS[values])
    (pool,) = _scheduler_config(objects)["gc-bootstrap"]["pools"].values()
    assert pool["discovery"]["dns"].items() >= expected.items()
    service = of_kind(objects, "Service")["dask-gc-bootstrap-default"]["spec"]
    assert service["clusterIP"] == "None"
    assert [port["name"] for port in service["ports"]] == ["agent"]  # _agent._tcp
    # An agent that is warming up is not published, one that leaves is, in EndpointSlices, as such.
    assert "publishNotReadyAddresses" not in service


def test_shared_pools_are_found_where_another_release_has_them() -> None:
    objects = render(SETS["scheduler-of-shared-pools"])
    pools = _scheduler_config(objects)["gc-bootstrap"]["pools"]
    assert {name: pool["discovery"]["kubernetes"] for name, pool in pools.items()} == {
        "default": {"service": "dask-default", "namespace": "prod"},
        "gpu": {"service": "dask-gpu", "namespace": "gpus"},
    }
    roles = {(o["metadata"]["namespace"], name) for name, o in of_kind(objects, "Role").items()}
    assert roles == {("prod", "notebooks-scheduler"), ("gpus", "notebooks-scheduler.prod")}
    assert of_kind(objects, "Deployment").keys() == {"notebooks-scheduler"}
    assert "Secret" not in {o["kind"] for o in objects}


@ALL
def test_agents_take_their_arguments(values: Values) -> None:
    for spec in pod_specs(render(values)).values():
        (container,) = spec["containers"]
        arguments = container["args"]
        if arguments[:3] != ["dask", "pool", "agent"]:
            continue
        context: click.Context = agent.make_context("agent", arguments[3:])
        assert context.args == []
        # Dask reads the limits of the container's cgroup: said once, in resources.
        assert context.params["nthreads"] == 0
        assert context.params["memory_limit"] == "auto"
        grace = spec["terminationGracePeriodSeconds"]
        assert grace == context.params["drain_timeout"] + 15


# -- security -------------------------------------------------------------------------------------


@ALL
def test_pods_keep_to_the_restricted_pod_security_standard(values: Values) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, and more."""
    specs = pod_specs(render(values))
    assert specs
    for name, spec in specs.items():
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True, name
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        allowed = {"configMap", "emptyDir", "ephemeral", "secret"}
        assert all(volume.keys() & allowed for volume in spec["volumes"])
        assert spec["enableServiceLinks"] is False
        # Only a scheduler that asks the API, and agents that annotate their pods, need a token.
        asks = name.endswith("-scheduler") and values.get("discovery", "kubernetes") == "kubernetes"
        (container,) = spec["containers"]
        annotates = "--pod-deletion-cost" in container["args"]
        assert spec["automountServiceAccountToken"] is (asks or annotates)


@ALL
def test_agents_hold_nothing_that_attaches_others_unless_it_is_a_cookie(values: Values) -> None:
    halves: dict[str, set[str]] = {}
    for name, spec in pod_specs(render(values)).items():
        (container,) = spec["containers"]
        role = "agent" if container["args"][:3] == ["dask", "pool", "agent"] else name
        secrets = [v["secret"] for v in spec["volumes"] if v["name"] in ("key", "cookie")]
        paths = {item["path"] for secret in secrets for item in secret["items"]}
        halves.setdefault(role, set()).update(paths)
    cookie = any((values.get("cookie") or {}).get(key) for key in ("value", "existingSecret"))
    for role, paths in halves.items():
        if role.endswith("-test"):
            assert paths == set()
        elif cookie:
            assert paths == {"cookie"}
        else:
            assert paths == {"public.pem" if role == "agent" else "private.pem"}


READS = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"]}
ANNOTATES = {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]}


@ALL
def test_schedulers_may_read_endpointslices_and_nothing_else(values: Values) -> None:
    objects = render(values)
    assert not of_kind(objects, "ClusterRole", "ClusterRoleBinding")
    roles = of_kind(objects, "Role")
    schedulers = [role for name, role in roles.items() if "-scheduler" in name]
    for role in schedulers:
        assert role["rules"] == [{**READS, "verbs": ["list", "watch"]}]
    if values.get("discovery", "kubernetes") != "kubernetes":
        assert schedulers == []


@ALL
def test_agents_may_do_nothing_unless_they_annotate_their_pods(values: Values) -> None:
    objects = render(values)
    roles = {n: o for n, o in of_kind(objects, "Role").items() if "-scheduler" not in n}
    assert all(role["rules"] == [ANNOTATES] for role in roles.values())
    bound = {
        name: o["subjects"][0]["name"]
        for name, o in of_kind(objects, "RoleBinding").items()
        if name in roles
    }
    accounts = {
        name: spec["serviceAccountName"]
        for name, spec in pod_specs(objects).items()
        if "--pod-deletion-cost" in spec["containers"][0]["args"]
    }
    assert bound == accounts
    assert roles.keys() == accounts.keys()
    if values is SETS["idle-agents-first"]:
        own = "dask-gc-bootstrap-default"
        assert accounts == {own: own, "dask-gc-bootstrap-named": "mine"}
        (account,) = [name for name in of_kind(objects, "ServiceAccount") if name == own]
        assert account not in ("mine", "default")
    else:
        assert accounts == {}


def test_an_agent_that_annotates_its_pod_is_told_its_name_and_reaches_the_api() -> None:
    objects = render(SETS["idle-agents-first"])
    specs = pod_specs(objects)

    def environ(pool: str) -> list[Any]:
        (container,) = specs[f"dask-gc-bootstrap-{pool}"]["containers"]
        return [e for e in container["env"] if e["name"].startswith("POD_")]

    def field(name: str, path: str) -> Any:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    space = field("POD_NAMESPACE", "metadata.namespace")
    assert environ("default") == [field("POD_NAME", "metadata.name"), space]
    assert environ("named") == [space, {"name": "POD_NAME", "value": "mine"}]
    assert environ("stateful") == []
    policies = of_kind(objects, "NetworkPolicy")
    ports = {
        component: {
            port["port"]
            for rule in policies[f"dask-gc-bootstrap-{component}"]["spec"]["egress"]
            for port in rule["ports"]
        }
        for component in ("agent", "scheduler")
    }
    assert ports["agent"] >= {443, 6443}
    assert not ports["scheduler"] & {443, 6443}  # it asks DNS


def test_probes_are_on_the_agents_own_endpoints() -> None:
    for values, scheme in (({}, "HTTP"), (SETS["tls"], "HTTPS")):
        agents = pod_specs(render(values))["dask-gc-bootstrap-default"]
        (container,) = agents["containers"]
        found = {key: container[key]["httpGet"] for key in container if key.endswith("Probe")}
        assert found == {
            "startupProbe": {"path": "/healthz", "port": "agent", "scheme": scheme},
            "livenessProbe": {"path": "/healthz", "port": "agent", "scheme": scheme},
            "readinessProbe": {"path": "/readyz", "port": "agent", "scheme": scheme},
        }


def test_with_ipv6_agents_listen_on_it() -> None:
    for name, listen in (("ipv6", "[::]:8791"), ("dns", "[::]:8791"), ("defaults", "0.0.0.0:8791")):
        (container,) = pod_specs(render(SETS[name]))["dask-gc-bootstrap-default"]["containers"]
        assert container["args"][3:5] == ["--listen", listen]


def test_monitors_name_ports_that_there_are() -> None:
    objects = render(SETS["monitored"])
    (service_monitor,) = of_kind(objects, "ServiceMonitor").values()
    selector = service_monitor["spec"]["selector"]["matchLabels"]
    (service,) = [
        o
        for o in of_kind(objects, "Service").values()
        if selector.items() <= o["metadata"]["labels"].items()
    ]
    ports = {port["name"] for port in service["spec"]["ports"]}
    assert {e["port"] for e in service_monitor["spec"]["endpoints"]} <= ports
    (pod_monitor,) = of_kind(objects, "PodMonitor").values()
    assert pod_monitor["metadata"]["labels"]["release"] == "prometheus"
    (container,) = pod_specs(objects)["dask-gc-bootstrap-default"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {e["port"] for e in pod_monitor["spec"]["podMetricsEndpoints"]} == ports


def test_a_scheduler_may_have_no_pools() -> None:
    objects = render({"pools": {"default": None}})
    assert _scheduler_config(objects) == {"gc-bootstrap": {"pools": {}}}
    assert not of_kind(objects, "Role")


def test_one_schedulers_pod_ends_before_the_next_begins() -> None:
    spec = of_kind(render({}), "Deployment")["dask-gc-bootstrap-scheduler"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_variables_and_mounts_of_ones_own_replace_the_charts() -> None:
    (container,) = pod_specs(render(SETS["everything"]))["dask-gc-bootstrap-gpu"]["containers"]
    assert [e["value"] for e in container["env"] if e["name"] == "TMPDIR"] == ["/scratch"]
    (container,) = pod_specs(render(SETS["own-volumes"]))["dask-gc-bootstrap-default"]["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert len(mounts) == len(container["volumeMounts"])
    assert mounts["/tmp"] == "data"


def test_notes_say_what_to_do_next() -> None:
    notes = chart().render({}, name="dask", namespace="prod")["gc-bootstrap/templates/NOTES.txt"]
    assert "helm test dask --namespace prod" in notes
    assert "deploy/dask-gc-bootstrap-scheduler -- dask pool status" in notes
    alone = chart().render(SETS["pools-only"], name="dask", namespace="prod")
    notes = alone["gc-bootstrap/templates/NOTES.txt"]
    assert "no scheduler in this release" in notes
    assert "keyPair.existingSecret (dask-keys)" in notes
    with_cookie = {"scheduler": {"enabled": False}, "cookie": {"existingSecret": "mine"}}
    alone = chart().render(with_cookie, name="dask", namespace="prod")
    assert "cookie.existingSecret (mine)" in alone["gc-bootstrap/templates/NOTES.txt"]
