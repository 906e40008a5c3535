"""A Kubernetes API server on kmock that lists, pages, watches and forgets as the real one does.

kmock's own emulator knows neither selectors nor versions. What is here follows the recorded
answers in ``tests/fixtures/kubernetes``. ``python -m tests.kube PORT FILE`` serves the objects of a
file from a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp.test_utils
import kmock
import yaml
from aiohttp import web

FIXTURES = Path(__file__).parent / "fixtures" / "kubernetes"
NAMESPACE = "pools"
SERVICE = "cpu"
COLLECTIONS = {
    "endpointslices": ("discovery.k8s.io/v1", "EndpointSlice"),
    "endpoints": ("v1", "Endpoints"),
    "pods": ("v1", "Pod"),
}

Object = dict[str, Any]


def fixture(name: str) -> Any:
    """A recorded answer, or the events of a recorded watch."""
    text = (FIXTURES / name).read_text()
    return (
        [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)
    )


def status(code: int, reason: str, message: str) -> Object:
    """A ``Status`` object."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def endpoint(address: str, pod: str | None = None, **more: Any) -> Object:
    """An endpoint of a slice, ready unless said otherwise; ``pod`` names it and is its UID."""
    conditions = {key: more.pop(key) for key in ("ready", "serving", "terminating") if key in more}
    conditions.setdefault("ready", True)
    made: Object = {"addresses": [address], "conditions": conditions, **more}
    if pod is not None:
        made["targetRef"] = {"kind": "Pod", "namespace": NAMESPACE, "name": pod, "uid": pod}
    return made


def endpoint_slice(
    name: str,
    endpoints: Iterable[Object],
    ports: Mapping[str, int] | None = None,
    kind: str = "IPv4",
    service: str = SERVICE,
) -> Object:
    """An EndpointSlice of the Service."""
    ports = {"agent": 8791} if ports is None else ports
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": kind,
        "endpoints": list(endpoints),
        "ports": [{"name": n, "protocol": "TCP", "port": p} for n, p in ports.items()],
    }


def endpoints_object(addresses: Mapping[str, str], port: int, **metadata: Any) -> Object:
    """The Endpoints of the Service: pods by address."""
    return {
        "metadata": {"name": SERVICE, **metadata},
        "subsets": [
            {
                "addresses": [
                    {"ip": ip, "targetRef": {"kind": "Pod", "name": pod, "uid": pod}}
                    for ip, pod in addresses.items()
                ],
                "ports": [{"name": "agent", "port": port, "protocol": "TCP"}],
            }
        ],
    }


def pod(name: str, ip: str, port: int = 8791, *, ready: bool = True, **metadata: Any) -> Object:
    """A pod with the label ``app: cpu``."""
    return {
        "metadata": {"name": name, "uid": name, "labels": {"app": "cpu"}, **metadata},
        "spec": {
            "containers": [{"name": "c", "ports": [{"name": "agent", "containerPort": port}]}]
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "podIP": ip,
            "podIPs": [{"ip": ip}],
        },
    }


Answer = Callable[[web.BaseRequest], Any]


