"""`plan()`: what holds whatever happens, and that every pool converges."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gc_bootstrap.config import PoolOptions, ReconnectOptions, RemovalOptions
from gc_bootstrap.peer import Outcome, Peer, Snapshot
from gc_bootstrap.pool.history import Absence, History, Hold, attempted, by_member, observe
from gc_bootstrap.pool.plan import Plan, plan

PEERS = tuple(Peer("10.0.0.1", port) for port in range(1, 8))

peer = st.sampled_from(PEERS)
peers = st.frozensets(peer, max_size=len(PEERS))
moment = st.floats(0, 1e6)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    found = draw(peers)
    return Snapshot(found, found & draw(peers), draw(st.booleans()))


holds = st.builds(
    Hold,
    reason=st.just("is busy"),
    until=moment | st.just(float("inf")),
    failures=st.integers(0, 50),
    same_as=st.none() | peer,
    soon=st.booleans(),
)
histories = st.builds(
    History,
    attempts=st.dictionaries(peer, holds),
    appeared=st.dictionaries(peer, moment),
    gone=st.dictionaries(peer, moment),
    soon=st.integers(0, 10**6),
    absences=st.dictionaries(peer, st.builds(Absence, moment, st.integers(1, 9))),
    departures=st.dictionaries(peer, holds),
)
options = st.builds(
    PoolOptions,
    reconnect=st.builds(
        ReconnectOptions, st.floats(0.1, 5), st.floats(1, 3), st.floats(5, 500), st.floats(0, 1)
    ),
    removal=st.builds(
        RemovalOptions,
        st.sampled_from(["keep", "drain"]),
        st.integers(1, 4),
        st.floats(0, 30),
        st.floats(0, 1),
    ),
)
IGNORED = Outcome.ignored("is a printer")
outcomes = st.one_of(
    st.just(Outcome.DONE),
    st.builds(Outcome.refused, st.just("is busy"), soon=st.booleans()),
    st.just(IGNORED),
    st.builds(Outcome.refused, st.just("is the same agent"), same_as=peer),
)


@given(snapshots(), peers, histories, options, moment, peers, peers)
def test_whatever_is_so_a_plan_keeps_its_promises(
    snapshot: Snapshot,
    members: frozenset[Peer],
    history: History,
    policy: PoolOptions,
    now: float,
    busy: frozenset[Peer],
    some: frozenset[Peer],
) -> None:
    going = busy & some
    proposed = plan(snapshot, members, history, policy, now, busy, going)
    snapshot = by_member(snapshot, members, history.attempts)
    connect, disconnect = set(proposed.connect), set(proposed.disconnect)
    assert len(connect) == len(proposed.connect), "connects somebody twice"
    assert len(disconnect) == len(proposed.disconnect), "drops somebody twice"
    assert connect <= snapshot.peers - members - snapshot.leaving - busy
    assert disconnect <= members - busy
    refused = {who for who, hold in history.departures.items() if hold.until > now}
    assert not disconnect & refused, "asks again before the backoff is over"
    assert (snapshot.leaving & members) - busy - refused <= disconnect
    wanted = going & (snapshot.peers - snapshot.leaving)
    assert set(proposed.cancel) == wanted | (going - snapshot.peers if proposed.warning else set())
    absent = disconnect - snapshot.leaving
    assert not absent & snapshot.peers, "drops somebody that discovery names"
    if policy.removal.policy == "keep" or not snapshot.complete:
        assert not absent
    if proposed.warning:
        assert not absent
    assert not (connect | disconnect) & proposed.held.keys()
    assert snapshot.peers - members - busy == connect | (proposed.held.keys() - members)
    assert all(hold.describe(now) for hold in proposed.held.values())


@st.composite
def removals(draw: st.DrawFn) -> tuple[frozenset[Peer], Snapshot, PoolOptions]:
    """Members of which some are missing for long and some are leaving, and a threshold."""
    members = draw(st.frozensets(peer, min_size=1))
    named = members & draw(peers)
    threshold = draw(st.just(0.5) | st.floats(0, 1) | st.sampled_from([0.1, 0.29, 1 / 3, 2 / 3]))
    policy = PoolOptions(removal=RemovalOptions("drain", 1, 0.0, threshold))
    return members, Snapshot(named, named & draw(peers)), policy


def absent(members: frozenset[Peer], snapshot: Snapshot) -> History:
    return History(absences=dict.fromkeys(members - snapshot.peers, Absence(0.0, 9)))


@given(removals())
def test_of_the_members_that_stay_no_more_than_the_threshold_allows_are_dropped_for_absence(
    given: tuple[frozenset[Peer], Snapshot, PoolOptions],
) -> None:
    members, snapshot, policy = given
    proposed = plan(snapshot, members, absent(members, snapshot), policy, 1e6)
    missing, staying = members - snapshot.peers, members - snapshot.leaving
    too_many = len(missing) > policy.removal.panic_threshold * len(staying) + 1e-6
    assert bool(proposed.warning) == too_many
    assert set(proposed.disconnect) == snapshot.leaving | (set() if too_many else missing)


@given(removals(), peers)
def test_drains_that_run_are_not_called_back_because_others_of_them_have_ended(
    given: tuple[frozenset[Peer], Snapshot, PoolOptions], ended: frozenset[Peer]
) -> None:
    members, snapshot, policy = given
    first = plan(snapshot, members, absent(members, snapshot), policy, 1e6)
    going = frozenset(first.disconnect)
    left = members - (ended & going)
    running = going & left
    history = absent(left, snapshot)
    later = plan(snapshot, left, history, policy, 1e6, running, running)
    assert later.cancel == later.disconnect == ()
    assert bool(later.warning) <= bool(first.warning)


@given(removals(), peers)
def test_a_panic_calls_back_the_drains_of_the_missing_and_of_nobody_else(
    given: tuple[frozenset[Peer], Snapshot, PoolOptions], some: frozenset[Peer]
) -> None:
    members, snapshot, policy = given
    gone = members - snapshot.peers
    running = (gone & some) | snapshot.leaving
    history = absent(members, snapshot)
    proposed = plan(snapshot, members, history, policy, 1e6, running, running)
    assert set(proposed.cancel) == (gone & some if proposed.warning else set())


@given(snapshots(), peers, histories, options, moment)
def test_planning_from_the_same_truth_gives_the_same_plan(
    snapshot: Snapshot, members: frozenset[Peer], history: History, policy: PoolOptions, now: float
) -> None:
    first = plan(snapshot, members, history, policy, now)
    again = plan(snapshot, members, history, policy, now)
    assert set(first.connect) == set(again.connect)
    assert set(first.disconnect) == set(again.disconnect)
    assert first.held == again.held


@given(snapshots(), peers, histories, moment)
def test_observing_remembers_nothing_that_cannot_matter(
    snapshot: Snapshot, members: frozenset[Peer], history: History, now: float
) -> None:
    seen = observe(history, snapshot, members, now)
    assert seen.attempts.items() <= history.attempts.items()
    assert seen.gone.keys() | snapshot.peers >= seen.attempts.keys()
    if snapshot.complete:
        assert seen.gone == {}
        assert seen.attempts.keys() <= snapshot.peers
    snapshot = by_member(snapshot, members, seen.attempts)
    assert seen.absences.keys() <= members - snapshot.peers
    assert seen.departures.keys() <= members - (snapshot.peers - snapshot.leaving)
    if snapshot.complete:
        assert seen.absences.keys() == members - snapshot.peers


@given(snapshots(), peers, histories)
def test_an_answer_by_member_names_members_more_and_nobody_less(
    snapshot: Snapshot, members: frozenset[Peer], history: History
) -> None:
    named = by_member(snapshot, members, history.attempts)
    assert snapshot.peers <= named.peers <= snapshot.peers | members
    assert named.leaving & snapshot.peers == snapshot.leaving
    assert named.complete == snapshot.complete
    if not snapshot.leaving:
        assert not named.leaving


@dataclass
class World:
    """Peers, a discovery and a clock; what a pool does, without a pool."""

    policy: PoolOptions
    now: float = 0.0
    members: set[Peer] = field(default_factory=set)
    history: History = field(default_factory=History)

    def refresh(self, snapshot: Snapshot, answers: dict[Peer, Outcome], random: float) -> Plan:
        self.history = observe(self.history, snapshot, self.members, self.now)
        proposed = plan(snapshot, self.members, self.history, self.policy, self.now)
        for who in proposed.connect:
            outcome = answers.get(who, Outcome.DONE)
            if outcome:
                self.members.add(who)
            reconnect = self.policy.reconnect
            self.history = attempted(self.history, who, outcome, reconnect, self.now, random)
        self.members -= set(proposed.disconnect)
        return proposed


steps = st.tuples(
    st.floats(0.01, 200),  # seconds until the refresh
    snapshots(),
    st.dictionaries(peer, outcomes),
    peers,  # members that are lost
    st.floats(0, 1, exclude_max=True),
)


@settings(max_examples=200)
@given(options, st.lists(steps, max_size=10), peers, st.floats(1, 30))
def test_once_peers_answer_and_discovery_is_stable_members_are_the_peers(
    policy: PoolOptions,
    past: list[tuple[float, Snapshot, dict[Peer, Outcome], frozenset[Peer], float]],
    stable: frozenset[Peer],
    interval: float,
) -> None:
    world = World(policy)
    for seconds, snapshot, answers, lost, random in past:
        world.now += seconds
        world.members -= lost
        world.refresh(snapshot, answers, random)

    longest = (1 + policy.reconnect.jitter) * policy.reconnect.max
    wait = max(longest, policy.removal.grace) / 3
    for _ in range(4):  # long enough for the longest backoff, in jumps
        world.refresh(Snapshot(stable), {}, 0.5)
        world.now += wait
        world.refresh(Snapshot(stable), {}, 0.5)
        world.now += interval

    attempts = world.history.attempts
    ignored = {who for who, hold in attempts.items() if hold.reason == IGNORED.reason}
    names = {who for who, hold in attempts.items() if hold.same_as in world.members}
    named = {hold.same_as for who, hold in attempts.items() if who in stable}
    expected = stable - ignored - names
    assert world.members & stable == expected
    absent = world.members - stable - named
    if policy.removal.policy == "drain" and absent:
        assert len(absent) > policy.removal.panic_threshold * len(world.members)


@given(peers, st.lists(peers, min_size=1, max_size=6), options)
def test_keep_never_drops_and_so_only_grows(
    known: frozenset[Peer], answers: list[frozenset[Peer]], policy: PoolOptions
) -> None:
    world = World(replace(policy, removal=RemovalOptions("keep")), members=set(known))
    for found in answers:
        before = frozenset(world.members)
        world.refresh(Snapshot(found), {}, 0.5)
        assert world.members == before | found
        world.now += 1000
