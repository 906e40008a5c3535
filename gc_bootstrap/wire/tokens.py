"""Signed requests: what a scheduler signs with its cookie or its key, and an agent checks.

Pure functions of bytes and time.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jwt

from gc_bootstrap.wire.keys import Signer, Trusted
from gc_bootstrap.wire.messages import WireError
from gc_bootstrap.wire.names import NONCE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TOKEN_LIFETIME = 30.0
"""Seconds from a token's issue to its expiry."""
CLOCK_SKEW = 30.0
"""Seconds by which the clocks of scheduler and agent may differ."""


def sign(signer: Signer, method: str, path: str, body: bytes, now: float, nonce: str | None) -> str:
    """Make the value of the ``Authorization`` header for one request.

    A JSON Web Token (RFC 7519), HS256 or EdDSA, with ``htm`` and ``htu`` after RFC 9449, the hash
    of the body, a random ``jti``, the agent's ``nonce`` and half a minute to live.

    Parameters
    ----------
    now
        Seconds since the epoch.
    nonce
        What the agent has said last; None where it is not known, and the agent will say it.
    """
    claims: dict[str, Any] = {
        "htm": method,
        "htu": path,
        "body": _digest(body),
        "jti": secrets.token_urlsafe(16),
        "iat": now,
        "exp": now + TOKEN_LIFETIME,
    }
    if nonce is not None:
        claims["nonce"] = nonce
    return "Bearer " + jwt.encode(claims, signer.key, algorithm=signer.algorithm)


def _decode(token: str, key: bytes | Ed25519PublicKey, algorithm: str) -> Mapping[str, Any]:
    claims: Mapping[str, Any] = jwt.decode(
        token,
        key,
        algorithms=[algorithm],
        # The times are checked by the caller, against its own clock.
        options={
            "require": ["htm", "htu", "body", "jti", "iat", "exp"],
            "verify_exp": False,
            "verify_iat": False,
            "verify_nbf": False,
        },
    )
    return claims


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class Verifier:
    """Checks tokens, and remembers each until it expires so that it serves once.

    Parameters
    ----------
    trusted
        What the tokens must have been signed with: the cookie, or the other half of a key. It says
        by which algorithm; what a token says of itself decides nothing.
    nonce
        A random text that each token has to carry (RFC 9449, section 8), so that it is good for
        this agent only and for one life of it: what has been accepted is remembered no longer.
    """

    def __init__(self, trusted: Trusted, nonce: str) -> None:
        self.nonce = nonce
        self._trusted = trusted
        self._seen: dict[str, float] = {}

    def check(self, header: str | None, method: str, path: str, body: bytes, now: float) -> None:
        """Accept one request, or say why not.

        Parameters
        ----------
        header
            The ``Authorization`` header, if there was one.
        now
            Seconds since the epoch.

        Raises
        ------
        WireError
            401, with the reason.
        """
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not token or not token.isascii():
            raise WireError(
                401, f"no token; this agent wants requests signed with {self._trusted.wanted}"
            )
        self._check_claims(self._claims(token.strip()), method, path, body, now)

    def _claims(self, token: str) -> Mapping[str, Any]:
        """What a token says that was signed as it must be."""
        for key in self._trusted.keys:
            try:
                return _decode(token, key, self._trusted.algorithm)
            except jwt.InvalidSignatureError:
                continue
            except jwt.InvalidAlgorithmError:
                raise WireError(
                    401,
                    "the token is signed in another way; this agent wants requests signed with"
                    f" {self._trusted.wanted} ({self._trusted.algorithm})",
                ) from None
            except jwt.InvalidTokenError as exc:
                raise WireError(401, f"the token is not one: {exc}") from None
            except RecursionError:
                # PyJWT 2.10 lets it through where JSON is nested a thousand times.
                raise WireError(401, "the token is not one: nested too deeply") from None
        raise WireError(401, f"the token was signed with another {self._trusted.noun}")

    def _check_claims(
        self, claims: Mapping[str, Any], method: str, path: str, body: bytes, now: float
    ) -> None:
        _check_times(claims, now)
        token_id = claims["jti"]
        if not isinstance(token_id, str) or not 0 < len(token_id) <= 64:
            raise WireError(401, "the token's id is not one")
        if (claims["htm"], claims["htu"]) != (method, path):
            raise WireError(401, "the token is for another request")
        if claims["body"] != _digest(body):
            raise WireError(401, "the token is for another body")
        if claims.get("nonce") != self.nonce:
            # How every acquaintance begins: nothing to be said of it.
            raise WireError(401, f"the token lacks this agent's nonce; see {NONCE}", "")
        for old in [jti for jti, until in self._seen.items() if until < now]:
            del self._seen[old]
        if token_id in self._seen:
            raise WireError(401, "the token has been used before")
        self._seen[token_id] = claims["exp"] + CLOCK_SKEW


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    issued, expires = claims["iat"], claims["exp"]
    if not all(type(t) in (int, float) and abs(t) < 1e12 for t in (issued, expires)):
        raise WireError(401, "the token's times are not numbers")
    if not 0 < expires - issued <= TOKEN_LIFETIME:
        raise WireError(401, f"the token lives longer than {TOKEN_LIFETIME:g} s")
    if not issued - CLOCK_SKEW <= now:
        ahead = issued - now
        raise WireError(401, f"the token is from {ahead:.0f} s in the future; check the clocks")
    if not now <= expires + CLOCK_SKEW:
        late = now - expires
        raise WireError(401, f"the token expired {late:.0f} s ago; check the clocks")
