"""Peers that the Kubernetes API names: EndpointSlices, Endpoints or Pods, listed and watched.

Belongs here: asking the API, and reading its objects. Does not belong here: what a peer is used
for, and writing anything to the API. An agent that does (:mod:`gc_bootstrap.agent.own_pod`) has its
credentials and errors from here.

=================  =============================================================================
``options``        what a person may write, checked
``objects``        pure: one object of the API, as a plain dict, to the peers that it names
``store``          pure: all objects to one snapshot; lists and watch events to all objects
``decode``         pure: a page of a list, piece by piece
``resources``      where each kind of object is, and what a Role has to allow
``kubeconfig``     kubeconfig files and their exec plugins, to the fields that a connection needs
``credentials``    who we are to the API server: a pod's service account, or a kubeconfig
``api``            HTTP: pages of a list, lines of a watch, errors as one line each
``reflector``      the shell: list, watch, and what to do when either breaks
``discovery``      the discovery itself
=================  =============================================================================

The client library is imported with this package, which happens when a configuration names it: in a
thread, before the pool starts.
"""

from gc_bootstrap.discovery.kubernetes.discovery import KubernetesDiscovery

__all__ = ["KubernetesDiscovery"]
