"""What a person may write for the discovery `kubernetes`, and what is said of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from gc_bootstrap import backends
from gc_bootstrap.discovery.kubernetes import KubernetesDiscovery
from gc_bootstrap.discovery.kubernetes.options import Options
from gc_bootstrap.errors import ConfigError


def load(value: Any) -> Options:
    found = backends.load("discovery", value, "x")
    assert isinstance(found, KubernetesDiscovery)
    return found._options


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("kubernetes:cpu", Options(service="cpu")),
        ("kubernetes:pools/cpu", Options(service="cpu", namespace="pools")),
        ("kubernetes:42/7", Options(service="7", namespace="42")),
        ("kubernetes:?service=42", Options(service="42")),
        (
            "kubernetes:pools/cpu?port=9000&address=pod-dns&cluster-domain=k8s.corp.",
            Options("cpu", "pools", port=9000, address="pod-dns", cluster_domain="k8s.corp"),
        ),
        (
            "kubernetes:pools/?resource=pods&selector=app=cpu,tier!=gpu",
            Options(namespace="pools", resource="pods", selector="app=cpu,tier!=gpu"),
        ),
        (
            {"kubernetes": {"service": "cpu", "resource": "endpoints", "ip-family": "ipv6"}},
            Options(service="cpu", resource="endpoints", ip_family="ipv6"),
        ),
        (
            {"kubernetes": {"service": "cpu", "kubeconfig": "~/k", "context": "prod"}},
            Options(service="cpu", kubeconfig="~/k", context="prod"),
        ),
    ],
)
def test_what_may_be_written(written: Any, expected: Options) -> None:
    assert load(written) == expected


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("kubernetes:", "service: missing; endpointslices belong to a Service"),
        ("kubernetes:pools/", "service: missing; endpointslices belong to a Service"),
        ("kubernetes:/cpu", "'/cpu' is not NAMESPACE/SERVICE"),
        ("kubernetes:a/b/c", "'a/b/c' is not NAMESPACE/SERVICE"),
        ("kubernetes:Cpu", "service: 'Cpu' is not the name of a service, such as dask-agents"),
        ("kubernetes:p_q/cpu", "namespace: 'p_q' is not the name of a namespace"),
        ("kubernetes:cpu?resource=services", "resource: 'services' is not one of endpointslices,"),
        ("kubernetes:cpu?address=dns", "address: 'dns' is not one of ip, hostname, pod-dns"),
        ("kubernetes:cpu?port=0", "port: 0 is not a port from 1 to 65535, nor the name of one"),
        ("kubernetes:cpu?port=65536", "port: 65536 is not a port"),
        ("kubernetes:cpu?port=true", "port: True is not a port"),
        ("kubernetes:cpu?port=An+Agent", "port: 'An Agent' is not a port"),
        ("kubernetes:cpu?ip-family=6", "ip-family: 6 is not one of ipv4, ipv6"),
        ("kubernetes:cpu?cluster-domain=a..b", "cluster-domain: 'a..b' is not a domain"),
        ("kubernetes:cpu?kubeconfig=", "kubeconfig: '' is not a text"),
        ("kubernetes:cpu?context=true", "context: True is not a text"),
        ("kubernetes:cpu?selector=a=b", "selector: only resource: pods takes one"),
        ("kubernetes:cpu?resource=pods", "selector: missing; pods are found by labels"),
        ("kubernetes:cpu?labels=a", "unknown option 'labels'; there are: address, cluster-domain"),
        ({"kubernetes": ["cpu"]}, "['cpu'] is a list; expected {option: value}"),
        ({"kubernetes": {"service": ["cpu"]}}, "service: ['cpu'] is not a text"),
        ({"kubernetes": {"service": "cpu", "port": 8791.0}}, "port: 8791.0 is not a port"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(written: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written)
    assert str(caught.value).startswith("x: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load("kubernetes:Cpu?port=0")
    assert "service: 'Cpu'" in str(caught.value)
    assert "port: 0" in str(caught.value)


def test_its_name_is_known_before_its_namespace() -> None:
    assert repr(KubernetesDiscovery("cpu")) == "kubernetes endpointslices (own namespace)/cpu"
    pods = KubernetesDiscovery(resource="pods", selector="a=b", namespace="pools")
    assert repr(pods) == "kubernetes pods pools/a=b"
