"""A pool through any history: a state machine over `Pool`, with time of its own.

The model keeps its own, simpler books and says what the pool may do; the last step is always that
everything answers again, and that the pool then has the members that it should have. Connects and
drops may take their time, or for ever: they are under way while the pool refreshes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gc_bootstrap.config import (
    ConnectOptions,
    DrainOptions,
    PoolOptions,
    ReconnectOptions,
    RemovalOptions,
)
from gc_bootstrap.errors import DiscoveryError, DistError
from gc_bootstrap.peer import Outcome, Peer, Snapshot
from gc_bootstrap.pool import Pool
from gc_bootstrap.pool.enact import DROP_MARGIN
from gc_bootstrap.testing import FakeDist, ManualDiscovery

PEERS = tuple(Peer("10.0.0.1", port) for port in range(1, 7))
GRACE = 5.0
AFTER = 3
PANIC = 0.5
RECONNECT = ReconnectOptions(initial=1.0, max=8.0, jitter=0.2)
CONNECT = ConnectOptions(timeout=20.0, concurrency=100)
DRAIN = DrainOptions(timeout=10.0)
LONGEST = DRAIN.timeout + DROP_MARGIN
"""Seconds after which whatever hangs has been given up."""
TURNS = 30
"""Turns of the loop in which all that takes no time ends."""

peer = st.sampled_from(PEERS)
few = st.frozensets(peer, max_size=4)


class ModelLoop(asyncio.SelectorEventLoop):
    """An event loop whose timers go by the model's time. It always has to have something to do."""

    now = 0.0

    def time(self) -> float:
        return self.now


