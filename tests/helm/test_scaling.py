"""How many agents: what the scheduler is told, and what scales them by what it wants."""

from __future__ import annotations

import json
import re
from typing import Any

import helm_python
import pytest
import yaml

from gc_bootstrap.config import AdaptOptions, PoolOptions, ShareOptions, read_pools
from tests.helm.chart import SERVER, SETS, Object, Values, chart, of_kind, render
from tests.helm.test_chart import CUSTOM

WANTED = SETS["scaled-by-what-is-wanted"]
KEDA = SETS["scaled-by-keda"]


def _pools(values: Values) -> dict[str, PoolOptions]:
    (found,) = [
        o for name, o in of_kind(render(values), "ConfigMap").items() if name.endswith("-scheduler")
    ]
    section = yaml.safe_load(found["data"]["dask.yaml"])["gc-bootstrap"]
    pools, problems = read_pools(configured=section)
    assert problems == []
    return pools


def test_sizes_and_shares_are_those_of_the_values() -> None:
    pools = _pools(SETS["sized"])
    half = ShareOptions(weight=0.5)
    default = AdaptOptions(minimum=1, maximum=1_000_000, interval=0.2)
    patient = AdaptOptions(1, None, interval=0.2, wait_count=5, target_duration=10)
    assert {name: (pool.size, pool.adapt, pool.share) for name, pool in pools.items()} == {
        "default": (None, default, half),
        "patient": (None, patient, half),
        "four": (4, None, ShareOptions("keep", 2, 3)),
        "none": (0, None, half),
        "all": (None, None, half),
    }


def test_an_empty_adapt_is_one_with_dasks_own_defaults() -> None:
    assert _pools({"pools": {"default": {"adapt": {}}}})["default"].adapt == AdaptOptions()


def test_a_size_of_all_pools_gives_way_to_a_pools_own_adapt() -> None:
    pools = _pools({"poolDefaults": {"size": 0}, "pools": {"a": {"adapt": {"maximum": 3}}}})
    assert (pools["default"].size, pools["default"].adapt) == (0, None)
    assert (pools["a"].size, pools["a"].adapt) == (None, AdaptOptions(maximum=3))


def test_what_the_chart_does_not_say_is_as_the_schedulers_configuration_has_it() -> None:
    config = {"gc-bootstrap": {"size": 3, "share": {"weight": 5}}}
    pools = _pools({"scheduler": {"config": config}, "pools": {"all": {"size": "all"}}})
    assert (pools["default"].size, pools["default"].share.weight) == (3, 5)
    assert pools["all"].takes_all


LIMITS: list[tuple[str, Any, bool]] = [
    ("size", 0, True),
    ("size", "all", True),
    ("size", -1, False),
    ("size", "none", False),
    ("adapt.minimum", 0, True),
    ("adapt.minimum", -1, False),
    ("adapt.maximum", None, True),
    ("adapt.maximum", 0, True),
    ("adapt.maximum", 2.5, False),
    ("adapt.wait-count", 1, True),
    ("adapt.wait-count", 0, False),
    ("adapt.interval", "1ms", True),
    ("adapt.interval", "0s", False),
    ("adapt.target-duration", "1h", True),
    ("adapt.target-duration", "soon", False),
    ("share.policy", None, True),
    ("share.policy", "fair", True),
    ("share.policy", "any", False),
    ("share.weight", 0.001, True),
    ("share.weight", 1000, True),
    ("share.weight", 0.0009, False),
    ("share.weight", 1000.5, False),
    ("share.guaranteed", 0, True),
    ("share.guaranteed", -1, False),
]


@pytest.mark.parametrize(("key", "value", "good"), LIMITS)
def test_the_schema_has_the_limits_of_the_configuration(key: str, value: Any, good: bool) -> None:
    section: Any = value
    camel: Any = value
    for name in reversed(key.split(".")):
        section = {name: section}
        camel = {re.sub("-(.)", lambda match: match[1].upper(), name): camel}
    _, problems = read_pools(configured={"discovery": "local", **section})
    assert (problems == []) is good
    values = {"pools": {"default": camel}}
    if good:
        chart().validate_schema(values)
    else:
        with pytest.raises(helm_python.HelmValuesError):
            chart().validate_schema(values)


