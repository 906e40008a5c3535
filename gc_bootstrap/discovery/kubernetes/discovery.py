"""Peers that the Kubernetes API names, pushed by it within milliseconds.

The three outcomes: what the store says while the watch lives (the whole answer, also where it is
empty: a Service that is not there has no EndpointSlices, and the Role that is needed does not let
us ask for the Service itself); while the watch is broken, or where an object cannot be read, a part
of the truth (``complete=False``); no list yet, or nothing but objects that cannot be read: "cannot
know".
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gc_bootstrap.discovery.base import Discovery
from gc_bootstrap.discovery.kubernetes.api import Api
from gc_bootstrap.discovery.kubernetes.credentials import Access
from gc_bootstrap.discovery.kubernetes.options import (
    DEFAULT_PORT_NAME,
    Address,
    Family,
    Options,
    ResourceName,
)
from gc_bootstrap.discovery.kubernetes.reflector import Reflector
from gc_bootstrap.discovery.kubernetes.resources import RESOURCES, Resource
from gc_bootstrap.discovery.kubernetes.store import Store
from gc_bootstrap.errors import ConfigError, DiscoveryError
from gc_bootstrap.peer import Snapshot

logger = logging.getLogger(__name__)

FIRST_LIST = 10.0
"""Seconds that the first answer waits for the first list, while what fails may still mend."""


class KubernetesDiscovery(Discovery):
    """Agents behind a Service, or pods by their labels: ``kubernetes:NAMESPACE/SERVICE``.

    Parameters
    ----------
    service
        The Service whose endpoints are the agents. ``resource: pods`` needs none.
    namespace
        Default: the pod's own, or with a kubeconfig its context's, else ``default``.
    resource
        ``endpointslices`` (and ``endpoints`` where a server has none), ``endpoints`` or ``pods``.
    selector
        Of pods, as ``kubectl --selector`` takes it: ``app=dask-agent,tier!=gpu``.
    address
        ``ip``; ``hostname``: ``HOSTNAME.SERVICE.NAMESPACE.svc.CLUSTER-DOMAIN``, for pods with a
        hostname and a subdomain, as those of a StatefulSet; ``pod-dns``:
        ``1-2-3-4.NAMESPACE.pod.CLUSTER-DOMAIN``.
    port
        Of the agents: a number, or the name of a port of the Service (of the container, for pods).
    ip_family
        ``ipv4`` or ``ipv6``, of pods that have both. Default: the cluster's first family, where
        the Service has it, else the other; for pods and Endpoints the one that the API names first.
    cluster_domain
        For ``hostname`` and ``pod-dns``; may be empty, for names that end in ``svc`` or ``pod``.
    kubeconfig, context
        For use outside the cluster. Default: the pod's service account, else ``$KUBECONFIG``, else
        ``~/.kube/config``, with its current context.

    Raises
    ------
    ConfigError
        With all that is wrong with the options.
    """

    def __init__(
        self,
        service: str | None = None,
        namespace: str | None = None,
        resource: ResourceName = "endpointslices",
        selector: str | None = None,
        address: Address = "ip",
        port: int | str = DEFAULT_PORT_NAME,
        ip_family: Family | None = None,
        cluster_domain: str = "cluster.local",
        kubeconfig: str | None = None,
        context: str | None = None,
    ) -> None:
        self._options = Options.checked(
            service=service,
            namespace=namespace,
            resource=resource,
            selector=selector,
            address=address,
            port=port,
            ip_family=ip_family,
            cluster_domain=cluster_domain,
            kubeconfig=kubeconfig,
            context=context,
        )
        self._access = Access(self._options)
        self._reflector = Reflector(
            Api(self._options, self._access),
            RESOURCES[self._options.resource],
            self._make_store,
            lambda: str(self._access.namespace),
            self._on_change,
            clock=time.monotonic,
            sleep=asyncio.sleep,
            random=random.random,
        )
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._answered: Snapshot | None = None
        self._problems: list[str] = []

    def __repr__(self) -> str:
        options = self._options
        what = options.selector if options.resource == "pods" else options.service
        return f"kubernetes {options.resource} {self._access.namespace or '(own namespace)'}/{what}"

    @classmethod
    def options_from_text(cls, text: str) -> Mapping[str, Any]:
        """Read ``NAMESPACE/SERVICE``, ``SERVICE``, or ``NAMESPACE/`` for pods."""
        namespace, slash, service = text.rpartition("/")
        if "/" in namespace or (slash and not namespace):
            raise ConfigError(f"{text!r} is not NAMESPACE/SERVICE")
        return {k: v for k, v in {"namespace": namespace, "service": service}.items() if v}

    async def start(self) -> None:
        assert self._task is None, "started already"
        self._task = asyncio.create_task(self._reflector.run(), name=f"gc_bootstrap {self!r}")

    async def peers(self) -> Snapshot:
        reflector = self._reflector
        if reflector.store is None:
            try:
                async with asyncio.timeout(FIRST_LIST):
                    await reflector.settled.wait()
            except TimeoutError:
                error = reflector.error or f"no list from the API server within {FIRST_LIST:g} s"
                raise DiscoveryError(str(error)) from None
        if reflector.store is None:
            raise DiscoveryError(str(reflector.error))
        self._changed.clear()
        snapshot = self._answered = self._answer(reflector.store)
        self._say_problems(reflector.store.problems())
        if self._problems and not snapshot.peers:
            raise DiscoveryError(self._problems[0])
        return snapshot

    async def changed(self) -> None:
        while True:
            await self._changed.wait()
            store = self._reflector.store
            if store is not None:
                now, before = self._answer(store), self._answered
                if before is None or now != before or now.reason != before.reason:
                    return
            self._changed.clear()

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._access.close()

    def _answer(self, store: Store) -> Snapshot:
        snapshot = store.snapshot()
        error = self._reflector.error
        return replace(snapshot, complete=False, reason=str(error)) if error else snapshot

    def _say_problems(self, problems: list[str]) -> None:
        for problem in problems:
            if problem not in self._problems:
                logger.warning("%r: %s", self, problem)
        self._problems = problems

    def _on_change(self) -> None:
        self._changed.set()

    def _make_store(self, resource: Resource) -> Store:
        options = replace(self._options, namespace=self._access.namespace)
        usual = self._access.usual_family
        return Store(lambda obj: resource.read(obj, options), options.ip_family, usual)
