"""The per-user runtime folder, where agents of this host register themselves.

An agent holds a lock (``flock``) on its registration for as long as it lives. The kernel releases
it however the agent dies, so a registration that nobody locks is of a dead agent: no process ids
to compare, no heartbeats to miss. Belongs here: files and locks. Does not belong here: what a
registration is used for.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gc_bootstrap.errors import GcBootstrapError, PeerError, one_line
from gc_bootstrap.peer import Peer

logger = logging.getLogger(__name__)

VARIABLE = "GC_BOOTSTRAP_RUNTIME_DIR"
SUFFIX = ".agent"
SHARED = Path("/tmp")  # noqa: S108 - what is used in it is checked to be this user's, with 0700
"""Where all users make files. Not what ``TMPDIR`` says, which a service may not share."""


class RuntimeFolderError(GcBootstrapError):
    """The runtime folder cannot be used, or is not this user's alone."""


class ForeignFolderError(RuntimeFolderError):
    """What is there is somebody else's: no agent of this user is in it."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What an agent says about itself to the other processes of its user.

    ``cookie`` is set where the agent made its own because its user provided none.
    """

    peer: Peer
    pid: int
    cookie: str | None = None

    def __repr__(self) -> str:
        return f"<Registration of {self.peer}, pid {self.pid}>"