# -- by what is wanted ----------------------------------------------------------------------------


def _series(objects: list[Object], pool: str) -> dict[str, str]:
    """The labels that the metric has in Prometheus, by the ServiceMonitor."""
    (monitor,) = of_kind(objects, "ServiceMonitor").values()
    service = of_kind(objects, "Service")["dask-gc-bootstrap-scheduler"]
    labels = service["metadata"]["labels"]
    taken = {re.sub(r"\W", "_", key): labels[key] for key in monitor["spec"]["targetLabels"]}
    return {"namespace": service["metadata"]["namespace"], "pool": pool, **taken}


def _external(objects: list[Object], pool: str) -> list[Object]:
    scaler = of_kind(objects, "HorizontalPodAutoscaler")[f"dask-gc-bootstrap-{pool}"]
    return [metric["external"] for metric in scaler["spec"]["metrics"] if "external" in metric]


def test_an_autoscaler_has_one_agent_for_each_that_is_wanted_beside_cpu() -> None:
    objects = render(WANTED)
    (external,) = _external(objects, "default")
    assert external["metric"]["name"] == "gc_bootstrap_pool_wanted"
    assert external["target"] == {"type": "AverageValue", "averageValue": "1"}
    series = _series(objects, "default")
    selector = external["metric"]["selector"]
    assert selector["matchLabels"].items() <= series.items()
    (namespace,) = selector["matchExpressions"]
    assert namespace == {"key": "namespace", "operator": "In", "values": [series["namespace"]]}
    metrics = of_kind(objects, "HorizontalPodAutoscaler")["dask-gc-bootstrap-default"]["spec"]
    assert [metric["type"] for metric in metrics["metrics"]] == ["Resource", "External"]


def test_without_a_target_for_cpu_what_is_wanted_decides_alone() -> None:
    objects = render(WANTED)
    scaler = of_kind(objects, "HorizontalPodAutoscaler")["dask-gc-bootstrap-alone"]["spec"]
    assert [metric["type"] for metric in scaler["metrics"]] == ["External"]
    (external,) = _external(objects, "alone")
    assert external["metric"]["name"] == "dask_wanted"


def _query(scaled: Object) -> str:
    return str(scaled["spec"]["triggers"][0]["metadata"]["query"])


def test_keda_asks_for_the_sum_over_the_schedulers_of_the_cluster() -> None:
    objects = render(KEDA)
    scaled = of_kind(objects, "ScaledObject")
    for pool in ("default", "gpu"):
        match = re.fullmatch(
            r"sum\(gc_bootstrap_pool_wanted\{(.*)\}\)", _query(scaled[f"dask-gc-bootstrap-{pool}"])
        )
        assert match is not None
        series = _series(objects, pool)
        matchers = re.findall(r'(\w+)(=~?)"([^"]*)"', match[1])
        assert {label for label, _, _ in matchers} == series.keys()
        for label, operator, value in matchers:
            expected = value if operator == "=~" else re.escape(value)
            assert re.fullmatch(expected, series[label]), label
        # The schedulers of the cluster's other namespaces count, and no others.
        (spaces,) = [value for label, _, value in matchers if label == "namespace"]
        assert [name for name in ("prod", "gpus", "other") if re.fullmatch(spaces, name)] == [
            "prod",
            "gpus",
        ]
    assert _query(scaled["dask-gc-bootstrap-own"]) == "vector(3)"


