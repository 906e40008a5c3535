"""The runtime folder: who is registered, who is dead, and what is nobody's business."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gc_bootstrap.peer import Peer
from gc_bootstrap.wire import registrations as module
from gc_bootstrap.wire.registrations import (
    Registrar,
    Registration,
    RuntimeFolderError,
    folders,
    own_cookies,
    read,
    read_all,
)

A, B = Peer("127.0.0.1", 1), Peer("::1", 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "agents"
    folder.mkdir(mode=0o700)
    return folder


@contextmanager
def registered(folder: Path | None, *registrations: Registration) -> Iterator[None]:
    with ExitStack() as stack:
        for registration in registrations:
            registrar = Registrar(folder)
            registrar.register(registration)
            stack.callback(registrar.close)
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """As if an agent that lives had written the file."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_what_is_registered_is_found_until_it_is_taken_back(folder: Path) -> None:
    first, second = Registration(A, 11, "secret"), Registration(B, 12)
    with registered(folder, first, second):
        assert read(folder) == ([first, second], [])
    assert read(folder) == ([], [])
    assert list(folder.iterdir()) == []


def test_one_process_may_register_several_agents(folder: Path) -> None:
    registrations = [Registration(A, 11), Registration(B, 11), Registration(A, 11)]
    with registered(folder, *registrations):
        found, problems = read(folder)
        assert sorted(found, key=lambda r: r.peer) == sorted(registrations, key=lambda r: r.peer)
        assert problems == []


def test_closing_twice_or_without_registering_is_harmless(folder: Path) -> None:
    registrar = Registrar(folder)
    registrar.close()
    registrar.register(Registration(A, 11))
    registrar.close()
    registrar.close()
    assert list(folder.iterdir()) == []


def test_a_registration_does_not_show_its_cookie() -> None:
    assert repr(Registration(A, 11, "secret")) == "<Registration of 127.0.0.1:1, pid 11>"


def test_a_registration_is_for_this_user_only(folder: Path) -> None:
    with registered(folder, Registration(A, 11, "secret")):
        (path,) = folder.iterdir()
        assert path.stat().st_mode & 0o777 == 0o600


def test_the_folder_is_made_for_this_user_only(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with registered(folder, Registration(A, 11)):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_an_agent_that_was_killed_is_not_found_and_its_registration_is_removed(
    folder: Path,
) -> None:
    script = (
        "import os, sys, time; from pathlib import Path; from gc_bootstrap.peer import Peer;"
        "from gc_bootstrap.wire.registrations import Registrar, Registration;"
        "registrar = Registrar(Path(sys.argv[1]));"
        "registrar.register(Registration(Peer('127.0.0.1', 1), os.getpid()));"
        "print('registered', flush=True); time.sleep(60)"
    )
    agent = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "registered\n"
        assert read(folder) == ([Registration(A, agent.pid)], [])
    finally:
        agent.send_signal(signal.SIGKILL)
        agent.communicate(timeout=10)
    assert len(list(folder.iterdir())) == 1
    assert read(folder) == ([], [])
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "missing") == ([], [])
    (tmp_path / "file").touch()
    assert read(tmp_path / "file" / "agents") == ([], [])


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o720, 0o777])
def test_a_folder_that_is_open_to_others_is_refused(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    reason = rf"is open to other users \(mode {mode:04o}, not 0700\)"
    with pytest.raises(RuntimeFolderError, match=reason):
        read(folder)
    with pytest.raises(RuntimeFolderError, match=reason):
        Registrar(folder).register(Registration(A, 11))
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    os.chown(folder, 12345, -1)
    with pytest.raises(RuntimeFolderError, match="belongs to user 12345, not to this one"):
        read(folder)


def test_a_folder_that_is_a_file_or_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(folder)
    file.touch()
    for path in (link, file):
        with pytest.raises(RuntimeFolderError, match=f"{path}"):
            read(path)
        with pytest.raises(RuntimeFolderError, match=f"{path}"):
            Registrar(path).register(Registration(A, 11))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not JSON",
        b"\xff",
        b"[]",
        b"5",
        b"{}",
        b'{"peer": "a b", "pid": 1, "cookie": null}',
        b'{"peer": 5, "pid": 1, "cookie": null}',
        b'{"peer": "a:1", "pid": "x", "cookie": null}',
        b'{"peer": "a:1", "pid": null, "cookie": null}',
        b'{"peer": "a:1", "pid": Infinity, "cookie": null}',
        b'{"peer": "a:1", "pid": 1, "cookie": 5}',
        b'{"peer": "a:1", "pid": 1}',
        b"[" * 8000,
    ],
    ids=lambda content: ascii(content[:44]),
)
def test_a_garbled_registration_is_a_problem_and_hides_no_other(
    folder: Path, content: bytes
) -> None:
    garbled = folder / "garbled-1.agent"
    garbled.write_bytes(content)
    good = Registration(A, 11)
    with locked(garbled), registered(folder, good):
        found, problems = read(folder)
        assert found == [good]
        assert len(problems) == 1
        assert problems[0].startswith(f"{garbled}: not a registration: ")
    assert garbled.exists()


