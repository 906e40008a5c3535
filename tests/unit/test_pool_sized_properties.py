"""`plan()` of pools of a size: what holds whatever happens, and that they come to rest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from hypothesis import given
from hypothesis import strategies as st

from gc_bootstrap.config import AdaptOptions, PoolOptions, RemovalOptions, ShareOptions
from gc_bootstrap.peer import Outcome, Peer, Snapshot
from gc_bootstrap.pool import history as histories
from gc_bootstrap.pool import shared
from gc_bootstrap.pool.history import Absence, History, Hold
from gc_bootstrap.pool.plan import Plan, plan
from gc_bootstrap.pool.sized import Sizing
from gc_bootstrap.pool.surveys import Gift, Known
from gc_bootstrap.pool.target import Demand, Target, looked
from gc_bootstrap.stake import Claim, Holder, Stake, Survey

PEERS = tuple(Peer("10.0.0.1", port) for port in range(1, 9))
NOW = 1000.0

peer = st.sampled_from(PEERS)
peers = st.frozensets(peer, max_size=len(PEERS))
names = st.sampled_from(["Scheduler-2", "Scheduler-3", "Scheduler-4"])
stakes = st.builds(Stake, st.integers(0, 9), st.sampled_from([0.5, 1.0, 2.0]), st.integers(0, 9))
moment = st.floats(NOW - 100, NOW) | st.just(-math.inf)
later = st.floats(NOW - 10, NOW + 10)

claims = st.dictionaries(names, st.tuples(stakes, st.integers(1, 9)), max_size=3).map(
    lambda found: tuple(
        Claim(f"tcp://{name}:8786", name, "default", stake, wants)
        for name, (stake, wants) in found.items()
    )
)
holders = st.builds(Holder, st.just("tcp://10.0.0.2:8786"), names, stakes)
Role = Literal[
    "unknown",
    "free",
    "long free",
    "theirs",
    "backing off",
    "leaving",
    "surveyed",
    "connecting",
    "member",
    "must stay",
    "called off",
    "absent",
    "going",
    "dropped",
    "released",
    "given",
]
"""What a peer can be when a plan is made."""
ROLES = (*get_args(Role), "free", "theirs", "member", "member")
options = st.builds(
    PoolOptions,
    size=st.none() | st.integers(0, 9),
    share=st.builds(
        ShareOptions, st.sampled_from(["fair", "keep"]), st.just(1.0), st.integers(0, 9)
    ),
    removal=st.builds(
        RemovalOptions, st.sampled_from(["keep", "drain"]), st.just(1), st.just(0.0), st.just(0.6)
    ),
)


@dataclass(frozen=True)
class Situation:
    """All that a plan is made from."""

    snapshot: Snapshot
    members: frozenset[Peer]
    history: History
    policy: PoolOptions
    connecting: frozenset[Peer]
    disconnecting: frozenset[Peer]
    releasing: tuple[Peer, ...]
    surveying: frozenset[Peer]
    claims: tuple[Claim, ...]
    first: tuple[Peer, ...]
    order: tuple[Peer, ...]

    @property
    def busy(self) -> frozenset[Peer]:
        return self.connecting | self.disconnecting | frozenset(self.releasing)

    @property
    def limit(self) -> float:
        return math.inf if self.policy.size is None else self.policy.size

    def plan(self) -> Plan:
        sizing = Sizing(
            target=Target(self.policy.size, self.first, self.order),
            claims=self.claims,
            surveying=self.surveying,
            releasing=self.releasing,
        )
        return plan(
            self.snapshot,
            self.members,
            self.history,
            self.policy,
            NOW,
            self.busy,
            self.disconnecting,
            sizing,
        )

    def held(self, proposed: Plan | None = None) -> int:
        """How many members and peers to be count as held, before a plan or after it."""
        back = set(proposed.cancel) if proposed is not None else set()
        going = {*self.disconnecting, *self.releasing} - back
        connecting = self.connecting - self.members
        if proposed is not None:
            going |= {*proposed.disconnect, *proposed.release}
            connecting |= {*proposed.connect, *proposed.claim}
        # Those that are to go anyway are no part of it, even where that has to wait.
        going |= self.snapshot.leaving
        return len(self.members - going) + len(connecting)


def _one_each(roles: Sequence[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(roles), min_size=len(PEERS), max_size=len(PEERS))


@st.composite
def situations(draw: st.DrawFn, roles: Sequence[str] = ROLES) -> Situation:
    of: dict[str, list[Peer]] = {role: [] for role in get_args(Role)}
    for who, role in zip(PEERS, draw(_one_each(roles)), strict=True):
        of[role].append(who)
    going = [*of["going"], *of["dropped"]]
    members = frozenset(
        who
        for role in ("member", "must stay", "called off", "absent", "released", "given")
        for who in of[role]
    ) | frozenset(going)
    hold = Hold("is busy", NOW + 1.0, 1)
    free, theirs = Survey(), [Survey(holder=draw(holders)) for _ in of["theirs"]]
    history = History(
        attempts=dict.fromkeys(of["backing off"], hold),
        absences=dict.fromkeys(of["absent"], Absence(NOW - 100, 9)),
        departures=dict.fromkeys(of["going"], hold),
        called_off=dict.fromkeys(of["called off"], hold),
        surveys={
            **dict.fromkeys(of["free"], Known(free, NOW - 10)),
            **dict.fromkeys(of["long free"], Known(free, NOW - 40)),
            **{
                who: Known(survey, draw(moment))
                for who, survey in zip(of["theirs"], theirs, strict=True)
            },
        },
        claimed=draw(st.dictionaries(names, moment, max_size=2)),
        gifts={who: Gift(draw(names), draw(st.booleans()), 3) for who in of["given"]},
    )
    releasing = draw(st.permutations(of["released"] + of["given"]))
    found = frozenset(PEERS) - frozenset(of["absent"])
    unmoved = {*of["must stay"], *releasing}
    return Situation(
        snapshot=Snapshot(found, frozenset([*of["leaving"], *going])),
        members=members,
        history=history,
        policy=draw(options),
        connecting=frozenset(of["connecting"]),
        disconnecting=frozenset(of["dropped"]),
        releasing=tuple(releasing),
        surveying=frozenset(of["surveyed"]),
        claims=draw(claims),
        first=tuple(draw(st.lists(peer, unique=True, max_size=3))),
        order=tuple(p for p in draw(st.permutations(PEERS)) if p in members - unmoved),
    )


@given(situations() | situations(("theirs", "theirs", "connecting", "free", "member")))
def test_the_size_is_never_exceeded_by_a_plan(situation: Situation) -> None:
    proposed = situation.plan()
    # A drop that is called back is a member more than there was, whatever the size is.
    back = len(set(proposed.cancel) & situation.disconnecting)
    assert situation.held(proposed) <= max(situation.limit, situation.held() + back)
    if proposed.connect or proposed.claim:
        assert situation.held(proposed) <= situation.limit


@given(situations())
def test_a_plan_does_one_thing_with_each_peer_and_nothing_with_who_is_busy(
    situation: Situation,
) -> None:
    proposed = situation.plan()
    parts = [proposed.connect, proposed.claim, proposed.disconnect, proposed.release]
    done = [who for part in parts for who in part]
    assert len(done) == len(set(done))
    assert not set(done) & situation.busy
    assert set(proposed.connect) | proposed.claim.keys() <= (
        situation.snapshot.peers - situation.members - situation.snapshot.leaving
    )
    assert proposed.release.keys() <= set(situation.order)
    assert proposed.gives <= proposed.release.keys()
    assert set(proposed.cancel) <= {*situation.disconnecting, *situation.releasing}
    asked = {*proposed.survey, *proposed.reread}
    assert not asked & (set(proposed.connect) | situation.surveying)
    assert proposed.spare <= proposed.held.keys()
    assert all(hold.describe(NOW) for hold in proposed.held.values())


@given(situations())
def test_only_who_has_said_that_it_is_free_is_connected(situation: Situation) -> None:
    for who in situation.plan().connect:
        known = situation.history.surveys[who]
        assert known.survey.holder is None
        assert known.at >= NOW - 30


@given(situations())
def test_nobody_is_released_before_who_comes_before_it_in_the_order(situation: Situation) -> None:
    proposed = situation.plan()
    first = set(situation.first[: situation.policy.size])
    may_go = [
        who
        for who in situation.order
        if who not in situation.busy | situation.snapshot.leaving | set(proposed.disconnect)
        and who not in situation.history.called_off
    ]
    assert proposed.release.keys() <= set(may_go)
    may_go.sort(key=first.__contains__)
    assert set(may_go[: len(proposed.release)]) == proposed.release.keys()


@given(situations())
def test_what_is_kept_is_never_given_and_who_keeps_gives_and_claims_nothing(
    situation: Situation,
) -> None:
    proposed = situation.plan()
    if not situation.policy.is_fair:
        assert not proposed.gives
        assert not proposed.claim
    if proposed.gives:
        assert proposed.stake is not None
        assert proposed.stake.holds >= situation.policy.kept
        assert len(proposed.gives) == 1
        assert len(proposed.release) == 1


@given(situations())
def test_planning_twice_from_the_same_situation_proposes_the_same(situation: Situation) -> None:
    first, again = situation.plan(), situation.plan()
    assert len(first.connect) == len(again.connect)
    assert first.release == again.release
    assert first.cancel == again.cancel


# -- how pools come to rest ------------------------------------------------------------------------


@dataclass
class World:
    """Peers that answer, a pool without anything that takes time, and a clock."""

    policy: PoolOptions
    peers: frozenset[Peer]
    dead: frozenset[Peer] = frozenset()
    now: float = NOW
    members: set[Peer] = field(default_factory=set)
    history: History = field(default_factory=History)
    demand: Demand | None = None
    moves: int = 0

    def wanted(self, needed: int) -> int | None:
        adapt = self.policy.adapt
        if adapt is None:
            return self.policy.size
        self.demand = self.demand or Demand.held(len(self.members), adapt)
        self.demand = looked(self.demand, needed, adapt, self.now)
        return self.demand.wanted(adapt)

    def look(self, needed: int = 0, first: Iterable[Peer] = ()) -> None:
        """One look, and the plans that follow from what the peers answer."""
        snapshot = Snapshot(self.peers)
        self.now += 1.0
        target = Target(self.wanted(needed), tuple(first), tuple(sorted(self.members)))
        for _ in range(20):
            self.history = histories.observe(self.history, snapshot, self.members, self.now)
            proposed = plan(
                snapshot, self.members, self.history, self.policy, self.now, sizing=Sizing(target)
            )
            for who in proposed.survey:
                self.answer(who)
            for who in proposed.connect:
                self.connect(who)
            self.members -= set(proposed.release)
            self.moves += len(proposed.connect) + len(proposed.release)
            if not (proposed.survey or proposed.connect or proposed.release):
                break

    def answer(self, who: Peer) -> None:
        if who in self.dead:
            outcome = Outcome.refused("is not reachable")
            self.history = histories.attempted(
                self.history, who, outcome, self.policy.reconnect, self.now, 0.5
            )
        else:
            self.history = shared.surveyed(self.history, who, Survey(), self.now)

    def connect(self, who: Peer) -> None:
        assert who not in self.dead
        self.members.add(who)
        self.history = histories.attempted(
            self.history, who, Outcome.DONE, self.policy.reconnect, self.now, 0.5
        )


adapts = st.builds(
    AdaptOptions,
    minimum=st.integers(0, 3),
    maximum=st.none() | st.integers(3, 9),
    wait_count=st.integers(2, 5),
)


@given(adapts, peers, peers, st.lists(st.integers(0, 12), max_size=6), st.integers(0, 12))
def test_a_constant_demand_is_met_as_far_as_there_are_peers_and_then_nobody_moves(
    adapt: AdaptOptions,
    found: frozenset[Peer],
    dead: frozenset[Peer],
    before: list[int],
    needed: int,
) -> None:
    world = World(PoolOptions(adapt=adapt), found, dead)
    for count in before:
        world.look(count)
    for _ in range(adapt.wait_count + 12):  # longer than any backoff that began before
        world.look(needed)
    most = math.inf if adapt.maximum is None else adapt.maximum
    wanted = min(max(needed, adapt.minimum), most)
    assert len(world.members) == min(wanted, len(found - dead))
    moves = world.moves
    for _ in range(5):
        world.look(needed)
    assert world.moves == moves


@given(adapts, st.integers(0, 9), st.integers(0, 9), st.integers(1, 9))
def test_a_demand_that_alternates_moves_nobody_once_it_was_met(
    adapt: AdaptOptions, one: int, other: int, times: int
) -> None:
    world = World(PoolOptions(adapt=adapt), frozenset(PEERS))
    world.look(one)
    world.look(other)
    moves = world.moves
    for _ in range(times):
        world.look(one)
        world.look(other)
    assert world.moves == moves


@given(st.integers(0, 9), st.lists(peer, unique=True, max_size=4))
def test_peers_that_are_needed_more_are_held_and_then_nobody_moves(
    size: int, first: list[Peer]
) -> None:
    world = World(PoolOptions(size=size), frozenset(PEERS))
    world.look()
    for _ in range(4):
        world.look(first=first)
    assert set(first[:size]) <= world.members
    assert len(world.members) == min(size, len(PEERS))
    moves = world.moves
    world.look(first=first)
    assert world.moves == moves


@given(situations())
def test_a_pool_that_takes_every_peer_plans_without_any_of_this(situation: Situation) -> None:
    policy = replace(situation.policy, size=None, share=ShareOptions())
    proposed = plan(
        situation.snapshot,
        situation.members,
        situation.history,
        policy,
        NOW,
        situation.connecting | situation.disconnecting,
        situation.disconnecting,
    )
    assert not proposed.survey
    assert not proposed.claim
    assert not proposed.release
    assert proposed.stake is None
