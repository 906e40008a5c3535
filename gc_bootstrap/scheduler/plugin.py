"""The scheduler plugin that owns the pools."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from distributed.diagnostics.plugin import SchedulerPlugin

from gc_bootstrap import backends, config
from gc_bootstrap.config import DEFAULT_POOL, NAMESPACE, PoolOptions
from gc_bootstrap.errors import ConfigError, UnconfiguredError, one_line
from gc_bootstrap.logs import log_like_distributed
from gc_bootstrap.scheduler import _dask
from gc_bootstrap.scheduler.drains import Drainer
from gc_bootstrap.scheduler.members import Members
from gc_bootstrap.scheduler.metrics import METRICS
from gc_bootstrap.scheduler.resize import read_size, which
from gc_bootstrap.wire.names import RESIZE_HANDLER, STATUS_HANDLER

if TYPE_CHECKING:
    from distributed import Scheduler

    from gc_bootstrap.pool import Pool

logger = logging.getLogger(__name__)

NOTHING_CONFIGURED = (
    f"nothing is started: {NAMESPACE}.discovery is null and there are no pools (is a variable"
    " unset?)"
)
UNREGISTERED_POLL = 1.0
"""Seconds between two looks at whether the scheduler still knows the plugin."""


class BootstrapPlugin(SchedulerPlugin):
    """Runs pools inside a scheduler, from its start or from ``client.register_plugin``.

    Parameters
    ----------
    discovery
        Whose agents to attach: a short form such as ``"static:10.0.0.5,10.0.0.6"``, a mapping, a
        :class:`Discovery` or a function that returns peers. Default: the scheduler's
        configuration.
    **options
        The other keys of the ``gc-bootstrap`` configuration, over what the scheduler's says;
        ``gc_bootstrap.yaml`` explains each, and None is as good as not given:

        - dist : str or dict, how agents are attached
        - size : "all" or int, how many agents to hold
        - adapt : dict of minimum, maximum, interval, wait_count, target_duration; in place of size
        - share : dict of policy, weight, guaranteed
        - refresh_interval : str or number of seconds, how often to look
        - connect : dict of timeout, concurrency
        - reconnect : dict of initial, factor, max, jitter
        - removal : dict of policy, after, grace, panic_threshold
        - drain : dict of timeout
        - cookie_file : str, a file that the scheduler reads
        - key_file : str, the same for a private key, in place of a cookie
        - scheduler_address : str, what agents are told to dial
        - versions : "refuse", "warn" or "ignore"
        - pools : dict of further pools by name, each with the keys above

    Raises
    ------
    ConfigError
        One of the given values is wrong; with all problems.

    Examples
    --------
    >>> client.register_plugin(BootstrapPlugin(discovery="local"))  # doctest: +SKIP
    """

    name = "gc_bootstrap"
    idempotent = False

    def __init__(self, discovery: Any = None, **options: Any) -> None:
        self._overrides = {key: value for key, value in options.items() if value is not None}
        if discovery is not None:
            self._overrides["discovery"] = discovery
        _, problems = config.read_pools(self._overrides, configured={})
        if problems:
            raise ConfigError(problems)
        self.pools: dict[str, Pool] = {}
        self.not_started: tuple[str, ...] = ()
        self._prepared = False
        self._scheduler: Scheduler | None = None
        self._watchdog: asyncio.Task[None] | None = None
        self._hide: Callable[[], None] | None = None
        self._closed = False

    @classmethod
    def unchecked(cls, **overrides: Any) -> Self:
        """Make one whose options are first looked at by :meth:`prepare`, all problems at once."""
        plugin = cls()
        plugin._overrides = {key: value for key, value in overrides.items() if value is not None}
        return plugin

    def __getstate__(self) -> dict[str, Any]:
        # Sent by a client before it has been started: the options are all there is.
        return {"overrides": self._overrides}

    def __setstate__(self, state: dict[str, Any]) -> None:
        overrides = dict(state["overrides"])
        self.__init__(overrides.pop("discovery", None), **overrides)  # type: ignore[misc]

    def prepare(self, scheduler: Scheduler) -> None:
        """Make the pools, without starting them. Imports and reads what the options name.

        Raises
        ------
        ConfigError
            With all problems; nothing has been made then.
        """
        pools, problems = config.read_pools(self._overrides)
        made: dict[str, Pool] = {}
        not_started: list[str] = []
        for name, options in pools.items():
            prefix = NAMESPACE if name == DEFAULT_POOL else f"{NAMESPACE}.pools.{name}"
            try:
                made[name] = _make_pool(scheduler, name, options, prefix)
            except UnconfiguredError as exc:
                not_started.append(f"pool {name} is not started: {exc}")
            except ConfigError as exc:
                problems.extend(exc.problems)
        if problems:
            raise ConfigError(dict.fromkeys(problems))
        if not pools:
            not_started.append(NOTHING_CONFIGURED)
        for line in not_started:
            logger.warning("%s", line[0].upper() + line[1:])
        self.pools, self.not_started = made, tuple(not_started)
        self._prepared = True

    async def start(self, scheduler: Scheduler) -> None:
        """Start the pools. Waits for no peer, and fails for no peer's fault.

        Raises
        ------
        ConfigError
            Where :meth:`prepare` has not been called before and finds problems, or where a
            discovery or a dist first finds them when it starts. All pools are closed then.
        """
        if self._scheduler is not None:
            return
        log_like_distributed()
        if not self._prepared:
            # Importing a backend takes time that the event loop does not have.
            await asyncio.to_thread(self.prepare, scheduler)
        self._scheduler = scheduler
        before = _dask.plugin(scheduler, self.name)
        if isinstance(before, BootstrapPlugin) and before is not self:
            # Dask replaces a plugin of the same name without a word to it, and with one to others.
            logger.warning(
                "A plugin named %s is registered already: this one takes its place, and its pools"
                " are closed",
                self.name,
            )
            await before.close()
            if _dask.plugin(scheduler, self.name) is before:
                scheduler.remove_plugin(name=self.name)
        self._add_rpcs(scheduler)
        self._hide = METRICS.show(scheduler, self.pools)
        problems: list[str] = []
        for name, pool in self.pools.items():
            try:
                await pool.start()
            except ConfigError as exc:
                problems += (f"pool {name}: {problem}" for problem in exc.problems)
            except Exception as exc:
                logger.exception("Pool %s does not start: %s", name, one_line(exc))
            else:
                logger.info("Pool %s looks for peers by %r", name, pool.discovery)
        if problems:
            await self.close()
            raise ConfigError(problems)
        self._watchdog = asyncio.create_task(
            self._close_when_unregistered(scheduler), name="gc_bootstrap plugin: watchdog"
        )

    async def before_close(self) -> None:
        """Stop attaching before the scheduler lets its workers go."""
        await self.close()

    async def close(self) -> None:
        """Close the pools. The workers stay attached. May be called more than once."""
        if self._closed:
            return
        self._closed = True
        if self._watchdog is not None and self._watchdog is not asyncio.current_task():
            self._watchdog.cancel()
            await asyncio.gather(self._watchdog, return_exceptions=True)
        if self._hide is not None:
            self._hide()
        await asyncio.gather(*(pool.close() for pool in self.pools.values()))
        if self._scheduler is not None:
            for name, handler in self._handlers.items():
                _dask.remove_rpc(self._scheduler, name, handler)

    def _add_rpcs(self, scheduler: Scheduler) -> None:
        for name, handler in self._handlers.items():
            _dask.add_rpc(scheduler, name, handler)

    @property
    def _handlers(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        return {STATUS_HANDLER: self.status, RESIZE_HANDLER: self._resize_by_rpc}

    def resize(
        self,
        pool: str | None = None,
        *,
        size: int | str = "all",
        adapt: Mapping[str, Any] | None = None,
    ) -> None:
        """Have a pool hold another number of agents from now on.

        Parameters
        ----------
        pool
            Its name; None is the only one.
        size
            ``"all"``, or how many.
        adapt
            In its place, keys as in ``gc-bootstrap.adapt``: as many as the work needs.

        Raises
        ------
        ConfigError
            There is no such pool, or a value is wrong; with all problems. The pool goes on as
            before.
        """
        name, sizes = which(self.pools, pool), read_size(size, adapt)
        try:
            self.pools[name].resize(*sizes)
        except ConfigError as exc:
            raise ConfigError(f"pool {name}: {problem}" for problem in exc.problems) from exc
        logger.info("Pool %s is given the size %s", name, size if adapt is None else dict(adapt))

    async def _resize_by_rpc(self, **change: Any) -> dict[str, Any]:
        try:
            self.resize(**change)
        except (ConfigError, TypeError) as exc:
            return {"problems": getattr(exc, "problems", (one_line(exc),))}
        return {"problems": ()}

    async def status(self) -> dict[str, Any]:
        """What ``dask pool status`` shows, of types that msgpack knows."""
        assert self._scheduler is not None, "start() comes first"
        members, drainer = Members.of(self._scheduler), Drainer.of(self._scheduler)
        pools = []
        for name, pool in self.pools.items():
            status = (await pool.status()).to_json()
            workers = {str(peer): found for peer, found in members.by_peer(name).items()}
            promised = {str(peer): n for peer, n in members.promised(name).items()}
            status["counters"] |= drainer.counters(name)
            drains = [told.to_json() for told in drainer.drains(name)]
            pools.append({**status, "workers": workers, "nworkers": promised, "drains": drains})
        return {
            "scheduler": {"address": self._scheduler.address, "id": self._scheduler.id},
            "pools": pools,
            "not-started": list(self.not_started),
        }

    async def _close_when_unregistered(self, scheduler: Scheduler) -> None:
        """Notice ``client.unregister_scheduler_plugin``: Dask drops the plugin without a word."""
        registered = False
        while not registered or _dask.plugin(scheduler, self.name) is self:
            registered = registered or _dask.plugin(scheduler, self.name) is self
            await asyncio.sleep(UNREGISTERED_POLL)
        logger.info("The plugin has been unregistered: its pools are closed")
        await self.close()


def _make_pool(scheduler: Scheduler, name: str, options: PoolOptions, prefix: str) -> Pool:
    from gc_bootstrap.discovery import as_discovery
    from gc_bootstrap.dist import Dist, Owner
    from gc_bootstrap.pool import Pool

    problems: list[str] = []
    found: dict[backends.Kind, Any] = {}
    written: dict[backends.Kind, Any] = {"discovery": options.discovery, "dist": options.dist}
    for kind, value in written.items():
        try:
            found[kind] = backends.load(kind, value, f"{prefix}.{kind}")
        except UnconfiguredError:
            raise
        except ConfigError as exc:
            problems.extend(exc.problems)
    dist = found.get("dist")
    if isinstance(dist, Dist):
        try:
            dist.bind(Owner(scheduler, name, options))
        except ConfigError as exc:
            problems.extend(exc.problems)
    elif "dist" in found:
        problems.append(f"{prefix}.dist: {options.dist!r} is not a Dist")
    if "discovery" in found:
        try:
            found["discovery"] = as_discovery(found["discovery"])
        except ConfigError as exc:
            problems.append(f"{prefix}.discovery: {exc}")
    if problems:
        raise ConfigError(problems)
    return Pool(found["discovery"], found["dist"], name=name, options=options)
