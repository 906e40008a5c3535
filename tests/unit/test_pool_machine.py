"""A pool through any history: a state machine over `Pool`, with time of its own.

The model keeps its own, simpler books and says what the pool may do; the last step is always that
everything answers again, and that the pool then has the members that it should have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gc_bootstrap.config import PoolOptions, ReconnectOptions, RemovalOptions
from gc_bootstrap.errors import DiscoveryError, DistError
from gc_bootstrap.peer import Outcome, Peer, Snapshot
from gc_bootstrap.pool import Pool
from gc_bootstrap.testing import FakeDist, ManualDiscovery

PEERS = tuple(Peer("10.0.0.1", port) for port in range(1, 7))
GRACE = 5.0
AFTER = 3
PANIC = 0.5
RECONNECT = ReconnectOptions(initial=1.0, max=8.0, jitter=0.2)

peer = st.sampled_from(PEERS)
few = st.frozensets(peer, max_size=4)


class PoolMachine(RuleBasedStateMachine):
    """What a discovery answers, what a dist does and how time goes: anything, in any order."""

    @initialize(policy=st.sampled_from(["keep", "drain"]))
    def start(self, policy: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.now = 0.0
        self.policy = policy
        self.discovery, self.dist = ManualDiscovery(), FakeDist()
        options = PoolOptions(
            refresh_interval=None,
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
        who=peer, failure=st.sampled_from([Outcome.refused("is busy"), DistError("is not there")])
    )
    def a_peer_fails(self, who: Peer, failure: Outcome | DistError) -> None:
        self.dist.behaviour[who] = failure

    @rule(who=peer)
    def a_peer_answers_again(self, who: Peer) -> None:
        self.dist.behaviour.pop(who, None)

    @rule(who=peer)
    def a_member_is_lost(self, who: Peer) -> None:
        self.dist.lose(who)

    @rule(seconds=st.floats(0.1, 2 * GRACE), times=st.integers(1, 3))
    def time_goes_by(self, seconds: float, times: int) -> None:
        for _ in range(times):
            self.now += seconds
            self.the_pool_refreshes()

    def the_pool_refreshes(self) -> None:
        before = set(self.dist.connected)
        self.observe(before)
        self.dist.calls.clear()
        try:
            self.do(self.pool.run_once())
        except DiscoveryError:
            assert self.answer is None
            assert not self.dist.calls, "acts without ever having had an answer"
            return
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
        assert len(missing) <= PANIC * len(members), "dropped beyond the panic threshold"

    @invariant()
    def nothing_is_left_running(self) -> None:
        if hasattr(self, "pool"):
            assert not self.pool._enactor.busy

    # -- the end ---------------------------------------------------------------------------------

    def recover(self) -> None:
        """Everything answers, for long enough."""
        others = frozenset(PEERS[:2])
        wanted = frozenset(PEERS) - others
        self.dist.behaviour.clear()
        self.discovery_answers(others, frozenset(), True)
        for _ in range(AFTER + 2):
            self.now += GRACE + 2 * RECONNECT.max
            self.the_pool_refreshes()
        assert wanted <= self.dist.connected
        # Two of six are not beyond the threshold.
        assert not others & self.dist.connected or self.policy == "keep"


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestPool = PoolMachine.TestCase
