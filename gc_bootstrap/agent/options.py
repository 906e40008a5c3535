"""The options of ``dask worker``, turned into the arguments of workers that are started later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import click
import dask.config
from dask.system import CPU_COUNT

from gc_bootstrap.agent import _dask, checks
from gc_bootstrap.errors import ConfigError, one_line

if TYPE_CHECKING:
    from distributed.security import Security

# What of `dask worker` makes no sense here: an agent is told its scheduler later.
_LEFT_OUT = {"scheduler", "scheduler_file", "version", "dashboard_prefix"}


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What to start when a scheduler attaches the agent.

    Parameters
    ----------
    worker_class
        Of the workers.
    nanny
        Whether each worker runs in a process of its own, minded by a :class:`distributed.Nanny`.
    workers
        Keyword arguments of each worker or nanny, those common to all included.
    contact_address
        What the worker tells others to dial, if a person said it.
    nthreads
        Of each worker.
    preload
        Modules that each worker loads.
    """

    worker_class: type
    nanny: bool
    workers: tuple[Mapping[str, Any], ...]
    nthreads: int
    contact_address: str | None = None
    preload: tuple[str, ...] = ()
    security: Security | None = field(default=None, repr=False)

    @property
    def memory(self) -> int:
        """Bytes that each worker may use; 0 where that is not limited."""
        return _dask.parse_memory_limit(self._of_each("memory_limit"), self.nthreads) or 0

    @property
    def resources(self) -> Mapping[str, float]:
        """What each worker has of Dask's abstract resources."""
        given = self._of_each("resources")
        return dict(dask.config.get("distributed.worker.resources") if given is None else given)

    def _of_each(self, name: str) -> Any:
        return self.workers[0].get(name)

    def listening_at(self, host: str | None) -> WorkerOptions:
        """The same for an agent that listens there, where they do not say another host.

        Parameters
        ----------
        host
            An IP address; None for all of this host's: Dask then decides.
        """

        def at(own: Mapping[str, Any]) -> Mapping[str, Any]:
            address = own["dashboard_address"]
            own = {**own, "dashboard_address": _dask.beside_the_worker(address)}
            if host is not None and not (own["host"] or own["interface"]):
                own["host"] = f"[{host}]" if ":" in host else host
            return own

        return replace(self, workers=tuple(map(at, self.workers)))


def click_parameters() -> list[click.Parameter]:
    """The parameters of ``dask worker`` itself, of whichever version of Dask is installed."""
    return [parameter for parameter in _dask.worker_parameters() if parameter.name not in _LEFT_OUT]


def worker_options(given: Mapping[str, Any]) -> WorkerOptions:
    """Make sense of what click parsed.

    The rules are those of ``dask worker``, whose ``main`` applies them to workers that it starts
    at once (distributed 2026.8, ``distributed/cli/dask_worker.py``).

    Parameters
    ----------
    given
        Values of :func:`click_parameters`, by parameter name.

    Raises
    ------
    ConfigError
        Options that contradict each other, or a value that is none; all problems at once.
    """
    common = dict(given)
    problems: list[str] = []
    nanny = common.pop("nanny")
    common.pop("pid_file")
    count, threads = _counts(common.pop("n_workers"), common.pop("nthreads"), problems)
    if count > 1 and not nanny:
        problems.append("--no-nanny: runs one worker, but --nworkers asks for more")
    contact = _addresses(common, count, problems)
    security = _security(common, problems)
    common["resources"], wrong = checks.resources(common["resources"])
    problems += wrong
    problems += _values(given, threads, security)
    worker_class = _worker_class(common.pop("worker_class"), problems)
    if not nanny:
        common.pop("preload_nanny")
    ports: Sequence[Mapping[str, Any]] = ()
    worker_port, nanny_port = common.pop("worker_port"), common.pop("nanny_port")
    wrong = [*checks.ports("--worker-port", worker_port), *checks.ports("--nanny-port", nanny_port)]
    problems += wrong
    if not wrong and not (common["listen_address"] and count > 1):  # that has been said
        ports = _ports(worker_port, nanny_port, count, nanny, problems)
    if problems:
        raise ConfigError(problems)
    listen_address = common.pop("listen_address")
    if nanny:
        common |= {"listen_address": listen_address, "worker_class": worker_class}
    common |= {"nthreads": threads, "contact_address": contact, "security": security}
    name = common.pop("name")
    workers = tuple(
        {**common, **own, "name": _name(name, index, count)} for index, own in enumerate(ports)
    )
    preload = tuple(common["preload"])
    return WorkerOptions(worker_class, nanny, workers, threads, contact, preload, security)


