"""Installs, upgrades and removes the chart with Helm's own engine, against an API server."""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import helm_python
import pytest

from gc_bootstrap.wire.keys import PrivateKey, PublicKeys
from gc_bootstrap.wire.tokens import Verifier, sign
from tests.helm.api import ApiServer, serving
from tests.helm.chart import CHART, EVERYTHING, SERVER, Values
from tests.integration.harness import free_port

COOKIE = ("prod", "secrets", "dask-gc-bootstrap-cookie")
KEYS = ("prod", "secrets", "dask-gc-bootstrap-keys")
OLD_SECRET = """
apiVersion: v1
kind: Secret
metadata: {name: dask-gc-bootstrap-cookie, namespace: prod}
data: {cookie: MDEyMzQ1Njc4OWFiY2RlZg==}
"""
KUBECONFIG = "apiVersion: v1\nkind: Config\n"
VALUES_0_1_0: Values = {
    "image": {"repository": "registry.example.com/dask"},
    "discovery": "kubernetes",
    "pools": {"default": {"replicas": 3, "drainTimeout": "2m"}, "gpu": {"kind": "StatefulSet"}},
}
"""What a release of chart 0.1.0 may have been installed with: these keys have to go on working."""


@contextmanager
def _config(url: str) -> Iterator[helm_python.Config]:
    with helm_python.Config(
        kube_apiserver=url,
        kubeconfig_content=KUBECONFIG,
        namespace="prod",
        storage_driver="memory",
    ) as config:
        yield config


@asynccontextmanager
async def _cluster() -> AsyncIterator[tuple[ApiServer, Any]]:
    """An API server, and Helm's actions on it: `await helm("install", chart, name, values)`."""
    api = ApiServer()
    async with serving(api, free_port()) as url:
        with _config(url) as config:

            async def helm(action: str, *arguments: Any, **options: Any) -> Any:
                async with asyncio.timeout(30):
                    return await asyncio.to_thread(getattr(config, action), *arguments, **options)

            yield api, helm


def _cookie(api: ApiServer) -> str:
    return base64.b64decode(api.objects[COOKIE]["data"]["cookie"]).decode()


def _keys(api: ApiServer, key: tuple[str, str, str] = KEYS) -> tuple[str, str]:
    data = api.objects[key]["data"]
    assert data.keys() == {"private.pem", "public.pem"}
    private, public = (base64.b64decode(data[f"{half}.pem"]) for half in ("private", "public"))
    return private.decode(), public.decode()


async def test_install_needs_nothing_but_an_image_and_uninstall_leaves_nothing() -> None:
    async with _cluster() as (api, helm):
        values = {"image": {"repository": "registry.example.com/dask"}}
        release = await helm("install", CHART, "dask", values)
        assert release["status"] == "deployed"
        private, public = _keys(api)
        header = sign(
            PrivateKey(private, "the Secret"), "POST", "/v1/attach", b"{}", 1e9, "a nonce"
        )
        verifier = Verifier(PublicKeys(public, "the Secret"), "a nonce")
        verifier.check(header, "POST", "/v1/attach", b"{}", 1e9)  # a pair, or it would raise
        deployments = {name for _, plural, name in api.objects if plural == "deployments"}
        assert deployments == {"dask-gc-bootstrap-scheduler", "dask-gc-bootstrap-default"}
        await helm("uninstall", "dask")
        assert api.objects == {}


async def test_two_releases_have_different_keys() -> None:
    async with _cluster() as (api, helm):
        await helm("install", CHART, "dask", {})
        await helm("install", CHART, "other", {})
        other = _keys(api, ("prod", "secrets", "other-gc-bootstrap-keys"))
        assert set(other).isdisjoint(_keys(api))


