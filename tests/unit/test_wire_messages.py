"""The agent's messages: what is read, what is refused, and with which status."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gc_bootstrap.wire import messages, versions
from gc_bootstrap.wire.messages import (
    AttachReply,
    AttachRequest,
    DetachRequest,
    ErrorReply,
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
    request = DetachRequest("Scheduler-1", "10.0.0.5:8791")
    assert DetachRequest.decode(request.encode()) == request


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
)


@pytest.mark.parametrize(
    "answer",
    [
        AttachReply("Scheduler-1", "10.0.0.5:8791", "default", ("tcp://10.0.0.5:40000",), {}),
        StateReply("idle"),
        ErrorReply("is draining"),
        STATUS,
        replace(STATUS, state="idle", scheduler=None, scheduler_id=None, peer=None, pool=None),
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
        ({"force": True}, "unknown field 'force'; there are peer, pool, retired,"),
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
    "text", ["two\nlines", "\x1b[2J", "x" * 10_000], ids=["\\n", "esc", "long"]
)
def test_an_answer_whose_texts_would_spoil_a_log_line_is_no_agents(text: str) -> None:
    for field in ("scheduler_id", "peer", "pool"):
        with pytest.raises(WireError, match="the answer is not an agent's"):
            AttachReply.decode(body(REPLY | {field: text}))


# -- versions --------------------------------------------------------------------------------------


def test_the_versions_of_one_environment_match() -> None:
    assert versions.mismatch(versions.installed(), versions.installed()) is None


@pytest.mark.parametrize(
    ("mine", "theirs", "differ"),
    [
        ({"python": "3.11.7"}, {"python": "3.11.9"}, None),
        (
            {"python": "3.11.7"},
            {"python": "3.12.7"},
            "Python 3.11 at the agent and 3.12 at the scheduler",
        ),
        (
            {"python": "3.1.7", "distributed": "8"},
            {"python": "3.11.7", "distributed": "9"},
            (
                "Python 3.1 at the agent and 3.11 at the scheduler;"
                " distributed 8 at the agent and 9 at the scheduler"
            ),
        ),
        ({}, {"python": "3.12.7", "distributed": "1"}, None),
        ({"python": "3.11.7"}, {}, None),
    ],
)
def test_pythons_minor_and_the_whole_of_distributed_are_compared(
    mine: dict[str, str], theirs: dict[str, str], differ: str | None
) -> None:
    assert versions.mismatch(mine, theirs) == differ
