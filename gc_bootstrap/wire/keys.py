"""A pair of keys in place of a cookie: the scheduler signs with one half, agents hold the other.

Who reads a cookie out of an agent can attach every other agent that shares it. The public half of a
pair is of no use to anybody: an agent may be read out, and opens no other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gc_bootstrap.errors import ConfigError
from gc_bootstrap.wire.cookie import Cookie, read_text

FILE_VARIABLE = "GC_BOOTSTRAP_KEY_FILE"
PUBLIC_FILE_VARIABLE = "GC_BOOTSTRAP_PUBLIC_KEY_FILE"
LONGEST = 64 * 1024
"""Most characters of a file of keys."""
MOST = 16
"""Most public keys in a file: each may have to be tried."""
HOW = "such as one of: dask pool keygen"

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


class PrivateKey:
    """The scheduler's half: it signs. It never shows itself in a log, a repr or a pickle.

    Parameters
    ----------
    text
        PEM of one Ed25519 key, unencrypted (PKCS #8).
    where
        Where it came from, for messages.

    Raises
    ------
    ConfigError
        It is not that.
    """

    algorithm: ClassVar[str] = "EdDSA"
    __slots__ = ("key", "where")

    def __init__(self, text: str, where: str) -> None:
        labels = [match[1] for match in _BLOCK.finditer(text)]
        if labels and not any("PRIVATE KEY" in label for label in labels):
            raise ConfigError(
                f"{where}: is a public key, which is the agents'; expected the private one"
            )
        try:
            key = serialization.load_pem_private_key(text.encode(), password=None)
        except Exception:
            # Whatever is wrong with it: cryptography has a dozen exceptions for that.
            raise ConfigError(
                f"{where}: is no private key without a passphrase; expected Ed25519 in PEM, {HOW}"
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{where}: is a key of another kind; expected Ed25519, {HOW}")
        self.key = key
        self.where = where

    def __repr__(self) -> str:
        return f"the key from {self.where}"

    def __reduce__(self) -> str:
        raise TypeError("a private key is never pickled")


class PublicKeys:
    """The agents' half: what was signed with any of these schedulers' keys is good.

    Parameters
    ----------
    text
        PEM of 1 to 16 Ed25519 keys, one after the other. A certificate serves as the key in it;
        nothing else of it counts, its dates included.
    where
        Where they came from, for messages.

    Raises
    ------
    ConfigError
        It is not that.
    """

    algorithm: ClassVar[str] = "EdDSA"
    noun: ClassVar[str] = "key"
    wanted: ClassVar[str] = "the private half of its key pair"
    __slots__ = ("keys", "where")

    def __init__(self, text: str, where: str) -> None:
        blocks = list(_BLOCK.finditer(text))
        if any("PRIVATE KEY" in block[1] for block in blocks):
            raise ConfigError(
                f"{where}: is a private key, which is the scheduler's alone; expected the public"
                " one, and a new pair if others could read it here"
            )
        if not 0 < len(blocks) <= MOST:
            raise ConfigError(
                f"{where}: has {len(blocks)} keys; expected 1 to {MOST} public ones in PEM, {HOW}"
            )
        self.keys: Sequence[Ed25519PublicKey] = [
            _public(block[0], block[1], where) for block in blocks
        ]
        self.where = where

    def __repr__(self) -> str:
        return f"the private half of the key from {self.where}"


Signer = Cookie | PrivateKey
"""What a scheduler signs with."""
Trusted = Cookie | PublicKeys
"""What an agent checks with."""


def _public(block: str, label: str, where: str) -> Ed25519PublicKey:
    try:
        key: object
        if label == "CERTIFICATE":
            key = x509.load_pem_x509_certificate(block.encode()).public_key()
        else:
            key = serialization.load_pem_public_key(block.encode())
    except Exception:
        # As with a private one.
        raise ConfigError(
            f"{where}: {label} is no public key; expected Ed25519 in PEM, {HOW}"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{where}: has a key of another kind; expected Ed25519, {HOW}")
    return key


def generate() -> tuple[bytes, bytes]:
    """Make a new pair: the private and the public half, in PEM."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public


def find_private(
    file: str | None, environ: Mapping[str, str] = os.environ, key: str = "--key-file"
) -> PrivateKey | None:
    """Find the key that a scheduler is to sign with.

    Parameters
    ----------
    file
        As given on the command line or in the configuration; wins over the environment.
    environ
        Searched for ``GC_BOOTSTRAP_KEY_FILE``.
    key
        What to call ``file`` in messages.

    Returns
    -------
    PrivateKey or None
        None where none was provided.

    Raises
    ------
    ConfigError
        One was provided and cannot be read, or is no good.
    """
    found = _read(file, environ, key, FILE_VARIABLE, secret=True)
    return PrivateKey(*found) if found is not None else None


def find_public(
    file: str | None, environ: Mapping[str, str] = os.environ, key: str = "--public-key-file"
) -> PublicKeys | None:
    """Find the keys whose requests an agent is to accept; as :func:`find_private`.

    ``GC_BOOTSTRAP_PUBLIC_KEY_FILE`` in the environment names the file where ``file`` does not.
    """
    found = _read(file, environ, key, PUBLIC_FILE_VARIABLE, secret=False)
    return PublicKeys(*found) if found is not None else None


def _read(
    file: str | None, environ: Mapping[str, str], key: str, variable: str, *, secret: bool
) -> tuple[str, str] | None:
    if file is None and environ.get(variable):
        file, key = environ[variable], variable
    if file is None:
        return None
    where = f"{key} {file}"
    return read_text(Path(file), where, LONGEST, secret=secret), where