@pytest.mark.parametrize("values", [{"discovery": "dns"}, {}], ids=["other-values", "same-values"])
async def test_an_upgrade_from_the_previous_charts_values_keeps_the_keys(
    tmp_path: Path, values: Values
) -> None:
    previous = helm_python.package(CHART, destination=tmp_path, version="0.0.9")
    async with _cluster() as (api, helm):
        await helm("install", previous, "dask", VALUES_0_1_0)
        before = _keys(api)
        release = await helm("upgrade", CHART, "dask", values, reuse_values=True)
        assert (release["revision"], release["status"]) == (2, "deployed")
        assert _keys(api) == before
        deployment = api.objects["prod", "deployments", "dask-gc-bootstrap-default"]
        assert deployment["spec"]["replicas"] == 3
        assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 135


async def test_a_chart_of_another_version_alone_restarts_nothing(tmp_path: Path) -> None:
    """A restart of the scheduler loses all results."""
    previous = helm_python.package(CHART, destination=tmp_path, version="0.0.9")

    def templates(api: ApiServer) -> list[Any]:
        return [
            o["spec"]["template"]
            for (_, plural, _), o in api.objects.items()
            if plural in ("deployments", "statefulsets")
        ]

    async with _cluster() as (api, helm):
        await helm("install", previous, "dask", VALUES_0_1_0)
        before = templates(api)
        await helm("upgrade", CHART, "dask", VALUES_0_1_0)
        assert len(before) == 3
        assert templates(api) == before


async def test_what_restarts_on_which_change() -> None:
    def annotations(api: ApiServer) -> dict[str, Any]:
        return {
            name: o["spec"]["template"]["metadata"]["annotations"]
            for (_, plural, name), o in api.objects.items()
            if plural == "deployments"
        }

    def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
        return {name.rpartition("-")[2] for name in before if before[name] != after[name]}

    steps: list[tuple[Values, set[str]]] = [
        ({"discovery": "dns"}, {"scheduler"}),
        ({"scheduler": {"config": {"distributed": {"version": 2}}}}, {"scheduler"}),
        ({"pools": {"default": {"config": {"distributed": {"version": 2}}}}}, {"default"}),
        ({"pools": {"default": {"replicas": 7}}}, set()),
        ({"cookie": {"value": "correct horse battery staple"}}, {"scheduler", "default"}),
    ]
    for values, expected in steps:
        async with _cluster() as (api, helm):
            await helm("install", CHART, "dask", {})
            before = annotations(api)
            await helm("upgrade", CHART, "dask", values)
            assert changed(before, annotations(api)) == expected, values


async def test_a_cookie_of_ones_own_takes_the_place_of_the_made_keys() -> None:
    async with _cluster() as (api, helm):
        await helm("install", CHART, "dask", {})
        await helm("upgrade", CHART, "dask", {"cookie": {"value": "correct horse battery staple"}})
        assert _cookie(api) == "correct horse battery staple"
        assert KEYS not in api.objects
        await helm("upgrade", CHART, "dask", {"cookie": {"existingSecret": "mine"}})
        assert COOKIE not in api.objects
        await helm("upgrade", CHART, "dask", {"keyPair": {"existingSecret": "mine"}})
        assert not [name for _, plural, name in api.objects if plural == "secrets"]


