"""The secret that scheduler and agents share: where it comes from, and what it looks like."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import stat
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import ClassVar

from gc_bootstrap.errors import ConfigError

logger = logging.getLogger(__name__)

FILE_VARIABLE = "GC_BOOTSTRAP_COOKIE_FILE"
VARIABLE = "GC_BOOTSTRAP_COOKIE"
SHORTEST = 16
"""Fewest characters of a cookie: whoever records one request can try short ones offline."""
LONGEST = 4096


class Cookie:
    """A shared secret. It never shows itself in a log, a repr or a pickle.

    Parameters
    ----------
    secret
        16 to 4096 characters, such as the output of ``openssl rand -hex 32``.
    where
        Where it came from, for messages.

    Raises
    ------
    ConfigError
        It is too short or too long.
    """

    algorithm: ClassVar[str] = "HS256"
    noun: ClassVar[str] = "cookie"
    wanted: ClassVar[str] = "its cookie"
    __slots__ = ("key", "where")

    def __init__(self, secret: str, where: str) -> None:
        if not SHORTEST <= len(secret) <= LONGEST:
            raise ConfigError(
                f"{where}: the cookie has {len(secret)} characters; expected {SHORTEST} to"
                f" {LONGEST}, such as the output of: openssl rand -hex 32"
            )
        if "-----BEGIN " in secret:
            # Its public half is no secret, and must never serve as one.
            raise ConfigError(f"{where}: is a key and no cookie; expected it as a --key-file")
        try:
            encoded = secret.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{where}: the cookie is not text") from None
        # RFC 7518 section 3.2: HS256 needs a key of at least 256 bits.
        self.key = hashlib.sha256(b"gc_bootstrap agent API v1\0" + encoded).digest()
        self.where = where

    @property
    def keys(self) -> tuple[bytes]:
        """What a request is checked with: what it was signed with."""
        return (self.key,)

    def __repr__(self) -> str:
        return f"the cookie from {self.where}"

    def __reduce__(self) -> str:
        raise TypeError("a cookie is never pickled")


def generate() -> str:
    """Make a new secret of 256 random bits."""
    return secrets.token_hex(32)


def find(
    file: str | None, environ: Mapping[str, str] = os.environ, key: str = "--cookie-file"
) -> Cookie | None:
    """Find the cookie that a person provided.

    Parameters
    ----------
    file
        As given on the command line or in the configuration; wins over the environment.
    environ
        Searched for ``GC_BOOTSTRAP_COOKIE_FILE``, then ``GC_BOOTSTRAP_COOKIE``.
    key
        What to call ``file`` in messages.

    Returns
    -------
    Cookie or None
        None where none was provided.

    Raises
    ------
    ConfigError
        One was provided and cannot be read, or is no good.
    """
    inline = environ.get(VARIABLE)
    if file is None and environ.get(FILE_VARIABLE):
        file, key = environ[FILE_VARIABLE], FILE_VARIABLE
    if file is not None:
        where = f"{key} {file}"
        return Cookie(read_text(Path(file), where, LONGEST).strip(), where)
    return Cookie(inline.strip(), VARIABLE) if inline is not None else None


def read_text(path: Path, where: str, longest: int, *, secret: bool = True) -> str:
    """Read a file that holds a secret, or keys.

    A secret that every user of the host can read is said in a warning. One that a group can read is
    not: that is how Kubernetes gives it to a pod.

    Raises
    ------
    ConfigError
        It cannot be read, is no text, or is longer than so many characters.
    """
    try:
        with path.open("rb") as file:
            content = file.read(4 * longest + 64)  # four bytes a character at most, and line ends
            if file.read(1):
                raise ConfigError(f"{where}: is longer than {longest} characters")
            if secret and os.fstat(file.fileno()).st_mode & stat.S_IROTH:
                _warn_of_readers(where, path)
        return content.decode()
    except OSError as exc:
        raise ConfigError(f"{where}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: is not text") from None


@cache
def _warn_of_readers(where: str, path: Path) -> None:
    """Once for each: every pool of a scheduler reads the same file."""
    logger.warning("%s: every user of this host can read it; expected: chmod 600 %s", where, path)
