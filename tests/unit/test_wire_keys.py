"""The key pair: what each side takes, and that one half never serves as the other."""

from __future__ import annotations

import base64
import copy
import datetime
import pickle
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from gc_bootstrap.errors import ConfigError
from gc_bootstrap.wire import cookie as cookies
from gc_bootstrap.wire.cookie import Cookie
from gc_bootstrap.wire.keys import (
    FILE_VARIABLE,
    LONGEST,
    MOST,
    PUBLIC_FILE_VARIABLE,
    PrivateKey,
    PublicKeys,
    find_private,
    find_public,
    generate,
)
from gc_bootstrap.wire.messages import WireError
from gc_bootstrap.wire.names import ATTACH
from gc_bootstrap.wire.tokens import Verifier, sign
from tests.unit.test_wire_tokens import BODY, NONCE, NOW, claims

PRIVATE, PUBLIC = (half.decode() for half in generate())
KEY = PrivateKey(PRIVATE, "a test")
PEM, NONE = serialization.Encoding.PEM, serialization.NoEncryption()
PKCS8 = serialization.PrivateFormat.PKCS8
INFO = serialization.PublicFormat.SubjectPublicKeyInfo


def accepts(verifier: Verifier, header: str) -> None:
    verifier.check(header, "POST", ATTACH, BODY, NOW)


def refusal(verifier: Verifier, header: str) -> str:
    with pytest.raises(WireError) as caught:
        accepts(verifier, header)
    assert caught.value.status == 401
    return str(caught.value)