class WatchedDist(FakeDist):
    """Notes what is under way, and which drops have been cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.connecting: set[Peer] = set()
        self.dropping: set[Peer] = set()
        self.cut_off: set[Peer] = set()

    async def connect(self, peer: Peer) -> Outcome:
        assert peer not in self.connecting | self.dropping, "two things at once with a peer"
        self.connecting.add(peer)
        try:
            return await super().connect(peer)
        finally:
            self.connecting.discard(peer)

    async def disconnect(self, peer: Peer) -> Outcome:
        assert peer not in self.connecting | self.dropping, "two things at once with a peer"
        self.dropping.add(peer)
        try:
            return await super().disconnect(peer)
        except asyncio.CancelledError:
            self.cut_off.add(peer)
            raise
        finally:
            self.dropping.discard(peer)


class PoolMachine(RuleBasedStateMachine):
    """What a discovery answers, what a dist does and how time goes: anything, in any order."""

    @initialize(policy=st.sampled_from(["keep", "drain"]))
    def start(self, policy: Any) -> None:
        self.loop = ModelLoop()
        self.policy = policy
        self.discovery, self.dist = ManualDiscovery(), WatchedDist()
        options = PoolOptions(
            refresh_interval=None,
            connect=CONNECT,
            drain=DRAIN,
            reconnect=RECONNECT,
            removal=RemovalOptions(policy, AFTER, GRACE, PANIC),
        )
        self.pool = Pool(
            self.discovery, self.dist, options=options, clock=lambda: self.now, random=lambda: 0.5
        )
        self.do(self.pool.open())
        # The model: the last answer that was one, and since when and how often each is absent.
        self.answer: Snapshot | None = Snapshot(frozenset())
        self.last = Snapshot(frozenset())
        self.absent: dict[Peer, tuple[float, int]] = {}
        self.failed_at: dict[Peer, float] = {}
        self.awaited: frozenset[Peer] = frozenset()
        self.all_is_well()

    @property
    def now(self) -> float:
        return self.loop.now

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.recover()
        finally:
            self.do(self.pool.close())
            self.loop.close()

    # -- what happens ----------------------------------------------------------------------------

    @rule(
        absent=few,
        leaving=st.just(frozenset()) | few,
        complete=st.sampled_from([True] * 3 + [False]),
    )
    def discovery_answers(
        self, absent: frozenset[Peer], leaving: frozenset[Peer], complete: bool
    ) -> None:
        found = frozenset(PEERS) - absent
        self.answer = Snapshot(found, found & leaving, complete)
        self.discovery.set(self.answer)

    @rule()
    def discovery_fails(self) -> None:
        self.answer = None
        self.discovery.set(DiscoveryError("the name server is not there"))

    @rule(
        who=peer,
        failure=st.sampled_from(
            [Outcome.refused("is busy"), DistError("is not there"), 2.0, GRACE, 2 * LONGEST]
        ),
    )
    def a_peer_fails_or_takes_its_time(
        self, who: Peer, failure: Outcome | DistError | float
    ) -> None:
        self.dist.behaviour[who] = failure

    @rule(who=peer)
    def a_peer_answers_again(self, who: Peer) -> None:
        self.dist.behaviour.pop(who, None)

    @rule(who=peer)
    def a_member_is_lost(self, who: Peer) -> None:
        self.dist.lose(who)

    # What has a drop under way, which is rare otherwise, and what calls it back.

    @rule(seconds=st.sampled_from([2.0, GRACE, 2 * LONGEST]))
    def drops_take_their_time(self, seconds: float) -> None:
        self.dist.behaviour |= dict.fromkeys(self.dist.connected, seconds)

    @rule(who=few)
    def some_leave(self, who: frozenset[Peer]) -> None:
        self.discovery_answers(frozenset(), who, True)
        self.the_pool_refreshes()

    @rule(who=few, leaving=few)
    def some_are_absent_for_long(self, who: frozenset[Peer], leaving: frozenset[Peer]) -> None:
        self.discovery_answers(who, leaving, True)
        self.time_goes_by(GRACE / (AFTER - 1), AFTER)

    @rule()
    def all_is_well(self) -> None:
        self.discovery_answers(frozenset(), frozenset(), True)
        self.the_pool_refreshes()

    @rule(seconds=st.floats(0.1, 2 * GRACE), times=st.integers(1, 3))
    def time_goes_by(self, seconds: float, times: int) -> None:
        for _ in range(times):
            self.pass_by(seconds)
            self.the_pool_refreshes()

    def pass_by(self, seconds: float) -> None:
        """Time goes by; what is under way may end."""
        self.loop.now += seconds
        self.settle()

    def settle(self) -> None:
        """Let end what takes no time."""
        busy = self.dist.connecting | self.dist.dropping
        self.do(_turns())
        ended = busy - self.dist.connecting - self.dist.dropping
        if ended & self.awaited:
            assert self.pool._alarm.rung, "does not reconsider what it has waited for"

    def the_pool_refreshes(self) -> None:
        before, dropping = set(self.dist.connected), set(self.dist.dropping)
        self.observe(before)
        self.dist.calls.clear()
        self.dist.cut_off.clear()
        self.pool._alarm.reset()
        try:
            self.do(self.pool.refresh())
        except DiscoveryError:
            assert self.answer is None
            assert not self.dist.calls, "acts without ever having had an answer"
            return
        back = self.wanted_back(before, dropping)
        joining = self.last.leaving & self.dist.connecting
        self.awaited = frozenset(back | joining)
        self.settle()
        assert self.dist.cut_off == back
        for what, who in self.dist.calls:
            if what == "connect":
                self.check_connect(who, before)
            else:
                self.check_disconnect(who, before)

    # -- what may come of it ---------------------------------------------------------------------

    def observe(self, members: set[Peer]) -> None:
        self.absent = {who: seen for who, seen in self.absent.items() if who in members}
        if self.answer is not None:
            self.last = self.answer
            for who in self.answer.peers:
                self.absent.pop(who, None)
            if self.answer.complete:
                for who in members - self.answer.peers:
                    since, times = self.absent.get(who, (self.now, 0))
                    self.absent[who] = (since, times + 1)

    def wanted_back(self, members: set[Peer], dropping: set[Peer]) -> set[Peer]:
        """Whose drop has to be cancelled: who is named again, and who is absent with too many."""
        back = dropping & (self.last.peers - self.last.leaving)
        missing = self.absent.keys() - self.last.peers
        if self.policy == "drain" and len(missing) > PANIC * len(members - self.last.leaving):
            back |= dropping - self.last.peers
        return back

    def check_connect(self, who: Peer, members: set[Peer]) -> None:
        assert who not in members
        assert who in self.last.peers - self.last.leaving
        shortest = RECONNECT.initial
        assert self.now - self.failed_at.get(who, -100.0) >= shortest - 1e-6, "does not back off"
        if who not in self.dist.connected:
            self.failed_at[who] = self.now

    def check_disconnect(self, who: Peer, members: set[Peer]) -> None:
        assert who in members
        if who in self.last.leaving:
            return
        assert self.policy == "drain", "`keep` dropped a member that is not leaving"
        assert self.answer is not None, "dropped a member on an error"
        assert self.answer.complete, "dropped a member on an answer that is not complete"
        since, times = self.absent[who]
        assert times >= AFTER
        assert self.now >= since + GRACE
        missing = members - self.last.peers
        assert len(missing) <= PANIC * len(members - self.last.leaving), (
            "dropped beyond the panic threshold"
        )

    @invariant()
    def what_runs_is_known(self) -> None:
        if hasattr(self, "pool"):
            assert self.pool._enactor.connecting.keys() == self.dist.connecting
            assert self.pool._enactor.disconnecting.keys() == self.dist.dropping

    # -- the end ---------------------------------------------------------------------------------

    def recover(self) -> None:
        """Everything answers, for long enough."""
        others = frozenset(PEERS[:2])
        wanted = frozenset(PEERS) - others
        self.dist.behaviour.clear()
        self.discovery_answers(others, frozenset(), True)
        self.pass_by(2 * LONGEST)
        for _ in range(AFTER + 2):
            self.pass_by(GRACE + 2 * RECONNECT.max)
            self.the_pool_refreshes()
        assert wanted <= self.dist.connected
        # Two of six are not beyond the threshold.
        assert not others & self.dist.connected or self.policy == "keep"


async def _turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestPool = PoolMachine.TestCase
