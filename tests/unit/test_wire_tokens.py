"""Tokens: one request, one body, one use, a short life."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_bootstrap.wire.cookie import Cookie
from gc_bootstrap.wire.messages import WireError
from gc_bootstrap.wire.names import ATTACH, DETACH
from gc_bootstrap.wire.tokens import CLOCK_SKEW, TOKEN_LIFETIME, Verifier, sign

COOKIE = Cookie("correct horse battery staple", "a test")
OTHER = Cookie("correct horse battery stapler", "a test")
BODY = b'{"scheduler": "tcp://10.0.0.1:8786"}'
NOW = 1_790_000_000.25
NONCE = "of one agent in one life"


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good token; None leaves one out."""
    token = sign(COOKIE, "POST", ATTACH, BODY, NOW, NONCE).removeprefix("Bearer ")
    good: dict[str, Any] = jwt.decode(
        token, options={"verify_signature": False, "verify_exp": False, "verify_iat": False}
    )
    return {k: v for k, v in {**good, **changes}.items() if v is not None}


def bearer(payload: dict[str, Any], cookie: Cookie = COOKIE, **kwargs: Any) -> str:
    return "Bearer " + jwt.encode(payload, cookie.key, **{"algorithm": "HS256", **kwargs})


def refusal(header: str | None, now: float = NOW, verifier: Verifier | None = None) -> str:
    """Why a request is refused; fails if it is not."""
    with pytest.raises(WireError) as caught:
        (verifier or Verifier(COOKIE, NONCE)).check(header, "POST", ATTACH, BODY, now)
    assert caught.value.status == 401
    assert "\n" not in str(caught.value)
    return str(caught.value)


def accept(header: str, now: float = NOW) -> None:
    Verifier(COOKIE, NONCE).check(header, "POST", ATTACH, BODY, now)


@given(
    st.binary(max_size=300),
    st.sampled_from(["GET", "POST"]),
    st.sampled_from([ATTACH, DETACH]),
    st.floats(1.7e9, 2.1e9),
    st.floats(-CLOCK_SKEW, TOKEN_LIFETIME + CLOCK_SKEW),
)
def test_what_was_signed_is_accepted_while_the_clocks_are_within_the_skew(
    body: bytes, method: str, path: str, now: float, later: float
) -> None:
    Verifier(COOKIE, NONCE).check(
        sign(COOKIE, method, path, body, now, NONCE), method, path, body, now + later
    )


def test_no_two_tokens_are_the_same() -> None:
    assert sign(COOKIE, "POST", ATTACH, BODY, NOW, NONCE) != sign(
        COOKIE, "POST", ATTACH, BODY, NOW, NONCE
    )


def test_the_scheme_is_read_in_any_case() -> None:
    accept(sign(COOKIE, "POST", ATTACH, BODY, NOW, NONCE).replace("Bearer", "bearer"))


@pytest.mark.parametrize(
    ("method", "path", "body", "reason"),
    [
        ("POST", DETACH, BODY, "the token is for another request"),
        ("PUT", ATTACH, BODY, "the token is for another request"),
        ("POST", ATTACH, BODY + b" ", "the token is for another body"),
        ("POST", ATTACH, b"", "the token is for another body"),
    ],
    ids=["path", "method", "body", "empty body"],
)
def test_a_token_is_for_one_request_only(method: str, path: str, body: bytes, reason: str) -> None:
    assert refusal(sign(COOKIE, method, path, body, NOW, NONCE)) == reason


def test_another_cookie_is_said_to_be_another() -> None:
    header = sign(OTHER, "POST", ATTACH, BODY, NOW, NONCE)
    assert refusal(header) == "the token was signed with another cookie"


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        (TOKEN_LIFETIME + CLOCK_SKEW + 1, "the token expired 31 s ago; check the clocks"),
        (-CLOCK_SKEW - 1, "the token is from 31 s in the future; check the clocks"),
    ],
)
def test_a_token_from_another_time_is_refused(later: float, reason: str) -> None:
    assert refusal(sign(COOKIE, "POST", ATTACH, BODY, NOW, NONCE), NOW + later) == reason


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic dTpw", "token"])
def test_a_request_without_a_token_is_told_what_is_wanted(header: str | None) -> None:
    assert refusal(header) == "no token; this agent wants requests signed with its cookie"


def test_an_unsigned_token_is_refused() -> None:
    assert refusal("Bearer " + jwt.encode(claims(), "", algorithm="none"))