def certificate(key: ed25519.Ed25519PrivateKey) -> str:
    """A self-signed one that expired long ago: it only carries a key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anybody")])
    long_ago = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, long_ago, long_ago)
    return builder.sign(key, None).public_bytes(PEM).decode()


# -- signing and checking --------------------------------------------------------------------------


def test_what_the_private_half_signs_the_public_half_accepts_once() -> None:
    verifier = Verifier(PublicKeys(PUBLIC, "a test"), NONCE)
    header = sign(KEY, "POST", ATTACH, BODY, NOW, NONCE)
    accepts(verifier, header)
    assert refusal(verifier, header) == "the token has been used before"


def test_any_key_of_a_file_is_good_so_that_they_can_be_replaced_one_by_one() -> None:
    others = "".join(generate()[1].decode() for _ in range(MOST - 1))
    accepts(
        Verifier(PublicKeys(others + PUBLIC, ""), NONCE),
        sign(KEY, "POST", ATTACH, BODY, NOW, NONCE),
    )
    reason = refusal(
        Verifier(PublicKeys(others, ""), NONCE), sign(KEY, "POST", ATTACH, BODY, NOW, NONCE)
    )
    assert reason == "the token was signed with another key"


def test_a_certificate_serves_as_the_key_in_it_whatever_its_dates() -> None:
    text = "a line of text\n" + certificate(KEY.key) + "\n"
    accepts(Verifier(PublicKeys(text, ""), NONCE), sign(KEY, "POST", ATTACH, BODY, NOW, NONCE))


def test_the_public_half_never_serves_as_a_secret() -> None:
    """Algorithm confusion: an HMAC with what everybody may know as its key."""
    public = KEY.key.public_key()
    raw = public.public_bytes_raw()
    verifier = Verifier(PublicKeys(PUBLIC, "a test"), NONCE)
    hmac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    header, _, rest = sign(Cookie("x" * 32, ""), "POST", ATTACH, BODY, NOW, NONCE)[7:].partition(
        "."
    )
    signed = f"{header}.{rest.rpartition('.')[0]}"
    for secret in (PUBLIC.encode(), PUBLIC.strip().encode(), raw, raw.hex().encode()):
        mac = jwt.utils.base64url_encode(hmac.sign(signed.encode(), secret)).decode()
        assert "this agent wants requests signed with" in refusal(
            verifier, f"Bearer {signed}.{mac}"
        )
    for text in (PUBLIC, PRIVATE, certificate(KEY.key)):
        with pytest.raises(ConfigError, match=r"^a test: is a key and no cookie"):
            Cookie(text, "a test")


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512", "none", "RS256", "ES256"])
def test_a_token_says_nothing_about_how_it_is_checked(algorithm: str) -> None:
    keys: dict[str, object] = {
        "none": None,
        "RS256": rsa.generate_private_key(65537, 2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
    }
    key = keys.get(algorithm, b"x" * 64)
    token = jwt.encode(claims(), key, algorithm=algorithm)  # type: ignore[arg-type]
    refusal(Verifier(PublicKeys(PUBLIC, ""), NONCE), f"Bearer {token}")


def test_a_key_and_a_cookie_are_told_apart() -> None:
    cookie = Cookie("correct horse battery staple", "a test")
    assert refusal(Verifier(cookie, NONCE), sign(KEY, "POST", ATTACH, BODY, NOW, NONCE)) == (
        "the token is signed in another way; this agent wants requests signed with its cookie"
        " (HS256)"
    )
    verifier = Verifier(PublicKeys(PUBLIC, "a test"), NONCE)
    assert refusal(verifier, sign(cookie, "POST", ATTACH, BODY, NOW, NONCE)) == (
        "the token is signed in another way; this agent wants requests signed with the private half"
        " of its key pair (EdDSA)"
    )


# -- what is no key --------------------------------------------------------------------------------


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> tuple[str, str]:
    public = key.public_key().public_bytes(PEM, INFO)
    return key.private_bytes(PEM, PKCS8, NONE).decode(), public.decode()


RSA = _pem(rsa.generate_private_key(65537, 2048))
EC = _pem(ec.generate_private_key(ec.SECP256R1()))
LOCKED = KEY.key.private_bytes(
    PEM, PKCS8, serialization.BestAvailableEncryption(b"a passphrase")
).decode()
BROKEN = "-----BEGIN {0} KEY-----\nAAAA\n-----END {0} KEY-----\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PUBLIC, "is a public key, which is the agents'; expected the private one"),
        (certificate(KEY.key), "is a public key, which is the agents'; expected the private one"),
        ("", "is no private key without a passphrase; expected Ed25519 in PEM, such as one of:"),
        ("correct horse battery staple", "is no private key without a passphrase"),
        (BROKEN.format("PRIVATE"), "is no private key without a passphrase"),
        (LOCKED, "is no private key without a passphrase"),
        (RSA[0], "is a key of another kind; expected Ed25519"),
        (EC[0], "is a key of another kind; expected Ed25519"),
    ],
)
def test_what_is_no_private_key_is_one_line_without_it(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PrivateKey(text, "--key-file x")
    (line,) = caught.value.problems
    assert line.startswith(f"--key-file x: {reason}")
    assert "horse" not in line


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PRIVATE, "is a private key, which is the scheduler's alone; expected the public one"),
        (PUBLIC + PRIVATE, "is a private key, which is the scheduler's alone"),
        (LOCKED, "is a private key, which is the scheduler's alone"),
        (RSA[0], "is a private key, which is the scheduler's alone"),
        ("", "has 0 keys; expected 1 to 16 public ones in PEM, such as one of: dask pool keygen"),
        ("correct horse battery staple", "has 0 keys"),
        (PUBLIC * (MOST + 1), f"has {MOST + 1} keys"),
        (BROKEN.format("PUBLIC"), "PUBLIC KEY is no public key; expected Ed25519 in PEM"),
        (PUBLIC + BROKEN.format("PUBLIC"), "PUBLIC KEY is no public key"),
        (RSA[1], "has a key of another kind; expected Ed25519"),
        (PUBLIC + EC[1], "has a key of another kind; expected Ed25519"),
    ],
)
def test_what_is_no_public_key_is_one_line(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PublicKeys(text, "--public-key-file x")
    (line,) = caught.value.problems
    assert line.startswith(f"--public-key-file x: {reason}")


def test_a_private_key_never_shows_itself() -> None:
    assert repr(KEY) == str(KEY) == "the key from a test"
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(KEY)
    with pytest.raises(TypeError, match="never pickled"):
        copy.copy(KEY)


def test_a_damaged_certificate_is_one_line() -> None:
    """Of a version that there is not: cryptography has an exception of its own for it."""
    der = base64.b64decode("".join(certificate(KEY.key).splitlines()[1:-1]))
    version, damaged = bytes.fromhex("a003020102"), bytes.fromhex("a003020105")
    assert version in der
    body = base64.encodebytes(der.replace(version, damaged, 1)).decode()
    with pytest.raises(ConfigError, match=r"^x: CERTIFICATE is no public key"):
        PublicKeys(f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n", "x")


# -- where they are found --------------------------------------------------------------------------


def test_a_file_given_wins_over_the_variable(tmp_path: Path) -> None:
    private, public = (tmp_path / name for name in ("private.pem", "public.pem"))
    private.write_text(PRIVATE)
    public.write_text(PUBLIC)
    assert find_private(None, {}) is None
    assert find_public(None, {"GC_BOOTSTRAP_PUBLIC_KEY_FILE": ""}) is None
    nowhere = dict.fromkeys((FILE_VARIABLE, PUBLIC_FILE_VARIABLE), "/nowhere")
    assert find_private(str(private), nowhere) is not None
    assert find_public(str(public), nowhere) is not None
    with pytest.raises(ConfigError, match=r"^GC_BOOTSTRAP_KEY_FILE /nowhere: cannot be read"):
        find_private(None, nowhere)
    with pytest.raises(ConfigError, match=r"^GC_BOOTSTRAP_PUBLIC_KEY_FILE /nowhere: cannot be"):
        find_public(None, nowhere)


def test_a_file_without_an_end_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "long"
    file.write_text("x" * (5 * LONGEST))
    with pytest.raises(ConfigError, match=f"is longer than {LONGEST} characters"):
        find_public(str(file), {})
    with pytest.raises(ConfigError, match="is longer than"):
        cookies.find(str(file), {})