def answers(code: int, body: Object | str = "", **headers: str) -> Answer:
    """An answer that is not what was asked for."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    text = body if isinstance(body, str) else json.dumps(body)
    return lambda request: web.Response(status=code, text=text, headers=headers)


async def hangs(request: web.BaseRequest) -> web.Response:
    """No answer at all."""
    await asyncio.sleep(3600)
    raise AssertionError("the client has waited for an hour")


@dataclass
class Watcher:
    """One watch that is open."""

    collection: str
    selected: Callable[[Object], bool]
    request: web.BaseRequest
    lines: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    mute: bool = False

    def send(self, event: Object) -> None:
        """Send an event, or anything."""
        if not self.mute:
            self.lines.put_nowait(json.dumps(event).encode() + b"\n")

    def end(self) -> None:
        """End in good order."""
        self.lines.put_nowait(None)

    def break_off(self) -> None:
        """End as when the server dies."""
        if self.request.transport is not None:
            self.request.transport.abort()


class KubeApi(kmock.KubernetesScaffold):
    """The state of one namespace, served over HTTP.

    Attributes
    ----------
    answers
        By ``list``, ``watch`` or ``patch``: what to answer next instead of the truth. A callable
        that takes the request. The last one of a list stays where it is in :attr:`for_ever`.
    served
        Collections that exist.
    asked
        ``("list" | "watch" | "patch", collection)`` in the order of the requests.
    """

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.objects: dict[str, dict[str, Object]] = {name: {} for name in COLLECTIONS}
        self.answers: dict[str, deque[Answer]] = {
            "list": deque(),
            "watch": deque(),
            "patch": deque(),
        }
        self.for_ever: dict[str, Answer] = {}
        self.served = set(COLLECTIONS)
        self.asked: list[tuple[str, str]] = []
        self.tokens: list[str | None] = []
        self.watchers: list[Watcher] = []
        self.version = 100
        self.oldest = 100
        self._history: list[tuple[int, str, Object]] = []
        self._pages: dict[str, tuple[int, list[Object]]] = {}

    # -- what a test does to the cluster ---------------------------------------------------------

    def apply(self, collection: str, obj: Object) -> None:
        """Create or change an object."""
        self.version += 1
        metadata = {**obj["metadata"], "resourceVersion": str(self.version)}
        metadata["namespace"] = NAMESPACE
        obj = {**obj, "metadata": metadata}
        known = metadata["name"] in self.objects[collection]
        self.objects[collection][metadata["name"]] = obj
        self._tell(collection, "MODIFIED" if known else "ADDED", obj)

    def remove(self, collection: str, name: str) -> None:
        """Delete an object."""
        self.version += 1
        obj = self.objects[collection].pop(name)
        metadata = {**obj["metadata"], "resourceVersion": str(self.version)}
        self._tell(collection, "DELETED", {**obj, "metadata": metadata})

    def bookmark(self) -> None:
        """Send a bookmark into every watch."""
        for watcher in self.watchers:
            obj = {"metadata": {"resourceVersion": str(self.version)}}
            watcher.send({"type": "BOOKMARK", "object": obj})

    def compact(self) -> None:
        """Forget the past, as etcd does: older versions and pages that are under way are gone."""
        self.oldest = self.version
        self._history.clear()
        self._pages.clear()

    def _tell(self, collection: str, kind: str, obj: Object) -> None:
        event = {"type": kind, "object": obj}
        self._history.append((self.version, collection, event))
        for watcher in self.watchers:
            if watcher.collection == collection and watcher.selected(obj):
                watcher.send(event)

    # -- what it answers -------------------------------------------------------------------------

    async def _handle(self, request: kmock.Request) -> web.StreamResponse:
        raw = request._raw_request
        assert raw is not None
        collection = raw.path.split(f"/namespaces/{request.namespace}/")[-1]
        verb = "watch" if raw.query.get("watch") else "list"
        if raw.method == "PATCH":
            verb = "patch"
        self.asked.append((verb, collection))
        self.tokens.append(raw.headers.get("Authorization"))
        answer = self.answers[verb].popleft() if self.answers[verb] else self.for_ever.get(verb)
        if answer is not None:
            answered = answer(raw)
            if asyncio.iscoroutine(answered):
                answered = await answered
            if isinstance(answered, web.StreamResponse):
                return answered
        if verb == "patch":
            return await self._patch(raw, *collection.split("/"))
        if collection not in self.served or request.namespace != NAMESPACE:
            return web.Response(status=404, text="404 page not found\n")
        if verb == "watch":
            return await self._watch(raw, collection)
        return self._list(raw, collection)

    def _list(self, raw: web.BaseRequest, collection: str) -> web.Response:
        limit = int(raw.query.get("limit", 10**9))
        if token := raw.query.get("continue"):
            if token not in self._pages:
                body = status(410, "Expired", "The provided continue parameter is too old")
                return web.json_response(body, status=410)
            version, found = self._pages.pop(token)
        else:
            selected = _selector(raw)
            version = self.version
            found = [obj for _, obj in sorted(self.objects[collection].items()) if selected(obj)]
        metadata: Object = {"resourceVersion": str(version)}
        if found[limit:]:
            metadata["continue"] = f"{version}-{len(found)}"
            self._pages[metadata["continue"]] = (version, found[limit:])
        api_version, kind = COLLECTIONS[collection]
        return web.json_response(
            {
                "kind": f"{kind}List",
                "apiVersion": api_version,
                "metadata": metadata,
                "items": found[:limit] or None,
            }
        )

    async def _patch(
        self, raw: web.BaseRequest, collection: str, name: str, part: str
    ) -> web.Response:
        """Annotations alone, by way of the status."""
        assert (part, raw.content_type) == ("status", "application/merge-patch+json")
        if name not in self.objects[collection]:
            body = status(404, "NotFound", f'{collection} "{name}" not found')
            return web.json_response(body, status=404)
        obj = self.objects[collection][name]
        given = json.loads(await raw.text())["metadata"]["annotations"]
        annotations = {**obj["metadata"].get("annotations", {}), **given}
        self.apply(collection, {**obj, "metadata": {**obj["metadata"], "annotations": annotations}})
        return web.json_response(self.objects[collection][name])

    async def _watch(self, raw: web.BaseRequest, collection: str) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "application/json"
        await response.prepare(raw)
        since = int(raw.query["resourceVersion"])
        watcher = Watcher(collection, _selector(raw), raw)
        if since < self.oldest:
            message = f"too old resource version: {since} ({self.oldest})"
            watcher.send({"type": "ERROR", "object": status(410, "Expired", message)})
            watcher.end()
        for version, of, event in self._history:
            if version > since and of == collection and watcher.selected(event["object"]):
                watcher.send(event)
        self.watchers.append(watcher)
        asyncio.get_running_loop().call_later(float(raw.query["timeoutSeconds"]), watcher.end)
        try:
            while (line := await watcher.lines.get()) is not None:
                await response.write(line)
            await response.write_eof()
        except ConnectionError:
            pass  # the client has gone
        finally:
            self.watchers.remove(watcher)
        return response


def _selector(raw: web.BaseRequest) -> Callable[[Object], bool]:
    wanted = dict(
        pair.split("=", 1) for pair in raw.query.get("labelSelector", "").split(",") if pair
    )
    name = raw.query.get("fieldSelector", "").removeprefix("metadata.name=")

    def selected(obj: Object) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return wanted.items() <= labels.items() and name in ("", obj["metadata"]["name"])

    return selected


# -- serving it ----------------------------------------------------------------------------------


@asynccontextmanager
async def serving(
    api: KubeApi, port: int | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Serve it on loopback, and yield the URL."""

    class Server(aiohttp.test_utils.RawTestServer):
        async def start_server(self, **more: Any) -> None:  # type: ignore[override]
            await super().start_server(**{**more, "ssl": tls})

    async with api, kmock.Server(api, port=port, server_cls=Server) as server:
        scheme = "https" if tls else "http"
        try:
            yield f"{scheme}://127.0.0.1:{server.port}"
        finally:
            for watcher in list(api.watchers):
                watcher.end()


def kubeconfig(
    folder: Path, server: str, user: Mapping[str, Any] | None = None, **cluster: Any
) -> Path:
    """Write a kubeconfig for a server, without credentials unless some are given."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [
            {
                "name": "test",
                "context": {"cluster": "here", "user": "me", "namespace": NAMESPACE},
            }
        ],
        "clusters": [{"name": "here", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "me", "user": dict(user or {})}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return path


async def _main(port: int, state: dict[str, list[Object]]) -> None:
    api = KubeApi()
    for collection, objects in state.items():
        for obj in objects:
            api.apply(collection, obj)
    async with serving(api, port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_main(int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())))
