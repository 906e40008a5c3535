"""Schedulers that share agents, without processes: agents, and a network that is late and loses.

A :class:`World` has agents that hold to the protocol of the real ones: held by one scheduler at a
time, they keep claims, relay them, and tell who has claimed them when they are free.
:class:`SimulatedDist` is a scheduler's side of it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from gc_bootstrap.config import AdaptOptions
from gc_bootstrap.dist import Dist, Needed
from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.stake import NOT_SAID, Capacity, Claim, Holder, Stake, Survey

CLAIM_TTL = 15.0
"""Seconds for which a claim is kept, by agents and holders."""
NEXT_TOLD = 0.5
"""Seconds after which a free agent tells the next one that has claimed it."""
NOTICED = 1.0
"""Seconds within which an agent notices that its scheduler is gone."""
LOST = 1.0
"""Seconds after which who waits for an answer gives it up."""


class NumberedPeer(Peer):
    """A peer whose place in a set is the same in every process: a seed has one course of events."""

    __slots__ = ()

    def __hash__(self) -> int:
        return self.port


@dataclass
class Agent:
    """What an agent knows: who holds it, what that one last said it has, and who else wants it."""

    holder: str | None = None
    before: str | None = None
    told: Stake | None = None
    claims: dict[str, tuple[Claim, float]] = field(default_factory=dict)
    turn: tuple[str | None, float] = None, 0.0

    def says(self, holder: str) -> Holder:
        """Who it says holds it. Of one that has said nothing it is known that it holds this one."""
        return Holder(holder, holder, NOT_SAID if self.told is None else self.told)


@dataclass(frozen=True)
class Network:
    """How messages fare, in seconds and shares of 1; and drains."""

    delay: tuple[float, float] = (0.001, 0.05)
    loss: float = 0.0
    drain: tuple[float, float] = (0.05, 3.0)
    called_off: float = 0.0


class World:
    """Agents, and the schedulers that live.

    Attributes
    ----------
    attaches, moves
        How often an agent was attached, and of those how often by another scheduler than before.
    """

    def __init__(self, agents: int, seed: int = 0, network: Network | None = None) -> None:
        self.agents: dict[Peer, Agent] = {
            NumberedPeer("10.0.0.1", port): Agent() for port in range(1, agents + 1)
        }
        self.network = network if network is not None else Network()
        self.schedulers: dict[str, SimulatedDist] = {}
        self.random = random.Random(seed)
        self.attaches = self.moves = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def held(self) -> dict[str, int]:
        """How many agents each scheduler holds."""
        count = dict.fromkeys(self.schedulers, 0)
        for agent in self.agents.values():
            if agent.holder is not None:
                count[agent.holder] = count.get(agent.holder, 0) + 1
        return count

    async def travel(self) -> None:
        """One message on its way. Lost, it is as if nobody answered."""
        await asyncio.sleep(self.random.uniform(*self.network.delay))
        if self.random.random() < self.network.loss:
            await asyncio.sleep(LOST)
            raise DistError("nobody answers")

    def die(self, name: str) -> None:
        """A scheduler is gone, from one moment to the next; its agents notice it."""
        del self.schedulers[name]
        for peer, agent in self.agents.items():
            if agent.holder == name:
                self._run(self._notice(peer, name))

    async def attach(self, peer: Peer, dist: SimulatedDist, claim: Claim | None) -> Outcome:
        """What the agent at ``peer`` answers."""
        agent = self.agents[peer]
        if agent.holder is None:
            first, until = agent.turn
            if first not in (None, dist.name) and self.now < until:
                return Outcome.refused(f"is left to {first} first", expected=True, soon=True)
            agent.holder, agent.told, agent.turn = dist.name, None, (None, 0.0)
            self.attaches += 1
            self.moves += agent.before not in (None, dist.name)
            agent.before = dist.name
            agent.claims.pop(dist.name, None)
            return Outcome.DONE
        if agent.holder == dist.name:
            return Outcome.DONE
        holder = agent.holder
        if claim is not None:
            agent.claims[dist.name] = claim, self.now
            try:
                await self.travel()
                if holder in self.schedulers:
                    agent.told = self.schedulers[holder].claimed(claim)
                await self.travel()
            except DistError:
                pass  # the agent answers what it knew
        return Outcome.refused(f"is held by {holder}", soon=True, holder=agent.says(holder))

    def free(self, peer: Peer, to: Claim | None) -> None:
        """The agent at ``peer`` is idle, and tells who has claimed it."""
        agent = self.agents[peer]
        agent.holder = None
        kept = [c for c, at in agent.claims.values() if self.now - at < CLAIM_TTL and c != to]
        kept.sort(key=lambda claim: (claim.stake.holds + 1) / claim.stake.weight)
        agent.claims.clear()
        following = [to, *kept] if to is not None else kept
        if following:
            agent.turn = following[0].scheduler_id, self.now + NEXT_TOLD
        self._run(self._tell(peer, following))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _notice(self, peer: Peer, name: str) -> None:
        await asyncio.sleep(self.random.uniform(0, NOTICED))
        if self.agents[peer].holder == name:
            self.free(peer, None)

    async def _tell(self, peer: Peer, claims: Sequence[Claim]) -> None:
        for claim in claims:
            try:
                await self.travel()
            except DistError:
                continue
            if self.agents[peer].holder is not None:
                return
            if claim.scheduler_id in self.schedulers:
                self.schedulers[claim.scheduler_id].is_free(peer)
            await asyncio.sleep(NEXT_TOLD)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class SimulatedDist(Dist):
    """One scheduler's side.

    Parameters
    ----------
    world
        With whom it shares.
    name
        Also its address and its id.
    wants
        How many agents its work needs, at any time.
    """

    def __init__(self, world: World, name: str, wants: Callable[[float], int]) -> None:
        self.world = world
        self.name = name
        self.stake = Stake()
        self.wants = wants
        self._claims: dict[str, tuple[Claim, float]] = {}
        self._freed: set[Peer] = set()
        self._changed = asyncio.Event()
        world.schedulers[name] = self

    @property
    def alive(self) -> bool:
        return self.name in self.world.schedulers

    def claimed(self, claim: Claim) -> Stake:
        """Take in a claim that one of its agents relays."""
        self._claims[claim.scheduler_id] = claim, self.world.now
        self._changed.set()
        return self.stake

    def is_free(self, peer: Peer) -> None:
        """Take in what an agent says that is free."""
        self._freed.add(peer)
        self._changed.set()

    async def members(self) -> frozenset[Peer]:
        return frozenset(p for p, agent in self.world.agents.items() if agent.holder == self.name)

    async def connect(self, peer: Peer) -> Outcome:
        return await self._attach(peer, None)

    async def claim(self, peer: Peer, stake: Stake, wants: int) -> Outcome:
        return await self._attach(peer, Claim(self.name, self.name, "default", stake, wants))

    async def _attach(self, peer: Peer, claim: Claim | None) -> Outcome:
        await self.world.travel()
        if not self.alive:
            raise DistError("has ended")
        outcome = await self.world.attach(peer, self, claim)
        await self.world.travel()
        return outcome

    async def survey(self, peer: Peer) -> Survey | Outcome:
        await self.world.travel()
        agent = self.world.agents[peer]
        holder = None
        if agent.holder not in (None, self.name):
            assert agent.holder is not None
            holder = agent.says(agent.holder)
        await self.world.travel()
        return Survey(Capacity(), holder)

    async def disconnect(self, peer: Peer) -> Outcome:
        return await self.release(peer)

    async def release(self, peer: Peer, to: Claim | None = None) -> Outcome:
        await asyncio.sleep(self.world.random.uniform(*self.world.network.drain))
        if self.world.random.random() < self.world.network.called_off:
            return Outcome.refused("its data cannot be placed")
        if self.alive and self.world.agents[peer].holder == self.name:
            self.world.free(peer, to)
        return Outcome.DONE

    async def needed(
        self,
        capacities: Mapping[Peer, Capacity],
        held: AbstractSet[Peer],
        adapt: AdaptOptions,
    ) -> Needed:
        return Needed(self.wants(self.world.now))

    def claims(self) -> Sequence[Claim]:
        return [c for c, at in self._claims.values() if self.world.now - at < CLAIM_TTL]

    def freed(self) -> AbstractSet[Peer]:
        freed, self._freed = frozenset(self._freed), set()
        return freed

    def tell(self, stake: Stake) -> None:
        self.stake = stake

    async def changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()


# -- what sharing should end in ------------------------------------------------------------------


@dataclass(frozen=True)
class Party:
    """A scheduler as the reference sees it: between ``least`` and ``most`` agents by weight."""

    weight: float
    most: int
    least: int = 0


def cost(held: Mapping[str, int], parties: Mapping[str, Party]) -> Fraction:
    """What agents cost that are divided so: the k-th of a scheduler k by its weight."""
    return sum(
        (
            Fraction(k) / Fraction(parties[name].weight)
            for name in held
            for k in range(held[name] + 1)
        ),
        Fraction(),
    )


def divided(agents: int, parties: Mapping[str, Party]) -> dict[str, int]:
    """The division by highest averages, one agent after the other (D'Hondt's own way)."""
    held = {name: min(party.least, party.most) for name, party in parties.items()}
    for _ in range(agents - sum(held.values())):
        open_ones = [name for name in parties if held[name] < parties[name].most]
        if not open_ones:
            break
        held[min(open_ones, key=lambda n: (held[n] + 1) / Fraction(parties[n].weight))] += 1
    return held
