"""``PoolCluster``: the agents that a discovery finds, as one of Dask's clusters."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Self

from distributed import Scheduler
from distributed.core import rpc
from distributed.security import Security

from gc_bootstrap.cluster import page, processes, settings
from gc_bootstrap.cluster._dask import WorkerStartTimeoutError
from gc_bootstrap.cluster.advice import advice, in_text, without_members
from gc_bootstrap.cluster.schedulers import Elsewhere, Place, place
from gc_bootstrap.cluster.settings import Settings
from gc_bootstrap.cluster.sizing import SizedCluster
from gc_bootstrap.errors import GcBootstrapError

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0
"""Seconds between two looks at the pools, for what a notebook shows. Dask's own widget and its
``scheduler_sync_interval`` have about the same."""
NOBODY_AFTER = 5.0
"""Seconds without any agent after which that is said."""
LOOK_TIMEOUT = 5.0
"""Seconds for one of those looks."""


class PoolCluster(SizedCluster):
    """A scheduler, and the agents that a discovery finds for it, as a cluster of Dask's.

    Made without ``size`` and ``adapt`` it holds all agents that are found and that nobody else
    needs: other schedulers get their fair share of them, as ``share`` says (:class:`ShareOptions`).
    Agents come within about 0.1 s; nothing waits for them, but ``client.wait_for_workers(n)`` does.

    Parameters
    ----------
    discovery
        Whose agents to attach: ``"local"``, ``"static:10.0.0.5,10.0.0.6"``, ``"dns:NAME"``,
        ``"kubernetes:NAMESPACE/SERVICE"``, a mapping, a :class:`Discovery` or a function that
        returns peers. Default: what Dask's configuration says in ``gc-bootstrap``, else ``local``.
    size : int or "all"
        How many agents to hold.
    cookie_file : str
        File with the secret that scheduler and agents share. Default: as for ``dask scheduler
        --preload gc_bootstrap.preload``; agents of this machine need none.
    key_file : str
        In its place: file with the private key whose public half the agents hold.
    scheduler
        ``"here"``, in this process, or ``"process"``, in one of its own, so that a notebook that
        keeps Python busy does not starve it. It ends with this one, whatever this one dies of.
    host
        Where the scheduler listens; may begin with a protocol, as in ``tls://0.0.0.0``. Default:
        127.0.0.1, which agents on other machines cannot reach: for them, an address of this one.
    scheduler_port
        Where it listens; 0 is any port.
    security : distributed.Security or bool
        TLS, for the scheduler, its agents and clients. True makes certificates that only this
        cluster and the agents that it starts itself know. Default: Dask's configuration.
    name : str
        Of the cluster. Default: a random one.
    asynchronous
        Whether it is used from a running event loop: ``async with PoolCluster(...)``.
    loop : tornado.ioloop.IOLoop
        To run in; default: one in a thread of its own, or the one that runs if asynchronous.
    agents
        How many agents to start on this machine, which share its cores and memory, and end with
        the cluster. They are agents like any others of this user: the discovery ``local`` finds
        them, that of other schedulers too.
    dashboard_address
        Of the scheduler's dashboard; where the port is taken, it is another one. None: none.
    quiet
        Whether not to say it where no agent is found for some seconds.
    silence_logs
        Level below which Dask's log lines are not shown while the cluster lives; False: all are.
    scheduler_kwargs
        Further arguments of :class:`distributed.Scheduler`.
    **options
        The other keys of the ``gc-bootstrap`` configuration, as for :class:`BootstrapPlugin`.

    Attributes
    ----------
    scheduler
        The scheduler itself, where it runs in this process.

    Raises
    ------
    ConfigError
        A :class:`ValueError`: some of it cannot be used; with all problems.
    GcBootstrapError
        The scheduler's process or an agent does not start.

    Examples
    --------
    >>> from gc_bootstrap import PoolCluster
    >>> with PoolCluster("local") as cluster:  # doctest: +SKIP
    ...     client = cluster.get_client()
    ...     client.submit(sum, [1, 2]).result()
    """

    def __init__(
        self,
        discovery: Any = None,
        *,
        size: Any = None,
        cookie_file: str | None = None,
        key_file: str | None = None,
        scheduler: str = "here",
        host: str | None = None,
        scheduler_port: int = 0,
        security: Any = None,
        name: str | None = None,
        asynchronous: bool = False,
        loop: Any = None,
        agents: int = 0,
        dashboard_address: str | None = ":8787",
        quiet: bool = False,
        silence_logs: int | str | bool = logging.WARNING,
        scheduler_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        given = {"size": size, "cookie_file": cookie_file, "key_file": key_file, **options}
        found = settings.read(
            discovery=discovery,
            options=given,
            scheduler=scheduler,
            host=host,
            scheduler_port=scheduler_port,
            security=security,
            dashboard_address=dashboard_address,
            scheduler_kwargs=scheduler_kwargs,
            agents=agents,
        )
        self._prepare(place(found), found.security, _agents(found))
        super().__init__(
            asynchronous=asynchronous,
            loop=loop,
            quiet=quiet,
            name=name,
            silence_logs=silence_logs,
        )

    @classmethod
    def connect(
        cls,
        address: str,
        *,
        security: Any = None,
        name: str | None = None,
        asynchronous: bool = False,
        loop: Any = None,
        quiet: bool = False,
        silence_logs: int | str | bool = False,
    ) -> Self:
        """Make a cluster of a scheduler that runs elsewhere, with this package's preload or plugin.

        What can be done with it changes the pools there; :meth:`close` changes nothing.

        Parameters
        ----------
        address
            Of the scheduler, such as ``tcp://10.0.0.1:8786``.
        security, name, asynchronous, loop, quiet, silence_logs
            As for the class.

        Raises
        ------
        ConfigError
            The address is none, or certificates are missing.
        GcBootstrapError
            There is no scheduler, or it has no pools.
        """
        cluster = cls.__new__(cls)
        secured = settings.security_of(security)
        cluster._prepare(Elsewhere(address, secured), secured, [])  # noqa: SLF001 - its own
        SizedCluster.__init__(
            cluster,
            asynchronous=asynchronous,
            loop=loop,
            quiet=quiet,
            name=name,
            silence_logs=silence_logs,
        )
        return cluster

    def _prepare(self, where: Place, security: Security, agents: list[processes.Child]) -> None:
        self.security = security
        self._place = where
        self._agents = agents
        self._looking: asyncio.Task[None] | None = None

    @property
    def scheduler(self) -> Scheduler | None:
        """The scheduler itself, where it runs in this process."""
        return self._place.scheduler

    @property
    def is_its_own(self) -> bool:
        """Whether it has made its scheduler, and did not :meth:`connect` to it."""
        return not isinstance(self._place, Elsewhere)

    # -- start and end ---------------------------------------------------------------------------

    async def launch(self) -> rpc:
        """Start agents and the scheduler."""
        await processes.start_agents(self._agents, self.security)
        address = await self._place.start()
        return rpc(address, connection_args=self.security.get_connection_args("client"))

    async def launched(self) -> None:
        """Look at the pools from now on."""
        self._pools = await self.pools_now()
        self._looking = asyncio.create_task(self._look(), name="PoolCluster: look at the pools")

    async def leave(self) -> None:
        """Let all agents go; then end what was started."""
        await self.forget_sizes()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        try:
            await self._place.close()
        finally:
            await asyncio.gather(*(agent.stop() for agent in self._agents))

    # -- what the pools know ---------------------------------------------------------------------

    def pool_status(self) -> Any:
        """What ``dask pool status --json`` prints: members, peers held and why, errors.

        ``Cluster.status`` is something else of Dask's: whether the cluster runs.

        Returns
        -------
        dict or awaitable
            To be awaited where the cluster is asynchronous.
        """

        async def status() -> dict[str, Any]:
            await self._start()
            return await self.pools_now()

        return self.sync(status)

    async def _look(self) -> None:
        """Keep up with what the pools know, and say it where nobody is found."""
        loop = asyncio.get_running_loop()
        said, since = self.quiet, loop.time()
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            try:
                async with asyncio.timeout(LOOK_TIMEOUT):
                    self._pools = await self.pools_now()
                    await self.look_at_workers()
            except (OSError, TimeoutError, GcBootstrapError) as exc:
                logger.debug("The pools could not be asked: %s", exc)  # Dask says it loudly enough
                continue
            if said or not without_members(self._pools):
                said = True
            elif loop.time() - since > NOBODY_AFTER:
                said = True
                for line in advice(self._pools):
                    logger.warning("No agents yet: %s", line)
                    self.note(line)

    async def _wait_for_workers(self, n_workers: int = 0, timeout: Any = None) -> None:
        try:
            await self.watched(n_workers, timeout)
        except WorkerStartTimeoutError as exc:
            try:
                found = advice(await self.pools_now())
            except (OSError, GcBootstrapError) as gone:
                found = [f"the scheduler cannot be asked: {gone}"]
            raise NotEnoughWorkersError(exc, found) from None

    # -- what it shows ---------------------------------------------------------------------------

    def why_gone(self) -> str:
        """Say that the scheduler's process has ended: Dask would wait half a minute for it."""
        process = self._place.process
        return "has ended" if process is not None and process.ended else ""

    def process_logs(self) -> dict[str, str]:
        """What the processes of this cluster have said."""
        process = self._place.process
        return {child.name: child.said for child in (process, *self._agents) if child is not None}

    def _repr_html_(self, cluster_status: str | None = None) -> str:
        pools = page.pools(self._pools) if self._pools is not None else ""
        text: str = super()._repr_html_(cluster_status=pools + (cluster_status or ""))
        return text


class NotEnoughWorkersError(WorkerStartTimeoutError):
    """Fewer workers than somebody waits for; with what the discoveries have answered."""

    def __init__(self, error: WorkerStartTimeoutError, lines: list[str]) -> None:
        super().__init__(error.available_workers, error.expected_workers, error.timeout)
        self.lines = lines

    def __str__(self) -> str:
        return super().__str__() + in_text(self.lines)


def _agents(found: Settings) -> list[processes.Child]:
    (cookie_file, *_) = [pool.cookie_file for pool in found.pools.values()] or [None]
    return processes.agent_processes(found.agents, cookie_file, found.security)
