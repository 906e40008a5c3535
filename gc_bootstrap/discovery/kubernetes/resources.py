"""Where each kind of object is, how those that matter are selected, and what a Role must allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gc_bootstrap.discovery.kubernetes.objects import (
    Json,
    Reading,
    read_endpoints,
    read_pod,
    read_slice,
)
from gc_bootstrap.discovery.kubernetes.options import Options, ResourceName

VERBS = ("list", "watch")
"""All that is asked of the API."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of the API.

    Parameters
    ----------
    name
        Its plural name.
    group
        Its API group, empty for the core.
    page
        How many objects to ask for at a time.
    read
        What one object says.
    """

    name: ResourceName
    group: str
    page: int
    read: Callable[[Json, Options], Reading]

    def path(self, namespace: str) -> str:
        """Of the collection, all of them in version v1."""
        base = f"/apis/{self.group}/v1" if self.group else "/api/v1"
        return f"{base}/namespaces/{namespace}/{self.name}"

    def selection(self, options: Options) -> Mapping[str, str]:
        """The query that selects the objects that matter."""
        if self.name == "pods":
            return {"labelSelector": str(options.selector)}
        if self.name == "endpoints":
            return {"fieldSelector": f"metadata.name={options.service}"}
        return {"labelSelector": f"kubernetes.io/service-name={options.service}"}

    @property
    def rule(self) -> str:
        """The rule of a Role that allows all that is needed."""
        verbs = ", ".join(VERBS)
        return f'{{apiGroups: ["{self.group}"], resources: [{self.name}], verbs: [{verbs}]}}'


RESOURCES: Mapping[ResourceName, Resource] = {
    # A slice has up to 100 endpoints by default and 1,000 at most, each some 300 bytes.
    "endpointslices": Resource("endpointslices", "discovery.k8s.io", 50, read_slice),
    "endpoints": Resource("endpoints", "", 1, read_endpoints),
    "pods": Resource("pods", "", 100, read_pod),
}