def test_what_keda_is_not_told_is_an_error_and_not_none() -> None:
    """By default KEDA reads an empty answer as 0, and would end agents whose scheduler is lost."""
    for scaled in of_kind(render(KEDA), "ScaledObject").values():
        trigger = scaled["spec"]["triggers"][0]
        assert (trigger["type"], trigger["metricType"]) == ("prometheus", "AverageValue")
        metadata = trigger["metadata"]
        assert (metadata["ignoreNullValues"], metadata["threshold"]) == ("false", "1")
        assert metadata["serverAddress"] == SERVER


FIELDS: dict[str, type] = {
    "scaleTargetRef": dict,
    "minReplicaCount": int,
    "maxReplicaCount": int,
    "pollingInterval": int,
    "cooldownPeriod": int,
    "advanced": dict,
    "triggers": list,
}
"""What the chart uses of a ScaledObject's spec (keda.sh/v1alpha1, as of August 2026)."""


def test_a_scaled_object_has_the_fields_that_keda_knows() -> None:
    """Kubernetes has no schema for it."""
    objects = render(KEDA)
    workloads = of_kind(objects, "Deployment", "StatefulSet")
    for name, scaled in of_kind(objects, "ScaledObject").items():
        assert scaled["apiVersion"] == "keda.sh/v1alpha1"
        assert scaled["kind"] in CUSTOM
        spec = scaled["spec"]
        assert spec.keys() <= FIELDS.keys()
        assert spec.keys() >= FIELDS.keys() - {"advanced"}
        assert all(type(value) is FIELDS[key] for key, value in spec.items())
        target = spec["scaleTargetRef"]
        assert target == {"apiVersion": "apps/v1", "kind": workloads[name]["kind"], "name": name}
        for trigger in spec["triggers"]:
            keys = {"type", "metricType", "metadata", "authenticationRef"}
            assert {"type", "metadata"} <= trigger.keys() <= keys
            assert all(isinstance(value, str) for value in trigger["metadata"].values())
    gpu = of_kind(objects, "ScaledObject")["dask-gc-bootstrap-gpu"]
    assert gpu["metadata"]["annotations"] == {"autoscaling.keda.sh/paused": "true"}
    assert gpu["spec"]["maxReplicaCount"] == 1_000_000
    config = gpu["spec"]["advanced"]["horizontalPodAutoscalerConfig"]
    assert config == {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}}}
    assert gpu["spec"]["triggers"][0]["authenticationRef"] == {"name": "prometheus"}
    assert [trigger["type"] for trigger in gpu["spec"]["triggers"]] == ["prometheus", "cpu"]


@pytest.mark.parametrize("values", [WANTED, KEDA], ids=["autoscaling", "keda"])
def test_one_autoscaler_for_each_pool_and_no_number_in_its_manifest(values: Values) -> None:
    objects = render(values)
    scalers = [o for o in objects if o["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")]
    targets = [o["spec"]["scaleTargetRef"]["name"] for o in scalers]
    workloads = of_kind(objects, "Deployment", "StatefulSet")
    assert sorted(targets) == sorted(workloads.keys() - {"dask-gc-bootstrap-scheduler"})
    assert all("replicas" not in workloads[name]["spec"] for name in targets)


def test_pools_without_a_scheduler_are_scaled_by_those_of_other_releases() -> None:
    keda = {"enabled": True, "serverAddress": SERVER}
    values: Values = {"scheduler": {"enabled": False}, "cluster": {"name": "research"}}
    objects = render({**values, "pools": {"default": {"keda": keda}}}, name="pools")
    (scaled,) = of_kind(objects, "ScaledObject").values()
    assert 'app_kubernetes_io_part_of="research"' in _query(scaled)


def test_the_notes_say_who_scales() -> None:
    def notes(values: Values) -> str:
        rendered = chart().render(values, name="dask", namespace="prod")
        return json.dumps(rendered["gc-bootstrap/templates/NOTES.txt"])

    assert "0 to 10 agents by KEDA" in notes(KEDA)
    assert "1 to 1000000 agents by KEDA" in notes(KEDA)
    assert "1 to 10 agents by a HorizontalPodAutoscaler" in notes(WANTED)
    assert "helm upgrade" not in notes(KEDA)
