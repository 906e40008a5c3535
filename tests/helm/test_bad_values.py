"""Wrong values are refused, and the message names the key."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import helm_python
import pytest

from tests.helm.chart import CHART, SERVER, Values, chart, render, render_text


def pools(**pool: Any) -> Values:
    return {"pools": {"default": pool}}


BY_SCHEMA: list[tuple[Values, str, str]] = [
    ({"schedular": {}}, "''", "additional properties 'schedular' not allowed"),
    ({"discovery": "zeroconf"}, "/discovery", "value must be one of 'kubernetes', 'dns', 'srv'"),
    ({"discoveryOptions": {"selector": "a=b"}}, "/discoveryOptions", "'selector' not allowed"),
    ({"discoveryOptions": {"address": "dns"}}, "/discoveryOptions/address", "'pod-dns'"),
    ({"image": "dask"}, "/image", "got string, want object"),
    ({"image": {"repository": ""}}, "/image/repository", "minLength"),
    ({"image": {"digest": "latest"}}, "/image/digest", "'latest' does not match pattern"),
    ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy", "'Always'"),
    ({"cookie": {"value": "too short"}}, "/cookie/value", "does not match pattern"),
    ({"cookie": {"secret": "x"}}, "/cookie", "'secret' not allowed"),
    ({"keyPair": {"private": "x"}}, "/keyPair", "'private' not allowed"),
    ({"tls": {"enabled": True}}, "/tls", "'enabled' not allowed"),
    ({"scheduler": {"replicas": 2}}, "/scheduler", "'replicas' not allowed"),
    ({"scheduler": {"enabled": "yes"}}, "/scheduler/enabled", "got string, want boolean"),
    ({"scheduler": {"args": "--idle-timeout 8h"}}, "/scheduler/args", "want array"),
    ({"scheduler": {"args": [8]}}, "/scheduler/args/0", "got number, want string"),
    ({"scheduler": {"service": {"type": "External"}}}, "/scheduler/service/type", "'ClusterIP'"),
    ({"scheduler": {"podLabels": {"a": 1}}}, "/scheduler/podLabels/a", "want string"),
    ({"poolDefaults": {"replica": 2}}, "/poolDefaults", "'replica' not allowed"),
    (pools(replicas="2"), "/pools/default/replicas", "got string, want integer"),
    (pools(replicas=-1), "/pools/default/replicas", "minimum"),
    (pools(kind="DaemonSet"), "/pools/default/kind", "'Deployment', 'StatefulSet'"),
    (pools(drainTimeout="5 parsecs"), "/pools/default/drainTimeout", "'5 parsecs' does not match"),
    (pools(drainTimeout=60), "/pools/default/drainTimeout", "got number, want string"),
    (pools(leaseTimeout="0s"), "/pools/default/leaseTimeout", "'0s' does not match"),
    (pools(terminationGracePeriodSeconds="75"), "/terminationGracePeriodSeconds", "got string"),
    (pools(resources={"limit": {}}), "/pools/default/resources", "'limit' not allowed"),
    (pools(resources={"limits": {"cpu": []}}), "/resources/limits/cpu", "got array"),
    (pools(autoscaling={"min": 2}), "/pools/default/autoscaling", "'min' not allowed"),
    (pools(autoscaling={"wanted": True}), "/autoscaling/wanted", "got boolean, want object"),
    (pools(keda={"minReplicaCount": 2}), "/pools/default/keda", "'minReplicaCount' not allowed"),
    (pools(keda={"minReplicas": -1}), "/pools/default/keda/minReplicas", "minimum"),
    (pools(keda={"maxReplicas": 0}), "/pools/default/keda/maxReplicas", "minimum"),
    (pools(keda={"serverAddress": "prometheus:9090"}), "/keda/serverAddress", "does not match"),
    (pools(keda={"metadata": {"a": 1}}), "/keda/metadata/a", "got number, want string"),
    (pools(podDeletionCost="yes"), "/podDeletionCost", "got string, want boolean"),
    (pools(size="some"), "/pools/default/size", "'some' does not match pattern"),
    (pools(size=-1), "/pools/default/size", "minimum"),
    (pools(size=1.5), "/pools/default/size", "got number, want"),
    (pools(adapt=4), "/pools/default/adapt", "got number, want"),
    (pools(adapt={"minimum": -1}), "/pools/default/adapt/minimum", "minimum"),
    (pools(adapt={"maximum": "all"}), "/pools/default/adapt/maximum", "got string, want"),
    (pools(adapt={"wait-count": 3}), "/pools/default/adapt", "'wait-count' not allowed"),
    (pools(adapt={"waitCount": 0}), "/pools/default/adapt/waitCount", "minimum"),
    (pools(adapt={"interval": "0s"}), "/pools/default/adapt/interval", "'0s' does not match"),
    (pools(share={"policy": "greedy"}), "/pools/default/share/policy", "'fair', 'keep'"),
    (pools(share={"weight": 0}), "/pools/default/share/weight", "minimum"),
    (pools(share={"weight": 1001}), "/pools/default/share/weight", "maximum"),
    (pools(share={"guaranteed": -1}), "/pools/default/share/guaranteed", "minimum"),
    (pools(podDisruptionBudget={"maxUnavailable": "all"}), "/maxUnavailable", "'all' does not"),
    (pools(env={"A": "b"}), "/pools/default/env", "got object, want array"),
    (pools(discovery={"service": "Agents"}), "/pools/default/discovery/service", "'Agents'"),
    ({"pools": {"gpu": None}}, "/pools/gpu", "got null, want object"),
    ({"networkPolicy": {"allow": []}}, "/networkPolicy", "'allow' not allowed"),
    ({"metrics": {"enabled": True}}, "/metrics", "'enabled' not allowed"),
    ({"test": {"timeout": "soon"}}, "/test/timeout", "'soon' does not match"),
    ({"cluster": {"namespaces": ["A"]}}, "/cluster/namespaces/0", "'A' does not match"),
    ({"fullnameOverride": "-"}, "/fullnameOverride", "does not match"),
]


@pytest.mark.parametrize(("values", "key", "reason"), BY_SCHEMA, ids=lambda x: str(x)[:60])
def test_the_schema_refuses_and_names_the_key(values: Values, key: str, reason: str) -> None:
    with pytest.raises(helm_python.HelmValuesError) as refused:
        render(values)
    lines = [line for line in str(refused.value).splitlines() if line.startswith("- at ")]
    assert len(lines) == 1, lines
    assert key in lines[0]
    assert reason in lines[0]
    with pytest.raises(helm_python.HelmValuesError):
        chart().validate_schema(values)


LONG = "a" * 40
BY_FAIL: list[tuple[Values, str]] = [
    (
        {"cookie": {"value": "x" * 16, "existingSecret": "mine"}},
        "cookie: value and existingSecret are both set; keep one of them",
    ),
    (
        {"cookie": {"existingSecret": "mine"}, "keyPair": {"existingSecret": "mine"}},
        "cookie: keyPair.existingSecret is set, too; keep one of them",
    ),
    (
        pools(drainTimeout="2m", terminationGracePeriodSeconds=60),
        (
            "pools.default: terminationGracePeriodSeconds is 60, but drainTimeout is 2m:"
            " Kubernetes would kill agents before their data is safe"
        ),
    ),
    (
        {"pools": {"GPU": {}}},
        (
            "pools.GPU: the name is not a DNS label: expected lower-case letters, digits and '-'"
            " between them"
        ),
    ),
    ({"pools": {"a_b": {"enabled": False}}}, "pools.a_b: the name is not a DNS label"),
    ({"pools": {"-a": {}}}, "pools.-a: the name is not a DNS label"),
    (
        {"pools": {"scheduler": {}}},
        "pools.scheduler: the name is taken by the scheduler; choose another",
    ),
    (
        {"pools": {LONG: {}}},
        (
            f"pools.{LONG}: the name dask-gc-bootstrap-{LONG} has 58 characters, and at most 52 fit"
            " into Kubernetes' labels; set a shorter fullnameOverride"
        ),
    ),
    (
        pools(discovery={"service": "other"}),
        (
            "pools.default: discovery.service names a Service of another release, and enabled"
            " deploys agents here; set enabled: false, or two pools"
        ),
    ),
    (
        pools(enabled=False, discovery={"namespace": "other"}),
        "pools.default: discovery.namespace is set without discovery.service",
    ),
    (
        pools(volumeClaimTemplates=[{"metadata": {"name": "a"}}]),
        "pools.default: volumeClaimTemplates need kind: StatefulSet",
    ),
    (
        pools(autoscaling={"enabled": True, "minReplicas": 5, "maxReplicas": 4}),
        "pools.default.autoscaling: maxReplicas is less than minReplicas",
    ),
    (
        pools(autoscaling={"enabled": True, "targetCPUUtilizationPercentage": None}),
        (
            "pools.default.autoscaling: there is nothing to scale by; set"
            " targetCPUUtilizationPercentage, metrics or wanted.enabled"
        ),
    ),
    (
        pools(autoscaling={"enabled": True}, keda={"enabled": True, "serverAddress": SERVER}),
        (
            "pools.default: autoscaling and keda are both enabled, and would scale the same agents;"
            " keep one of them"
        ),
    ),
    (
        pools(keda={"enabled": True, "serverAddress": SERVER, "minReplicas": 11}),
        "pools.default.keda: maxReplicas is less than minReplicas",
    ),
    (
        pools(keda={"enabled": True}, adapt={}),
        (
            "pools.default.keda: serverAddress is missing; it says where Prometheus is, such as"
            " http://prometheus-operated.monitoring:9090"
        ),
    ),
    (
        pools(keda={"enabled": True, "serverAddress": SERVER}),
        (
            "pools.default: keda scales by how many agents are wanted, and size: all wants whatever"
            " there is; set adapt"
        ),
    ),
    (
        pools(autoscaling={"enabled": True, "wanted": {"enabled": True}}, size="all"),
        (
            "pools.default: autoscaling.wanted scales by how many agents are wanted, and size: all"
            " wants whatever there is; set adapt"
        ),
    ),
    (
        pools(kind="StatefulSet", podDeletionCost=True),
        (
            "pools.default: podDeletionCost has no effect with kind: StatefulSet, which is scaled"
            " down from its highest number; it needs kind: Deployment"
        ),
    ),
    (
        pools(size=4, adapt={"maximum": 8}),
        "pools.default.size: 4 contradicts adapt; keep one of them",
    ),
    (
        pools(adapt={"minimum": 5, "maximum": 4}),
        "pools.default.adapt: minimum is 5, and maximum is 4",
    ),
    (
        pools(size=4, share={"guaranteed": 5}),
        "pools.default.share: guaranteed is 5, and size is 4",
    ),
    (
        pools(adapt={"maximum": 0}, share={"guaranteed": 1}),
        "pools.default.share: guaranteed is 1, and adapt.maximum is 0",
    ),
    (
        {"discoveryOptions": {"address": "hostname"}},
        (
            "discoveryOptions.address: hostname needs kind: StatefulSet,"
            " and pools.default is a Deployment"
        ),
    ),
    (
        {"discoveryOptions": {"cache": True}},
        (
            "discoveryOptions.cache: is not an option of discovery: kubernetes;"
            " there are: address, ip-family"
        ),
    ),
    (
        {"discovery": "dns", "discoveryOptions": {"address": "ip"}},
        (
            "discoveryOptions.address: is not an option of discovery: dns; there are: ipv6,"
            " host-type, lookup-timeout, nameservers, cache"
        ),
    ),
]


@pytest.mark.parametrize(("values", "sentence"), BY_FAIL, ids=lambda x: str(x)[:60])
def test_contradictions_end_in_one_clear_sentence(values: Values, sentence: str) -> None:
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render(values)
    message = re.sub(r"\s+", " ", str(refused.value))
    assert message.count(sentence) >= 1, message


def test_a_release_name_that_is_too_long_is_refused_and_not_cut() -> None:
    with pytest.raises(helm_python.HelmRenderError, match="at most 52 fit into Kubernetes' labels"):
        render({}, name="r" * 53)
    assert render({"fullnameOverride": "short"}, name="r" * 53)


def test_durations_are_checked_without_the_schema_too(tmp_path: Path) -> None:
    """As with `helm install --skip-schema-validation`."""
    copy = shutil.copytree(CHART, tmp_path / "chart")
    (copy / "values.schema.json").unlink()
    sentence = 'pools.default.drainTimeout: "5 parsecs" is not a duration such as 90s, 10m or 1h'
    with (
        helm_python.Chart.load(copy) as unchecked,
        pytest.raises(helm_python.HelmRenderError, match=sentence),
    ):
        unchecked.render(pools(drainTimeout="5 parsecs"))


def test_large_numbers_are_written_out() -> None:
    text = render_text(pools(drainTimeout="300h", replicas=1_000_000))
    assert "terminationGracePeriodSeconds: 1080015\n" in text
    assert "replicas: 1000000\n" in text


def test_a_null_removes_a_default_limit() -> None:
    (agent,) = [
        o["spec"]["template"]["spec"]["containers"][0]
        for o in render(pools(resources={"limits": {"cpu": None}}))
        if o["kind"] == "Deployment" and o["metadata"]["name"].endswith("-default")
    ]
    assert agent["resources"] == {"limits": {"memory": "2Gi"}}