def _counts(n_workers: str | None, nthreads: int, problems: list[str]) -> tuple[int, int]:
    count = 1
    if n_workers == "auto":
        count, nthreads = _dask.nprocesses_nthreads()
    elif n_workers is not None:
        try:
            count = int(n_workers)
        except ValueError:
            problems.append(f"--nworkers {n_workers}: is neither a whole number nor 'auto'")
    if count < 0:
        count += CPU_COUNT + 1
    if count <= 0:
        problems.append(f"--nworkers {n_workers}: leaves no worker to start")
        count = 1
    if count > checks.MOST_WORKERS:
        problems.append(f"--nworkers {n_workers}: is more than {checks.MOST_WORKERS}")
        count = 1
    return count, nthreads or max(1, CPU_COUNT // count)


def _addresses(common: dict[str, Any], count: int, problems: list[str]) -> str | None:
    """Take --listen-address apart, and return the contact address."""
    listen: str | None = common["listen_address"]
    contact: str | None = common.pop("contact_address")
    if contact and not listen:
        problems.append("--contact-address: --listen-address is missing beside it")
    if listen and count > 1:
        problems.append("--listen-address: is for one worker, but --nworkers asks for more")
    if listen and (common["worker_port"] or common["host"]):
        problems.append("--listen-address: says already what --worker-port and --host say")
    if listen and not [*checks.address("listen_address", listen)]:  # those are said elsewhere
        host, port = _dask.get_address_host_port(listen, strict=True)
        common |= {"host": f"[{host}]" if ":" in host else host, "worker_port": str(port)}
    return contact or listen


def _values(given: Mapping[str, Any], threads: int, security: Security | None) -> Iterator[str]:
    """Yield what is wrong with single values."""
    yield from checks.nthreads(given["nthreads"])
    yield from checks.memory_limit(given["memory_limit"], threads)
    yield from checks.durations(given)
    yield from checks.local_directory(given["local_directory"])
    yield from checks.network(given, security)
    if given["nanny"]:
        yield from checks.preload_nanny(given["preload_nanny"])


def _security(common: dict[str, Any], problems: list[str]) -> Security | None:
    from distributed.security import Security

    fields = {"tls_ca_file": "tls_ca_file", "tls_cert": "tls_worker_cert"}
    fields["tls_key"] = "tls_worker_key"
    given = {fields[name]: value for name in fields if (value := common.pop(name)) is not None}
    try:
        return Security(**given)
    except (TypeError, ValueError) as exc:
        problems.append(f"TLS: {one_line(exc)}")
        return None


def _worker_class(path: str, problems: list[str]) -> type:
    try:
        found = _dask.import_term(path)
    except Exception as exc:
        problems.append(f"--worker-class {path}: {one_line(exc)}")
        return object
    if not _dask.is_server(found):
        problems.append(f"--worker-class {path}: is not a class of workers")
    return found if isinstance(found, type) else object


def _ports(
    worker: str | None, nanny_port: str | None, count: int, nanny: bool, problems: list[str]
) -> Sequence[Mapping[str, Any]]:
    try:
        return _dask.share_out_ports(worker, nanny_port, count, nanny)
    except (ValueError, TypeError) as exc:
        problems.append(f"--worker-port, --nanny-port: {exc}")
        return ()


def _name(name: str | None, index: int, count: int) -> str | int | None:
    if not name:
        return None
    if count > 1:
        return f"{name}-{index}"
    return int(name) if name.isdecimal() else name
