"""``PoolCluster``: a pool's agents as one of Dask's clusters, for a notebook or a script.

Belongs here: what a ``distributed.deploy.Cluster`` has to have, where its scheduler runs, the
processes that end with it, and what it tells a person. Does not belong here: deciding who is
attached (:mod:`gc_bootstrap.pool`), or doing it (:mod:`gc_bootstrap.scheduler`).
"""
