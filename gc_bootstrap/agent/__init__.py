"""The process that waits on a worker machine, and runs Dask workers once attached.

Belongs here: the HTTP control API, the agent's states and lease, starting and stopping workers.
Does not belong here: anything that a scheduler does. Idle, an agent opens no Dask port: Dask's
comm layer unpickles before any handler runs, so an open Dask port is an open door.
"""