def test_links_folders_and_pipes_are_not_followed_and_not_removed(
    folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_text('{"peer": "a:1", "pid": 1, "cookie": null}')
    (folder / "link-1.agent").symlink_to(target)
    (folder / "folder-1.agent").mkdir()
    os.mkfifo(folder / "pipe-1.agent")
    with locked(target):
        found, problems = read(folder)
    assert found == []
    assert len(problems) == 3
    assert len(list(folder.iterdir())) == 3
    assert target.exists()


@pytest.mark.parametrize("name", ["notes.txt", "id_rsa", "secret-1.agent"])
def test_a_file_that_is_no_registration_is_never_removed(folder: Path, name: str) -> None:
    # GC_BOOTSTRAP_RUNTIME_DIR may name a folder that holds other things: a home, say.
    (folder / name).write_text("years of work")
    with registered(folder, Registration(A, 11)):
        read(folder)
    assert (folder / name).read_text() == "years of work"


def test_a_draft_is_nobody_yet(folder: Path) -> None:
    draft = folder / ".draft"
    draft.write_text('{"peer": "a:1", "pid": 1, "cookie": null}')
    assert read(folder) == ([], [])
    assert draft.exists()


# -- folders ---------------------------------------------------------------------------------------


def test_the_variable_is_the_only_folder() -> None:
    environ = {"GC_BOOTSTRAP_RUNTIME_DIR": "/own", "XDG_RUNTIME_DIR": "/xdg"}
    assert folders(environ) == [Path("/own")]


def test_the_login_session_comes_before_the_temporary_folder() -> None:
    last = Path(f"/tmp/gc_bootstrap-{os.getuid()}")
    session = Path(f"/run/user/{os.getuid()}")
    middle = [session / "gc_bootstrap"] if session.is_dir() else []
    expected = [Path("/xdg/gc_bootstrap"), *middle, last]
    assert folders({"XDG_RUNTIME_DIR": "/xdg"}) == expected
    assert folders({"XDG_RUNTIME_DIR": "/xdg", "TMPDIR": "/elsewhere"}) == expected
    assert folders({"XDG_RUNTIME_DIR": "", "GC_BOOTSTRAP_RUNTIME_DIR": ""}) == expected[1:]
    assert folders({"XDG_RUNTIME_DIR": str(session)})[-1] == last
    assert len(folders({"XDG_RUNTIME_DIR": str(session)})) == 2


def test_new_registrations_go_to_the_first_folder(runtime_dir: Path) -> None:
    with registered(None, Registration(A, 11)):
        assert len(list(runtime_dir.iterdir())) == 1


# -- own cookies -----------------------------------------------------------------------------------


def test_the_cookie_of_an_agent_of_this_user_is_found(runtime_dir: Path) -> None:
    with registered(None, Registration(A, 11), Registration(A, 12, "one"), Registration(B, 13)):
        assert own_cookies() == {A: "one"}
    assert own_cookies() == {}


def test_a_cookie_in_a_folder_that_others_can_write_to_is_not_trusted(runtime_dir: Path) -> None:
    runtime_dir.mkdir(mode=0o700)
    runtime_dir.chmod(0o777)
    with pytest.raises(RuntimeFolderError, match="is open to other users"):
        own_cookies()


# -- somebody else was there first -----------------------------------------------------------------

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as somebody else")
SOMEBODY = 1234
ATTACKS = {
    "a file": "echo hello > {place}",
    "a file that all may write to": "echo hello > {place}; chmod 666 {place}",
    "a link to a folder of theirs": "mkdir {place}.theirs; ln -s {place}.theirs {place}",
    "a link to nowhere": "ln -s /nowhere/at/all {place}",
    "a link to itself": "ln -s {place} {place}",
    "a pipe": "mkfifo {place}",
    "a folder": "mkdir -m 700 {place}",
    "a folder that all may write to": "mkdir {place}; chmod 1777 {place}",
    "a folder with a registration": "mkdir {place}; echo '{registration}' > {place}/1-a-1.agent",
}


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of all users, and an environment that names no other."""
    folder = Path(tempfile.mkdtemp(prefix="gc_bootstrap-test-"))
    folder.chmod(0o1777)
    monkeypatch.setattr(module, "SHARED", folder)
    monkeypatch.delenv("GC_BOOTSTRAP_RUNTIME_DIR")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert folders()[-1] == folder / f"gc_bootstrap-{os.getuid()}"
    monkeypatch.setattr(module, "folders", lambda environ=None: module._shared_folders())
    yield folder
    shutil.rmtree(folder)


@needs_root
@pytest.mark.parametrize("attack", ATTACKS)
def test_agents_are_found_whatever_somebody_else_has_put_in_their_place(
    shared: Path, attack: str, caplog: pytest.LogCaptureFixture
) -> None:
    place = shared / f"gc_bootstrap-{os.getuid()}"
    theirs = '{"peer": "10.6.6.6:1", "pid": 1, "cookie": "theirs"}'
    script = ATTACKS[attack].format(place=place, registration=theirs)
    subprocess.run(["sh", "-c", script], user=SOMEBODY, group=SOMEBODY, extra_groups=[], check=True)
    before = sorted(shared.rglob("*"))
    assert read_all() == ([], [])
    first, second = Registration(A, 11, "secret"), Registration(B, 12)
    with registered(None, first):
        assert read_all() == ([first], [])
        assert own_cookies() == {A: "secret"}
        with registered(None, second):
            assert sorted(read_all()[0], key=lambda r: r.pid) == [first, second]
        # One folder for both, made once and said once, that nobody else can look into.
        assert caplog.text.count(f"{place} belongs to user {SOMEBODY}, not to this one") == 1
        (made,) = module._shared_folders()[1:]
        assert made.stat().st_uid == os.getuid()
        assert made.stat().st_mode & 0o7777 == 0o700
    assert sorted(set(shared.rglob("*")) - {made}) == before


@needs_root
def test_agents_are_found_when_somebody_else_gives_the_place_back(shared: Path) -> None:
    place = shared / f"gc_bootstrap-{os.getuid()}"
    early, late = Registration(A, 11), Registration(B, 12)
    place.mkdir(mode=0o700)
    os.chown(place, SOMEBODY, -1)
    with registered(None, early):
        place.rmdir()
        with registered(None, late):
            assert place.exists()
            assert sorted(read_all()[0], key=lambda r: r.pid) == [early, late]


@needs_root
def test_folders_in_its_stead_that_somebody_else_has_made_are_passed_over(shared: Path) -> None:
    name = f"gc_bootstrap-{os.getuid()}"
    for number in range(50):
        (shared / f"{name}-{number}").mkdir(mode=0o700)
        os.chown(shared / f"{name}-{number}", SOMEBODY, -1)
    (shared / f"{name}-mine-and-open").mkdir()
    (shared / f"{name}-file").touch()
    with registered(None, Registration(A, 11)):
        assert read_all() == ([Registration(A, 11)], [])
        assert module._shared_folders() == [shared / name]


def test_a_hard_link_to_a_file_of_this_user_is_nobodys(shared: Path, tmp_path: Path) -> None:
    (shared / "file").touch()
    os.link(shared / "file", shared / f"gc_bootstrap-{os.getuid()}")
    with registered(None, Registration(A, 11)):
        assert read_all() == ([Registration(A, 11)], [])


def test_a_file_of_this_user_in_the_place_is_said(shared: Path) -> None:
    (shared / f"gc_bootstrap-{os.getuid()}").touch()
    with pytest.raises(RuntimeFolderError, match="is not a folder"):
        read_all()
    with pytest.raises(RuntimeFolderError, match="is not a folder"):
        Registrar().register(Registration(A, 11))


@needs_root
def test_a_folder_that_a_person_has_named_must_be_this_users(runtime_dir: Path) -> None:
    runtime_dir.mkdir(mode=0o700)
    os.chown(runtime_dir, SOMEBODY, -1)
    for ask in (read_all, own_cookies, lambda: Registrar().register(Registration(A, 11))):
        with pytest.raises(RuntimeFolderError, match=f"belongs to user {SOMEBODY}, not to this"):
            ask()


@needs_root
def test_the_session_folder_of_whoever_called_sudo_is_not_this_users(tmp_path: Path) -> None:
    os.chown(tmp_path, SOMEBODY, -1)
    assert tmp_path / "gc_bootstrap" not in folders({"XDG_RUNTIME_DIR": str(tmp_path)})
