"""The agent's messages: what is read, what is refused, and with which status."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gc_bootstrap.wire import messages
from gc_bootstrap.wire.messages import (
    AttachClaim,
    AttachReply,
    AttachRequest,
    DetachClaim,
    DetachRequest,
    ErrorReply,
    HolderReply,
    Message,
    StateReply,
    StatusReply,
    WireError,
)

ATTACH: dict[str, Any] = {
    "scheduler": "tcp://10.0.0.1:8786",
    "scheduler_id": "Scheduler-1",
    "peer": "10.0.0.5:8791",
}
REPLY: dict[str, Any] = {
    "scheduler_id": "Scheduler-1",
    "peer": "10.0.0.5:8791",
    "pool": "default",
    "workers": [{"address": "tcp://10.0.0.5:40000", "name": "w"}],
    "versions": {"python": "3.11.7"},
}

printable = st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126), min_size=1)
stated = st.dictionaries(st.sampled_from(["python", "distributed"]), printable)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(sorted({*ATTACH, *REPLY, "other"}))


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


@given(printable, printable, printable, printable, stated)
def test_an_attach_survives_the_wire(
    scheduler: str, scheduler_id: str, peer: str, pool: str, versions: dict[str, str]
) -> None:
    request = AttachRequest(scheduler, scheduler_id, peer, pool, versions)
    assert AttachRequest.decode(request.encode()) == request


def test_a_detach_survives_the_wire() -> None:
    to = DetachClaim("tcp://10.0.0.2:8786", "Scheduler-2", "default")
    for request in (
        DetachRequest("Scheduler-1", "10.0.0.5:8791"),
        DetachRequest("Scheduler-1", "10.0.0.5:8791", to),
        DetachRequest("Scheduler-1", "10.0.0.5:8791", abandon=True),
    ):
        assert DetachRequest.decode(request.encode()) == request


@given(
    st.integers(0, 1_000_000),
    st.floats(0.001, 1000.0) | st.integers(1, 1000),
    st.integers(1, 1_000_000),
)
def test_a_claim_survives_the_wire(holds: int, weight: float, wants: int) -> None:
    request = AttachRequest(**ATTACH, claim=AttachClaim(holds, weight, wants))
    assert AttachRequest.decode(request.encode()) == request


def test_requests_that_claim_and_abandon_nothing_are_what_they_were_before_there_were_claims() -> (
    None
):
    assert AttachRequest(**ATTACH).encode() == (
        b'{"scheduler":"tcp://10.0.0.1:8786","scheduler_id":"Scheduler-1","peer":"10.0.0.5:8791",'
        b'"pool":"default","versions":{},"timeout":null,"retired":null}'
    )
    assert DetachRequest("Scheduler-1", "10.0.0.5:8791").encode() == (
        b'{"scheduler_id":"Scheduler-1","peer":"10.0.0.5:8791"}'
    )
    assert ErrorReply("is draining").encode() == b'{"error":"is draining"}'


CLAIM = {"holds": 1, "weight": 2.0, "wants": 3}
TO = {"scheduler": "tcp://10.0.0.2:8786", "scheduler_id": "Scheduler-2", "pool": "default"}


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        ("me first", "field 'claim' is not a JSON object"),
        ([], "field 'claim' is not a JSON object"),
        ({}, "field 'claim.holds' is missing"),
        (CLAIM | {"holds": -1}, "field 'claim.holds' is not a whole number from 0 to 1000000"),
        (CLAIM | {"holds": 1_000_001}, "field 'claim.holds' is not a whole number"),
        (CLAIM | {"holds": True}, "field 'claim.holds' is not a whole number"),
        (CLAIM | {"holds": 1.5}, "field 'claim.holds' is not a whole number"),
        (CLAIM | {"weight": 0}, "field 'claim.weight' is not a number from 0.001 to 1000"),
        (CLAIM | {"weight": -1}, "field 'claim.weight' is not a number"),
        (CLAIM | {"weight": 1001}, "field 'claim.weight' is not a number"),
        (CLAIM | {"weight": 10**400}, "field 'claim.weight' is not a number"),
        (CLAIM | {"weight": True}, "field 'claim.weight' is not a number"),
        (CLAIM | {"weight": "1"}, "field 'claim.weight' is not a number"),
        (CLAIM | {"wants": -1}, "field 'claim.wants' is not a whole number from 0 to 1000000"),
        (CLAIM | {"wants": None}, "field 'claim.wants' is not a whole number"),
        (CLAIM | {"now": True}, "unknown field 'claim.now'; there are holds, wants, weight"),
    ],
)
def test_what_is_no_claim_is_a_422_that_names_the_field(claim: Any, reason: str) -> None:
    with pytest.raises(WireError, match=reason) as caught:
        AttachRequest.decode(body(ATTACH | {"claim": claim}))
    assert caught.value.status == 422


def test_a_whole_number_may_be_written_as_any_number() -> None:
    claim = AttachRequest.decode(body(ATTACH | {"claim": CLAIM | {"holds": 4.0}})).claim
    assert claim is not None
    assert (claim.holds, type(claim.holds)) == (4, int)


@pytest.mark.parametrize("weight", ["1e999", "-1e999"])
def test_a_weight_beyond_all_bounds_is_none(weight: str) -> None:
    text = body(ATTACH | {"claim": CLAIM | {"weight": 7.5}}).replace(b"7.5", weight.encode())
    with pytest.raises(WireError, match=r"field 'claim\.weight' is not a number"):
        AttachRequest.decode(text)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"abandon": None}, "field 'abandon' is neither true nor false"),
        ({"abandon": 1}, "field 'abandon' is neither true nor false"),
        ({"claim": 1}, "field 'claim' is not a JSON object"),
        ({"claim": TO | {"pool": ""}}, "field 'claim.pool' is not 1 to 512 printable ASCII"),
        ({"claim": TO | {"scheduler": "a\nb"}}, "field 'claim.scheduler' is not 1 to 512"),
        ({"claim": TO | {"holds": 1}}, "unknown field 'claim.holds'"),
    ],
)
def test_what_is_no_detach_is_a_422_that_names_the_field(
    change: dict[str, Any], reason: str
) -> None:
    asked = {"scheduler_id": "Scheduler-1", "peer": "10.0.0.5:8791"}
    with pytest.raises(WireError, match=reason) as caught:
        DetachRequest.decode(body(asked | change))
    assert caught.value.status == 422


STATUS = StatusReply(
    state="attached",
    scheduler="tcp://10.0.0.1:8786",
    scheduler_id="Scheduler-1",
    peer="10.0.0.5:8791",
    pool="default",
    workers=("tcp://10.0.0.5:40000",),
    nworkers=1,
    nthreads=4,
    memory_limit="auto",
    versions={"python": "3.11.7"},
    memory=2**33,
    resources={"GPU": 1.0, "größe": 0.5},
    agent="Agent-1",
    holder=HolderReply("tcp://10.0.0.1:8786", "Scheduler-1", 4, 2.0, 1),
)


@pytest.mark.parametrize(
    "answer",
    [
        AttachReply("Scheduler-1", "10.0.0.5:8791", "default", ("tcp://10.0.0.5:40000",), {}),
        StateReply("idle"),
        ErrorReply("is draining"),
        ErrorReply("held", HolderReply("tcp://10.0.0.1:8786", "Scheduler-1", 4, 0.5, 4)),
        STATUS,
        replace(
            STATUS,
            state="idle",
            scheduler=None,
            scheduler_id=None,
            peer=None,
            pool=None,
            holder=None,
        ),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_an_answer_survives_the_wire_and_may_say_more(answer: Message) -> None:
    assert type(answer).decode(answer.encode()) == answer
    more = json.loads(answer.encode()) | {"new": 1}
    assert type(answer).decode(body(more)) == answer


def test_pool_and_versions_may_be_missing() -> None:
    assert AttachRequest.decode(body(ATTACH)) == AttachRequest(
        **ATTACH, pool="default", versions={}
    )


def test_an_answer_is_read() -> None:
    assert AttachReply.decode(body(REPLY)) == AttachReply(
        "Scheduler-1",
        "10.0.0.5:8791",
        "default",
        ("tcp://10.0.0.5:40000",),
        {"python": "3.11.7"},
    )


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b"{'scheduler': 1}", "the body is not JSON"),
        (b'{"scheduler": NaN}', "NaN is not JSON"),
        (b"[" * messages.MAX_BODY, "nested too deeply"),
        (b"1" * 5000, "the body is not JSON"),
    ],
    ids=["empty", "bytes", "python", "nan", "deep", "long number"],
)
def test_what_is_no_json_is_a_400(garbage: bytes, reason: str) -> None:
    for parse in (AttachRequest.decode, DetachRequest.decode, AttachReply.decode):
        with pytest.raises(WireError, match=reason) as caught:
            parse(garbage)
        assert caught.value.status == 400


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scheduler": None}, "field 'scheduler' is not 1 to 512 printable ASCII"),
        ({"scheduler": ""}, "field 'scheduler' is not 1 to 512 printable ASCII"),
        ({"scheduler": "x" * 513}, "field 'scheduler' is not 1 to 512 printable ASCII"),
        ({"peer": "10.0.0.5\nERROR all is lost"}, "field 'peer' is not 1 to 512 printable ASCII"),
        ({"peer": "\x1b[2J"}, "field 'peer' is not 1 to 512 printable ASCII"),
        ({"peer": "\ud800"}, "field 'peer' is not 1 to 512 printable ASCII"),
        ({"pool": "gp\u00fc"}, "field 'pool' is not 1 to 512 printable ASCII"),
        ({"pool": None}, "field 'pool' is not 1 to 512 printable ASCII"),
        ({"scheduler_id": 7}, "field 'scheduler_id' is not 1 to 512 printable ASCII"),
        ({"versions": None}, "field 'versions' is not an object"),
        ({"versions": [["python", "3"]]}, "field 'versions' is not an object"),
        ({"versions": {"numpy": "2"}}, "field 'versions' is not an object"),
        ({"versions": {"python": 3}}, "field 'python' is not 1 to 512 printable ASCII"),
        ({"force": True}, "unknown field 'force'; there are claim, peer, pool, retired,"),
    ],
)
def test_what_is_no_attach_is_a_422_that_names_the_field(
    change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(WireError, match=reason) as caught:
        AttachRequest.decode(body(ATTACH | change))
    assert caught.value.status == 422


@pytest.mark.parametrize("missing", sorted(ATTACH))
def test_a_missing_field_is_named(missing: str) -> None:
    with pytest.raises(WireError, match=f"field '{missing}' is missing") as caught:
        AttachRequest.decode(body({k: v for k, v in ATTACH.items() if k != missing}))
    assert caught.value.status == 422


@pytest.mark.parametrize("value", [None, [], "text", 1, True])
def test_what_is_no_object_is_a_422(value: Any) -> None:
    for parse in (AttachRequest.decode, DetachRequest.decode):
        with pytest.raises(WireError, match="the body is not a JSON object") as caught:
            parse(body(value))
        assert caught.value.status == 422


@given(anything | st.dictionaries(fields, anything))
@example(ATTACH | {"versions": {"python": None}})
def test_whatever_is_sent_is_read_or_refused_with_a_4xx_in_one_line(value: Any) -> None:
    for parse in (AttachRequest.decode, DetachRequest.decode):
        error = None
        try:
            parse(body(value))
        except WireError as exc:
            error = exc
        assert error is None or error.status in (400, 422)
        assert "\n" not in str(error)


@given(st.binary(max_size=200))
def test_whatever_bytes_are_sent_are_refused_with_a_4xx(garbage: bytes) -> None:
    for parse in (AttachRequest.decode, DetachRequest.decode):
        with pytest.raises(WireError) as caught:
            parse(garbage)
        assert caught.value.status in (400, 422)


@given(anything | st.dictionaries(fields, anything))
def test_whatever_is_answered_is_read_or_said_to_be_no_agents(value: Any) -> None:
    error = None
    try:
        AttachReply.decode(body(value))
    except WireError as exc:
        error = exc
    assert error is None or error.status in (400, 502)


@pytest.mark.parametrize(
    "change",
    [
        {"scheduler_id": None},
        {"peer": 5},
        {"pool": None},
        {"workers": None},
        {"workers": {}},
        {"workers": ""},
        {"workers": ["tcp://10.0.0.5:1"]},
        {"workers": [{"name": "w"}]},
        {"workers": [{"address": 5}]},
        {"versions": None},
        {"versions": "12"},
        {"versions": ["ab"]},
        {"versions": {"python": 3}},
    ],
    ids=repr,
)
def test_what_is_no_answer_of_an_agent_is_said_so(change: dict[str, Any]) -> None:
    with pytest.raises(WireError, match="the answer is not an agent's"):
        AttachReply.decode(body(REPLY | change))


@pytest.mark.parametrize(
    "change",
    [
        {"nworkers": 0},
        {"nthreads": 10**7},
        {"memory": -1},
        {"memory": 2**63},
        {"resources": {"GPU": -1}},
        {"resources": {"GPU": "1"}},
        {"resources": ["GPU"]},
        {"holder": {"scheduler": "tcp://10.0.0.1:8786"}},
        {"holder": 4},
    ],
    ids=repr,
)
def test_what_is_no_status_of_an_agent_is_said_so(change: dict[str, Any]) -> None:
    with pytest.raises(WireError, match="the answer is not an agent's"):
        StatusReply.decode(body(json.loads(STATUS.encode()) | change))


def test_what_an_earlier_agent_does_not_say_of_itself_is_not_known() -> None:
    added = {"memory", "resources", "agent", "holder"}
    earlier = {k: v for k, v in json.loads(STATUS.encode()).items() if k not in added}
    status = StatusReply.decode(body(earlier))
    assert (status.memory, status.resources, status.agent, status.holder) == (0, {}, None, None)


@pytest.mark.parametrize(
    "text", ["two\nlines", "\x1b[2J", "x" * 10_000], ids=["\\n", "esc", "long"]
)
def test_an_answer_whose_texts_would_spoil_a_log_line_is_no_agents(text: str) -> None:
    for field in ("scheduler_id", "peer", "pool"):
        with pytest.raises(WireError, match="the answer is not an agent's"):
            AttachReply.decode(body(REPLY | {field: text}))
