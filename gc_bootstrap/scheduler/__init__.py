"""What runs inside a Dask scheduler: the plugin that owns the pools, and the dist ``dask``.

Belongs here: who is a member of this scheduler, attaching agents and draining their workers.
Does not belong here: finding peers, deciding which of them to connect or when (that is
:mod:`gc_bootstrap.pool`), anything that runs on a worker machine (:mod:`gc_bootstrap.agent`).
"""
