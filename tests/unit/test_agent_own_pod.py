"""Annotating the agent's own pod over HTTP: what is sent, and each failure as one line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gc_bootstrap.agent import own_pod
from gc_bootstrap.agent.deletion_cost import ANNOTATION, DeletionCost, Pod
from gc_bootstrap.agent.own_pod import OwnPod
from gc_bootstrap.agent.state import Event, Life
from gc_bootstrap.errors import DiscoveryError
from tests.kube import NAMESPACE, Answer, KubeApi, answers, hangs, kubeconfig, pod, serving, status
from tests.unit.helpers import eventually
from tests.unit.kubernetes_helpers import isolate

POD = Pod(NAMESPACE, "dask-default-5f4954c6b5-kzcwl")


@pytest.fixture
async def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """An API server with the pod, and what annotates it."""
    await asyncio.to_thread(isolate, tmp_path, monkeypatch)
    kube = KubeApi()
    kube.apply("pods", pod(POD.name, "10.0.0.1", annotations={"mine": "stays"}))
    async with serving(kube) as url:
        config = await asyncio.to_thread(kubeconfig, tmp_path, url, {"token": "secret"})
        monkeypatch.setenv("KUBECONFIG", str(config))
        own = await asyncio.to_thread(OwnPod, POD)
        yield kube, own
        await own.close()
        await own.close()


def put_on(kube: KubeApi) -> Any:
    return kube.objects["pods"][POD.name]["metadata"]["annotations"]


async def test_the_annotation_is_put_beside_those_of_others(own: Any) -> None:
    kube, pod = own
    for cost in ("-100", "100"):
        await pod.annotate({ANNOTATION: cost})
        assert put_on(kube) == {"mine": "stays", ANNOTATION: cost}
    assert kube.asked == [("patch", f"pods/{POD.name}/status")] * 2
    assert kube.tokens == ["Bearer secret"] * 2


FORBIDDEN = answers(
    403,
    status(
        403,
        "Forbidden",
        f'pods "{POD.name}" is forbidden: User "system:serviceaccount:pools:default" cannot patch'
        ' resource "pods/status" in API group "" in the namespace "pools"',
    ),
)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (
            FORBIDDEN,
            (
                f"patch pods/status {POD}: 403 Forbidden for system:serviceaccount:pools:default;"
                " there is no Role or RoleBinding that gives it the rule"
                ' {apiGroups: [""], resources: [pods/status], verbs: [patch]}'
            ),
        ),
        (answers(401), f"patch pods/status {POD}: 401 Unauthorized: the API server does not"),
        (answers(429, "later"), f"patch pods/status {POD}: HTTP 429: later"),
        (answers(503, "x" * 10**6), f"patch pods/status {POD}: HTTP 503: xxx"),
        (hangs, f"patch pods/status {POD}: no answer within 0.2 s"),
        (lambda request: request.transport.abort(), "the API server broke the connection off"),
    ],
    ids=["403", "401", "429", "503", "hangs", "breaks"],
)
async def test_each_failure_is_one_line(
    own: Any, answer: Answer, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube, pod = own
    if answer is hangs:
        monkeypatch.setattr(own_pod, "TIMEOUT", 0.2)
    kube.for_ever["patch"] = answer
    with pytest.raises(DiscoveryError) as refused:
        await pod.annotate({ANNOTATION: "100"})
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)
    del kube.for_ever["patch"]
    monkeypatch.setattr(own_pod, "TIMEOUT", 60.0)
    await pod.annotate({ANNOTATION: "100"})
    assert put_on(kube)[ANNOTATION] == "100"


async def test_a_pod_that_is_gone_and_a_server_that_is_not_there_are_said(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube, pod = own
    kube.remove("pods", POD.name)
    with pytest.raises(DiscoveryError, match=f'HTTP 404: pods "{POD.name}" not found'):
        await pod.annotate({ANNOTATION: "100"})
    config = await asyncio.to_thread(kubeconfig, tmp_path, "http://127.0.0.1:9")
    monkeypatch.setenv("KUBECONFIG", str(config))
    with pytest.raises(DiscoveryError, match="is not reachable: Connection refused"):
        await pod.annotate({ANNOTATION: "100"})
    await asyncio.to_thread(Path.unlink, config)
    with pytest.raises(DiscoveryError, match="no pod with a service account"):
        await pod.annotate({ANNOTATION: "100"})


async def test_by_default_the_cost_goes_to_the_pod_of_the_api_server(own: Any) -> None:
    kube, _ = own
    life = Life()

    async def at_once(_: float) -> None:
        await asyncio.sleep(0)

    cost = DeletionCost(life, POD, sleep=at_once)
    cost.start()
    try:
        life.tell(Event.WARMED)
        await eventually(lambda: put_on(kube).get(ANNOTATION) == "-100")
    finally:
        await cost.close()
