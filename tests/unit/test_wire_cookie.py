"""The cookie: where it is found, what it must be, and that it never shows itself."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

from gc_bootstrap.errors import ConfigError
from gc_bootstrap.wire.cookie import LONGEST, SHORTEST, Cookie, find, generate

SECRET = "correct horse battery staple"


def test_a_cookie_never_shows_itself(tmp_path: Path) -> None:
    cookie = Cookie(SECRET, "a test")
    assert repr(cookie) == str(cookie) == "the cookie from a test"
    for attribute in ("key", "where"):
        assert SECRET not in str(getattr(cookie, attribute))
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(cookie)
    with pytest.raises(TypeError, match="never pickled"):
        copy.copy(cookie)


def test_the_key_depends_on_the_whole_secret_and_on_nothing_else() -> None:
    assert Cookie(SECRET, "a").key == Cookie(SECRET, "b").key
    assert Cookie(SECRET, "a").key != Cookie(SECRET + "s", "a").key
    assert len(Cookie(SECRET, "a").key) == 32


@pytest.mark.parametrize("length", [SHORTEST, LONGEST])
def test_the_longest_and_the_shortest_are_good(length: int) -> None:
    assert Cookie("x" * length, "a test").where == "a test"


@pytest.mark.parametrize("length", [0, SHORTEST - 1, LONGEST + 1])
def test_too_short_and_too_long_are_refused_without_being_shown(length: int) -> None:
    with pytest.raises(ConfigError) as caught:
        Cookie("x" * length, "a test")
    assert str(caught.value).startswith(
        f"a test: the cookie has {length} characters; expected 16 to 4096, such as"
    )
    assert "xxx" not in str(caught.value)


def test_generated_cookies_are_good_and_differ() -> None:
    first, second = generate(), generate()
    assert first != second
    assert len(first) == 64


def test_nothing_provided_is_none() -> None:
    assert find(None, {}) is None
    assert find(None, {"GC_BOOTSTRAP_COOKIE_FILE": ""}) is None


def test_a_file_is_read_without_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "cookie"
    file.write_text(f"{SECRET}\n")
    for found in (find(str(file), {}), find(None, {"GC_BOOTSTRAP_COOKIE_FILE": str(file)})):
        assert found is not None
        assert found.key == Cookie(SECRET, "").key


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o600, False), (0o440, False), (0o644, True), (0o604, True)]
)
def test_a_file_that_every_user_can_read_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    file = tmp_path / "cookie"
    file.write_text("0123456789abcdef")
    file.chmod(mode)
    for _ in range(2):
        assert find(str(file), {}) is not None
    line = f"--cookie-file {file}: every user of this host can read it; expected: chmod 600 {file}"
    assert [record.message for record in caplog.records] == [line] * warned


def test_the_file_given_wins_over_the_variables_and_the_file_over_the_secret(
    tmp_path: Path,
) -> None:
    texts = [f"{name} {SECRET}" for name in ("given", "file", "inline")]
    paths = [tmp_path / name for name in ("given", "file")]
    for path, text in zip(paths, texts, strict=False):
        path.write_text(text)
    environ = {"GC_BOOTSTRAP_COOKIE_FILE": str(paths[1]), "GC_BOOTSTRAP_COOKIE": texts[2]}
    for text, file in ((texts[0], str(paths[0])), (texts[1], None)):
        found = find(file, dict(environ))
        assert found is not None
        assert found.key == Cookie(text, "").key
    del environ["GC_BOOTSTRAP_COOKIE_FILE"]
    found = find(None, environ)
    assert found is not None
    assert found.key == Cookie(texts[2], "").key


@pytest.mark.parametrize("variable", ["short", "", "\udcff" * 20], ids=["short", "empty", "bytes"])
def test_a_bad_secret_in_the_environment_is_an_error_and_not_none(variable: str) -> None:
    with pytest.raises(ConfigError, match=r"^GC_BOOTSTRAP_COOKIE: "):
        find(None, {"GC_BOOTSTRAP_COOKIE": variable})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the cookie has 0 characters"),
        (b"short\n", "the cookie has 5 characters"),
        (b"\xff" * 32, "is not text"),
        (b"x" * 100_000, "is longer than 4096 characters"),
        (b"x" * 32 + b"\n" * 5000 + b"y" * 32, "the cookie has 5064 characters"),
        ("\u00fc".encode() * 5000, "the cookie has "),
    ],
    ids=["empty", "short", "binary", "long", "long with a gap", "long in bytes"],
)
def test_a_file_that_holds_no_cookie_is_an_error_that_names_it(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    file = tmp_path / "cookie"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^--cookie-file {file}: {reason}"):
        find(str(file), {})


def test_one_secret_is_the_same_cookie_from_a_file_and_from_the_environment(
    tmp_path: Path,
) -> None:
    secret = "\u00fc" * LONGEST
    file = tmp_path / "cookie"
    file.write_text(secret, encoding="utf-8")
    from_file, inline = find(str(file), {}), find(None, {"GC_BOOTSTRAP_COOKIE": secret})
    assert from_file is not None
    assert inline is not None
    assert from_file.key == inline.key


def test_a_file_that_cannot_be_read_is_an_error_that_names_who_asked(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(ConfigError) as caught:
        find(str(missing), {}, key="gc-bootstrap.cookie-file")
    assert str(caught.value) == (
        f"gc-bootstrap.cookie-file {missing}: cannot be read: No such file or directory"
    )
    with pytest.raises(ConfigError, match=f"^GC_BOOTSTRAP_COOKIE_FILE {tmp_path}: cannot be read"):
        find(None, {"GC_BOOTSTRAP_COOKIE_FILE": str(tmp_path)})