def _part(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "token",
    [
        "garbage",
        "a.b.c",
        "...",
        "x" * 8000,
        "\u00fc.\u00fc.\u00fc",
        # What aiohttp makes of bytes that are not UTF-8.
        "\udcff.\udcff.\udcff",
        f"{_part({'alg': 'HS512'})}.e30.AAAA",
        f"{_part({'alg': None})}.e30.AAAA",
        f"{_part([])}.e30.AAAA",
        f"{_part(b'1' * 5000)}.e30.AAAA",
        f"{_part(b'[' * 5000)}.e30.AAAA",
        f"{_part({'alg': 'HS256', 'crit': ['x']})}.e30.AAAA",
        f"{_part({'alg': 'HS256', 'b64': False})}.e30.AAAA",
    ],
    ids=lambda token: ascii(token[:24]),
)
def test_garbage_is_refused(token: str) -> None:
    assert refusal(f"Bearer {token}")


@given(st.text())
def test_whatever_the_header_says_is_refused_with_a_401(text: str) -> None:
    refusal(text)
    refusal(f"Bearer {text}")


@pytest.mark.parametrize("missing", ["htm", "htu", "body", "jti", "iat", "exp"])
def test_a_missing_claim_is_refused(missing: str) -> None:
    assert missing in refusal(bearer(claims(**{missing: None})))


@pytest.mark.parametrize("claim", ["htm", "htu", "body", "jti", "iat", "exp"])
@pytest.mark.parametrize("value", [True, [], {}, -1, 1e9, float("nan"), float("inf"), "", "x" * 65])
def test_a_claim_that_is_not_what_it_should_be_is_refused(claim: str, value: Any) -> None:
    assert refusal(bearer(claims(**{claim: value})))


def test_a_body_hash_that_is_no_unicode_is_refused() -> None:
    assert refusal(bearer(claims(body="\ud800"))) == "the token is for another body"


def test_times_that_no_float_can_hold_are_refused() -> None:
    assert refusal(bearer(claims(iat=10**400, exp=10**400 + 1)))


@pytest.mark.parametrize("lifetime", [TOKEN_LIFETIME + 1, 1e9, 0.0, -1.0])
def test_a_token_that_lives_too_long_or_not_at_all_is_refused(lifetime: float) -> None:
    header = bearer(claims(exp=NOW + lifetime))
    assert refusal(header) == "the token lives longer than 30 s"


def test_a_token_for_another_audience_is_refused() -> None:
    assert refusal(bearer(claims(aud="somebody else")))


def test_a_token_serves_once() -> None:
    verifier = Verifier(COOKIE, NONCE)
    header = sign(COOKIE, "POST", ATTACH, BODY, NOW, NONCE)
    verifier.check(header, "POST", ATTACH, BODY, NOW)
    for later in (0.0, TOKEN_LIFETIME, TOKEN_LIFETIME + CLOCK_SKEW):
        reason = refusal(header, NOW + later, verifier)
        assert reason == "the token has been used before"
    assert "expired" in refusal(header, NOW + TOKEN_LIFETIME + CLOCK_SKEW + 0.5, verifier)


@pytest.mark.parametrize("nonce", [None, "", "of another agent", "of one agent in its next life"])
def test_a_token_is_for_one_agent_in_one_life(nonce: str | None) -> None:
    """What it has accepted is remembered no longer, and by no other agent."""
    header = sign(COOKIE, "POST", ATTACH, BODY, NOW, nonce)
    with pytest.raises(WireError) as caught:
        accept(header)
    assert caught.value.status == 401
    assert str(caught.value) == "the token lacks this agent's nonce; see GC-Bootstrap-Nonce"
    assert caught.value.refusal == "", "it is how every acquaintance begins"


@pytest.mark.parametrize("nonce", [5, True, [], {}, ["of one agent in one life"]])
def test_a_nonce_that_is_no_text_is_another(nonce: Any) -> None:
    assert "lacks this agent's nonce" in refusal(bearer(claims(nonce=nonce)))


def test_a_refused_request_does_not_use_its_token_up() -> None:
    verifier = Verifier(COOKIE, NONCE)
    header = sign(COOKIE, "POST", ATTACH, BODY, NOW, NONCE)
    with pytest.raises(WireError, match="another body"):
        verifier.check(header, "POST", ATTACH, b"another", NOW)
    verifier.check(header, "POST", ATTACH, BODY, NOW)


def test_tokens_are_remembered_only_as_long_as_they_could_be_replayed() -> None:
    verifier = Verifier(COOKIE, NONCE)
    for second in range(500):
        now = NOW + second
        verifier.check(sign(COOKIE, "POST", ATTACH, BODY, now, NONCE), "POST", ATTACH, BODY, now)
    assert len(verifier._seen) <= TOKEN_LIFETIME + CLOCK_SKEW + 1