async def test_a_release_from_before_there_were_keys_changes_over(tmp_path: Path) -> None:
    """Its values have no `keyPair`, and its Secret, which the chart had made, holds a cookie."""
    old = tmp_path / "gc-bootstrap"
    shutil.copytree(CHART, old)
    (old / "templates" / "secret.yaml").write_text(OLD_SECRET)
    for file, pattern in (("values.yaml", r"(?ms)^keyPair:.*?(?=^\S)"), ("values.schema.json", "")):
        text = (old / file).read_text()
        (old / file).write_text(re.sub(pattern, "", text) if pattern else "{}")
    async with _cluster() as (api, helm):
        await helm("install", str(old), "dask", VALUES_0_1_0)
        assert _cookie(api) == "0123456789abcdef"
        release = await helm("upgrade", CHART, "dask", {}, reuse_values=True)
        assert release["status"] == "deployed"
        assert COOKIE not in api.objects
        assert len(_keys(api)) == 2


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
async def test_autoscaling_takes_over_a_pool_as_it_runs(kind: str) -> None:
    """Without a number in the manifest, the API server would make it 1."""
    before: Values = {"pools": {"default": {"kind": kind, "replicas": 4}}}
    scaled: Values = {"pools": {"default": {"kind": kind, "autoscaling": {"enabled": True}}}}
    key = ("prod", f"{kind.lower()}s", "dask-gc-bootstrap-default")
    async with _cluster() as (api, helm):
        await helm("install", CHART, "dask", before)
        await helm("upgrade", CHART, "dask", scaled)
        spec = api.objects[key]["spec"]
        assert spec["replicas"] == 4
        spec["replicas"] = 7  # the autoscaler's doing
        await helm("upgrade", CHART, "dask", {**scaled, "discovery": "dns"})
        assert api.objects[key]["spec"]["replicas"] == 7
        # An autoscaler leaves a pool of 0 alone: it starts with what Kubernetes gives it.
        api.objects[key]["spec"]["replicas"] = 0
        await helm("upgrade", CHART, "dask", scaled)
        assert "replicas" not in api.objects[key]["spec"]
        await helm("upgrade", CHART, "dask", before)
        assert api.objects[key]["spec"]["replicas"] == 4


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
async def test_keda_takes_over_a_pool_as_it_runs(kind: str) -> None:
    """A pool that KEDA has scaled to none stays so: it is KEDA that wakes it."""
    before: Values = {"pools": {"default": {"kind": kind, "replicas": 4}}}
    keda = {"enabled": True, "serverAddress": SERVER}
    scaled: Values = {"pools": {"default": {"kind": kind, "adapt": {}, "keda": keda}}}
    key = ("prod", f"{kind.lower()}s", "dask-gc-bootstrap-default")
    async with _cluster() as (api, helm):
        await helm("install", CHART, "dask", before)
        for replicas in (4, 7, 0):
            api.objects[key]["spec"]["replicas"] = replicas
            await helm("upgrade", CHART, "dask", scaled)
            assert api.objects[key]["spec"]["replicas"] == replicas
        applied = {"manager": "helm", "operation": "Apply"}
        scale = {"manager": "keda", "operation": "Update", "subresource": "scale"}
        api.objects[key]["metadata"]["managedFields"] = [applied, scale]
        await helm("upgrade", CHART, "dask", scaled)
        assert "replicas" not in api.objects[key]["spec"]  # it is KEDA's
        assert ("prod", "scaledobjects", "dask-gc-bootstrap-default") in api.objects
        await helm("upgrade", CHART, "dask", before)
        assert api.objects[key]["spec"]["replicas"] == 4
        assert ("prod", "scaledobjects", "dask-gc-bootstrap-default") not in api.objects


async def test_a_new_pool_with_autoscaling_begins_with_what_the_autoscaler_gives_it() -> None:
    scaled: Values = {"pools": {"default": {"autoscaling": {"enabled": True}}}}
    async with _cluster() as (api, helm):
        await helm("install", CHART, "dask", scaled)
        deployment = api.objects["prod", "deployments", "dask-gc-bootstrap-default"]
        assert "replicas" not in deployment["spec"]


async def test_everything_at_once_installs_and_upgrades_from_defaults() -> None:
    values = {**EVERYTHING, "metrics": {}}  # no Prometheus operator here
    async with _cluster() as (api, helm):
        await helm("install", CHART, "dask", {})
        await helm("upgrade", CHART, "dask", values)
        names = {name for _, plural, name in api.objects if plural == "statefulsets"}
        assert names == {"dask-gc-bootstrap-gpu"}
        assert ("prod", "deployments", "dask-gc-bootstrap-default") not in api.objects