def folders(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Where registrations can be, the place to write new ones first.

    ``GC_BOOTSTRAP_RUNTIME_DIR`` alone if it is set. Otherwise ``$XDG_RUNTIME_DIR``,
    ``/run/user/UID`` and the temporary folder: a login session, a cron job and a service of one
    user differ in their environment, and are to find each other all the same. Anybody can take a
    name in the temporary folder first, so this user's folders with a longer name count as well.
    """
    if own := environ.get(VARIABLE):
        return [Path(own)]
    uid = os.getuid()
    found = []
    if (session := environ.get("XDG_RUNTIME_DIR")) and not _is_foreign(Path(session)):
        found.append(Path(session, "gc_bootstrap"))
    if (login := Path(f"/run/user/{uid}")).is_dir():
        found.append(login / "gc_bootstrap")
    return list(dict.fromkeys([*found, *_shared_folders()]))


def _is_foreign(folder: Path) -> bool:
    """Whether it is another user's: ``su`` and ``sudo`` may leave their caller's variables."""
    try:
        return folder.stat().st_uid != os.getuid()
    except FileNotFoundError:
        return False
    except OSError:
        return True  # not even to be looked at


def _shared_folders() -> list[Path]:
    """The well-known folder of this user in the temporary folder, and those made in its stead."""
    known = SHARED / f"gc_bootstrap-{os.getuid()}"
    spare = []
    with suppress(FileNotFoundError), os.scandir(known.parent) as entries:
        for entry in entries:
            if entry.name.startswith(f"{known.name}-"):
                with suppress(RuntimeFolderError, FileNotFoundError):
                    _check_private(Path(entry.path))
                    spare.append(Path(entry.path))
    return [known, *sorted(spare)]


def _check_private(folder: Path) -> None:
    """Refuse a folder that somebody else could have put there, or can write to or read."""
    status = folder.lstat()
    is_folder = stat.S_ISDIR(status.st_mode)
    # Before all else: what somebody else has made is none of ours, whatever it is.
    if status.st_uid != os.getuid():
        raise ForeignFolderError(f"{folder} belongs to user {status.st_uid}, not to this one")
    if not is_folder and status.st_nlink > 1:
        # A hard link belongs to whom the file belongs to, not to whoever has made it.
        raise ForeignFolderError(f"{folder} is a link that anybody could have made")
    if not is_folder:
        raise RuntimeFolderError(f"{folder} is not a folder")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise RuntimeFolderError(f"{folder} is open to other users (mode {mode:04o}, not 0700)")


class Registrar:
    """Keeps one registration in the runtime folder, from :meth:`register` to :meth:`close`.

    Parameters
    ----------
    folder
        Made, for this user alone, where it is missing. Default: the first of :func:`folders` that
        is not somebody else's; where all are, a new one beside the last.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._path: Path | None = None
        self._fd: int | None = None

    def register(self, registration: Registration) -> None:
        """Write the registration, locked before anybody can see it; sweep those of the dead.

        Raises
        ------
        RuntimeFolderError
            The folder cannot be written to, or is not private.
        """
        folder = self._folder if self._folder is not None else _first_of_ours()
        try:
            _make_private(folder)
            fd, draft = tempfile.mkstemp(prefix=".", dir=folder)
        except OSError as exc:
            raise RuntimeFolderError(f"{folder}: {exc.strerror}") from exc
        self._fd = fd
        fcntl.flock(fd, fcntl.LOCK_EX)
        peer = registration.peer
        content = asdict(registration) | {"peer": str(peer)}
        os.write(fd, json.dumps(content).encode())
        unique = os.path.basename(draft)[1:]
        self._path = folder / f"{registration.pid}-{unique}-{peer.port}{SUFFIX}"
        os.rename(draft, self._path)
        read(folder)

    @property
    def lost(self) -> bool:
        """Whether somebody has removed the registration: a logout, or who tidies ``/tmp``."""
        return self._fd is not None and os.fstat(self._fd).st_nlink == 0

    def close(self) -> None:
        """Take the registration back."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _make_private(folder: Path) -> None:
    # FileExistsError: it is no folder, or a link that leads nowhere; what it is, is said next.
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(folder)


def _first_of_ours() -> Path:
    """The first folder that nobody else has taken; where all are taken, a new one."""
    places = folders()
    taken: list[ForeignFolderError] = []
    for folder in places:
        try:
            _make_private(folder)
        except ForeignFolderError as exc:
            taken.append(exc)
        except OSError as exc:
            raise RuntimeFolderError(f"{folder}: {exc.strerror}") from exc
        else:
            return folder
    if os.environ.get(VARIABLE):
        raise taken[0]
    last = _shared_folders()[0]
    # Nobody can know its name before it is there; those who look go through all names.
    new = Path(tempfile.mkdtemp(prefix=f"{last.name}-", dir=last.parent))
    logger.warning("%s; registrations go to %s", taken[-1], new)
    return new


def read(folder: Path) -> tuple[list[Registration], list[str]]:
    """Read the registrations of agents that live, and remove those of agents that do not.

    Parameters
    ----------
    folder
        Only files in it that are named as registrations are looked at.

    Returns
    -------
    tuple
        The registrations, and one line for each that could not be made sense of.

    Raises
    ------
    RuntimeFolderError
        The folder exists and cannot be read, or is not private. A folder that does not exist is
        simply empty: no agent has ever run.
    """
    try:
        _check_private(folder)
        paths = sorted(folder.glob(f"*{SUFFIX}"))
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except OSError as exc:
        raise RuntimeFolderError(f"{folder}: {exc.strerror}") from exc
    found: list[Registration] = []
    problems: list[str] = []
    for path in paths:
        try:
            registration = _read_one(path)
        except FileNotFoundError:
            continue  # its agent has just ended
        except (OSError, *_PARSE_ERRORS) as exc:
            problems.append(f"{path}: not a registration: {one_line(exc)}")
        else:
            if registration is not None:
                found.append(registration)
    return found, problems


def read_all(environ: Mapping[str, str] = os.environ) -> tuple[list[Registration], list[str]]:
    """Read all of :func:`folders`, as :func:`read` does one.

    What is somebody else's is passed over: anybody can make it in the temporary folder, and must
    not be able to hide the others. The one that ``GC_BOOTSTRAP_RUNTIME_DIR`` names must be this
    user's.

    Raises
    ------
    RuntimeFolderError
        As :func:`read`.
    """
    places = folders(environ)
    if environ.get(VARIABLE):
        return read(places[0])
    found: list[Registration] = []
    problems: list[str] = []
    for folder in places:
        with suppress(ForeignFolderError):
            registrations, unread = read(folder)
            found += registrations
            problems += unread
    return found, problems


def _read_one(path: Path) -> Registration | None:
    """Read one registration; None (and it is removed) where its agent is dead."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            raise PeerError("not a file of this user")
        alive = _is_locked(fd)
        try:
            registration = _parse(file.read(8192))
        except _PARSE_ERRORS:
            if alive:
                raise
            return None  # of nobody who lives, and not known to be ours to remove
    if not alive:
        path.unlink(missing_ok=True)
        return None
    return registration


_PARSE_ERRORS = (ValueError, KeyError, TypeError, OverflowError, RecursionError)


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _parse(text: bytes) -> Registration:
    content = json.loads(text)
    cookie = content["cookie"]
    if cookie is not None and not isinstance(cookie, str):
        raise TypeError("its cookie is no text")
    return Registration(Peer.parse(content["peer"]), int(content["pid"]), cookie)


def own_cookies(environ: Mapping[str, str] = os.environ) -> dict[Peer, str]:
    """The cookies that living agents of this user made for themselves.

    Raises
    ------
    RuntimeFolderError
        A runtime folder cannot be trusted.
    """
    registrations, _ = read_all(environ)
    return {r.peer: r.cookie for r in registrations if r.cookie is not None}
