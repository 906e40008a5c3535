"""Pools that share agents: whatever they want, they end in the fair division, and then rest.

The pools are the real ones, with their loops, plans and releases; agents and network are played
(:mod:`tests.unit.sharing`), and so is time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from gc_bootstrap.config import AdaptOptions, PoolOptions, ReconnectOptions, ShareOptions
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.pool import Pool
from gc_bootstrap.stake import Stake
from gc_bootstrap.testing import ManualDiscovery
from tests.unit.sharing import Network, Party, SimulatedDist, World, cost, divided
from tests.unit.virtual_time import in_virtual_time

REST = 35.0
"""Seconds without any attach after which nothing is expected to move any more: twice as long as a
claim is remembered, and a drain lasts."""
PATIENCE = 600.0
"""Seconds within which that has to be so."""


@dataclass(frozen=True)
class Player:
    """A scheduler: what its work needs at first and later, and its policy.

    Parameters
    ----------
    begins
        When it starts, in seconds.
    interval
        Seconds between two of its looks at the work.
    """

    early: int
    late: int
    weight: float = 1.0
    guaranteed: int = 0
    begins: float = 0.0
    interval: float = 1.0
    policy: Literal["fair", "keep"] = "fair"
    dist: type[SimulatedDist] = SimulatedDist

    @property
    def kept(self) -> int:
        return self.guaranteed if self.policy == "fair" else self.late

    def options(self) -> PoolOptions:
        return PoolOptions(
            adapt=AdaptOptions(interval=self.interval, wait_count=2),
            share=ShareOptions(self.policy, self.weight, self.guaranteed),
            reconnect=ReconnectOptions(max=5.0),  # less than what rest is
        )


@dataclass
class Course:
    """How things went from some time on.

    Attributes
    ----------
    least
        How many agents had to change hands at the least.
    seconds
        How long it took until the last one was attached.
    lows
        How few each scheduler held meanwhile.
    """

    held: Mapping[str, int]
    fair: Mapping[str, int]
    is_fair: bool
    moves: int
    least: int
    seconds: float
    lows: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.moves} moves (at least {self.least}) in {self.seconds:.1f} s: {self.held}"


class Stage:
    """The pools of a world, while they run."""

    def __init__(self, world: World, turn: float = 0.0) -> None:
        self.world = world
        self.turn = turn
        self.players: dict[str, Player] = {}
        self.pools: dict[str, Pool] = {}
        self._starting: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Stage:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        for pool in self.pools.values():
            await pool.close()
        await self.world.close()

    def enters(self, name: str, player: Player) -> None:
        self._starting.append(asyncio.create_task(self._enter(name, player)))

    async def _enter(self, name: str, player: Player) -> None:
        await asyncio.sleep(player.begins)
        dist = player.dist(
            self.world, name, lambda now: player.early if now < self.turn else player.late
        )
        self.players[name] = player
        self.pools[name] = Pool(
            ManualDiscovery(self.world.agents),
            dist,
            options=player.options(),
            clock=asyncio.get_running_loop().time,
            random=self.world.random.random,
        )
        await self.pools[name].start()

    async def dies(self, name: str) -> None:
        """From one moment to the next."""
        self.world.die(name)
        del self.players[name]
        await self.pools.pop(name).close()

    async def until_rest(self) -> Course:
        """Wait until nothing moves any more."""
        world, before = self.world, self.world.held()
        began, moves = world.now, world.moves
        attaches, last, lows = world.attaches, world.now, before
        while world.now - last < REST:
            assert world.now - began < PATIENCE, f"no rest: {world.held()}"
            await asyncio.sleep(1.0)
            lows = {name: min(count, lows.get(name, 0)) for name, count in world.held().items()}
            if world.attaches != attaches:
                attaches, last = world.attaches, world.now
        held = world.held()
        parties = {
            # A guarantee keeps what is there, and takes nothing from others.
            name: Party(player.weight, player.late, min(player.kept, held[name], player.late))
            for name, player in self.players.items()
        }
        fair = divided(len(world.agents), parties)
        return Course(
            held,
            fair,
            sum(held.values()) == sum(fair.values()) and cost(held, parties) == cost(fair, parties),
            world.moves - moves,
            sum(max(0, before.get(name, 0) - fair[name]) for name in fair),
            last - began,
            lows,
        )


async def play(
    players: Mapping[str, Player], agents: int, seed: int, network: Network, turn: float = 30.0
) -> Course:
    """How it goes from the time on at which everybody begins to need what it needs for good."""
    async with Stage(World(agents, seed, network), turn) as stage:
        for name, player in players.items():
            stage.enters(name, player)
        await asyncio.sleep(turn + 1)
        return await stage.until_rest()


# -- whatever they want --------------------------------------------------------------------------

players = st.builds(
    Player,
    early=st.integers(0, 24),
    late=st.integers(0, 24),
    weight=st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]),
    guaranteed=st.sampled_from([0, 0, 1, 3]),
    begins=st.floats(0, 30),
    interval=st.sampled_from([0.5, 1.0, 5.0]),
)
networks = st.builds(
    Network,
    delay=st.sampled_from([(0.001, 0.01), (0.001, 0.3)]),
    loss=st.sampled_from([0.0, 0.0, 0.3]),
    drain=st.sampled_from([(0.05, 0.2), (0.05, 10.0)]),
    called_off=st.sampled_from([0.0, 0.0, 0.3]),
)


@settings(max_examples=10)
@given(st.lists(players, min_size=2, max_size=5), st.integers(1, 16), st.integers(0), networks)
def test_all_ends_in_the_fair_division_after_a_few_moves_and_then_rests(
    several: list[Player], agents: int, seed: int, network: Network
) -> None:
    named = {f"s{number}": player for number, player in enumerate(several)}
    course = in_virtual_time(play(named, agents, seed, network))
    print(course)  # noqa: T201
    assert course.is_fair, f"{course}; fair is {course.fair}"
    assert course.moves <= 2 * agents + len(named)


def test_a_seed_has_one_course_of_events() -> None:
    named = {"a": Player(9, 9), "b": Player(0, 9, weight=2.0), "c": Player(3, 9, begins=5.0)}
    network = Network(loss=0.2, called_off=0.2)
    first, again = (in_virtual_time(play(named, 9, 1, network)) for _ in range(2))
    assert first == again


# -- who comes, who goes, who does not share -----------------------------------------------------


async def joined(newcomer: Player) -> Course:
    """One more scheduler among ten that hold two agents each."""
    async with Stage(World(20)) as stage:
        for number in range(10):
            stage.enters(f"s{number}", Player(20, 20, begins=0.1 * number))
        while set(stage.world.held().values()) != {2} or len(stage.players) < 10:
            await asyncio.sleep(1.0)
        stage.enters("newcomer", newcomer)
        return await stage.until_rest()


def test_a_newcomer_among_ten_costs_one_move_as_it_claims_only_what_it_will_be_given() -> None:
    course = in_virtual_time(joined(Player(20, 20)))
    assert course.is_fair
    assert (course.held["newcomer"], course.moves) == (1, 1)


def test_a_newcomer_that_claims_everywhere_costs_moves_that_others_take_back() -> None:
    def everywhere(own: Stake, missing: int, holders: Mapping[str, Stake]) -> dict[str, int]:
        return dict.fromkeys(holders, missing)

    with patch("gc_bootstrap.pool.sized.share.claims", everywhere):
        worse = in_virtual_time(joined(Player(20, 20)))
    print(worse)  # noqa: T201
    assert worse.is_fair
    assert worse.moves > 1


def test_the_agents_of_a_scheduler_that_dies_are_divided_among_the_others() -> None:
    async def main() -> Course:
        async with Stage(World(12)) as stage:
            for name, weight in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
                stage.enters(name, Player(12, 12, weight))
            assert (await stage.until_rest()).held == {"a": 3, "b": 3, "c": 6}
            await stage.dies("c")
            return await stage.until_rest()

    course = in_virtual_time(main())
    assert course.held == {"a": 6, "b": 6}
    assert 6 <= course.moves <= 12, "who hears first takes more than its share, and gives it back"


def test_a_scheduler_whose_work_has_ended_leaves_its_agents_to_the_others() -> None:
    named = {"a": Player(6, 0), "b": Player(6, 6)}
    course = in_virtual_time(play(named, 6, 0, Network()))
    assert course.held == {"a": 0, "b": 6}
    assert course.moves <= 3


def test_weights_that_are_not_known_at_first_are_learnt() -> None:
    async def main() -> Course:
        async with Stage(World(6)) as stage:
            stage.enters("light", Player(4, 4, weight=0.5))
            stage.enters("heavy", Player(4, 4, weight=1.0, begins=5.0))
            await asyncio.sleep(6.0)
            return await stage.until_rest()

    # By four and two agents alone the light one seems to have no more than its share.
    assert in_virtual_time(main()).held == {"light": 2, "heavy": 4}


def test_what_is_guaranteed_is_never_taken() -> None:
    async def main() -> Course:
        async with Stage(World(8)) as stage:
            stage.enters("a", Player(8, 8, guaranteed=5))
            await asyncio.sleep(10.0)
            for name in "bcd":
                stage.enters(name, Player(8, 8, weight=3.0))
            return await stage.until_rest()

    course = in_virtual_time(main())
    assert course.is_fair
    assert (course.held["a"], course.lows["a"]) == (5, 5)


def test_who_keeps_what_it_has_neither_gives_nor_takes() -> None:
    async def main() -> Course:
        async with Stage(World(6)) as stage:
            stage.enters("keeps", Player(4, 4, policy="keep"))
            await asyncio.sleep(10.0)
            stage.enters("fair", Player(6, 6))
            await asyncio.sleep(10.0)
            stage.enters("waits", Player(6, 6, policy="keep"))
            return await stage.until_rest()

    course = in_virtual_time(main())
    assert course.held == {"keeps": 4, "fair": 2, "waits": 0}
    assert course.moves == 0


class Liar(SimulatedDist):
    """Says that it holds nothing and weighs a thousand, whatever it has."""

    async def claim(self, peer: Peer, stake: Stake, wants: int) -> Outcome:
        return await super().claim(peer, Stake(0, 1000.0), 1000)


def test_a_liar_gets_what_a_scheduler_of_that_weight_would_get_and_nothing_that_is_kept() -> None:
    async def main() -> Course:
        async with Stage(World(9)) as stage:
            stage.enters("a", Player(9, 9, guaranteed=2))
            stage.enters("b", Player(9, 9, guaranteed=1))
            await asyncio.sleep(20.0)
            stage.enters("liar", Player(9, 9, weight=1000.0, dist=Liar))
            return await stage.until_rest()

    course = in_virtual_time(main())
    assert (course.held["a"], course.held["b"]) == (2, 1)
    assert (course.lows["a"], course.lows["b"]) == (2, 1)
