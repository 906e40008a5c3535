"""Whether schedulers answer; they are real Dask servers."""

from __future__ import annotations

from typing import Any

import pytest
from distributed.core import Server

from gc_bootstrap.agent.reach import KNOWN_FOR, MOST, Reach
from gc_bootstrap.wire.messages import WireError
from tests.unit.test_agent_link import closed_port
from tests.unit.test_wire_claims import Clock


async def test_one_that_has_answered_is_asked_again_after_a_while_and_another_id_at_once() -> None:
    asked = 0

    async def identity(**keywords: Any) -> dict[str, str]:
        nonlocal asked
        asked += 1
        return {"id": "one"}

    clock = Clock()
    reach = Reach(None, clock)
    server = Server({"identity": identity})
    await server.listen("tcp://127.0.0.1:0")
    try:
        for _ in range(3):
            await reach.check(server.address, "one")
        assert asked == 1
        with pytest.raises(WireError, match=r"another scheduler is at .*: one"):
            await reach.check(server.address, "two")
        assert asked == 2
        clock.now += KNOWN_FOR
        await reach.check(server.address, "one")
        assert asked == 3
        assert len(reach._answered) == 1 <= MOST
    finally:
        await server.close()


async def test_who_does_not_answer_is_asked_each_time() -> None:
    reach = Reach(None)
    address = f"tcp://127.0.0.1:{closed_port()}"
    for _ in range(2):
        with pytest.raises(WireError, match="Connection refused") as caught:
            await reach.check(address, "one")
        assert caught.value.status == 502
        assert str(caught.value).startswith(f"cannot reach the scheduler at {address}: ")
