"""Who gives a peer to whom where schedulers share them, as pure functions of what each has.

The rule is D'Hondt's, the divisor method that allots seats to parties by their votes (V. D'Hondt,
*La représentation proportionnelle des partis par un électeur*, 1878; in the United States as
Jefferson's), with peers for seats and weights for votes. The k-th peer of a scheduler of weight w
costs k/w. One moves where the last of its holder costs more than the next of who wants it.

Why that ends, whoever decides when: add up what all the peers that are held cost. Each move takes
h/w from that sum and adds (h'+1)/w', which is less. The sum falls with each move, and there are
finitely many ways to divide peers, so there is a last one. The sum is convex in the number of each
scheduler, so a division that no single move can improve is the best there is: D'Hondt's, the
fairest by weight that wants and guarantees allow. Of those that are equally good none is better
than another, and nothing moves between them. This holds whether claimants ask everywhere or only
where the rule would give (:func:`claims`); the latter saves the moves that others would take back.

What a liar can gain: the numbers are the claimant's own word. One that says that it holds nothing,
or weighs a thousand, gets what a scheduler that does would get: at most all that the holders do not
keep. It needs the secret of those agents to say it, and who has that may attach them as soon as
they are free anyway. It cannot take what is guaranteed, or work that runs, or results: a peer is
given by a drain that costs nothing, or not at all.

Belongs here: the rule. Does not belong here: who is asked and when (:mod:`gc_bootstrap.pool.plan`),
and how many peers the work needs.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gc_bootstrap.stake import Claim, Stake


def gives(holder: Stake, claimant: Stake) -> bool:
    """Whether a holder gives one of its peers to a claimant.

    Both products are rounded alike, and rounding keeps their order: where this is true it is true
    of the exact numbers, so no peer goes round in a circle.

    Parameters
    ----------
    holder
        What the holder has, in peers.
    claimant
        What the claimant has, those included that are on their way to it.

    Returns
    -------
    bool
        Whether ``(h' + 1)/w' < h/w``, and the holder has more than it keeps.
    """
    if holder.holds <= holder.keeps:
        return False
    return (claimant.holds + 1) * holder.weight < holder.holds * claimant.weight


def give(own: Stake, claims: Sequence[Claim], given: Mapping[str, int]) -> Claim | None:
    """To whom the next peer is given.

    Parameters
    ----------
    own
        What the holder has; peers that are being let go do not count.
    claims
        What others want, one claim for each who wants some.
    given
        By scheduler id, how many peers are on their way to it that its claim does not know of. They
        count as its own, and against what it wants.

    Returns
    -------
    Claim or None
        Of those that the rule gives one the neediest, with the least ``(h' + 1)/w'``; of equal ones
        that with the least scheduler id. None where nobody is given any.
    """
    neediest: tuple[float, str] | None = None
    chosen = None
    for claim in claims:
        coming = given.get(claim.scheduler_id, 0)
        has = replace(claim.stake, holds=claim.stake.holds + coming)
        if claim.wants <= coming or not gives(own, has):
            continue
        need = ((has.holds + 1) / has.weight, claim.scheduler_id)
        if neediest is None or need < neediest:
            neediest, chosen = need, claim
    return chosen


def claims(own: Stake, missing: int, holders: Mapping[str, Stake]) -> dict[str, int]:
    """How many peers to claim of each holder: as many as the rule would give, and no more.

    Greedy, as all holders together would give them: one after the other, each by who holds most per
    weight at that time. Takes ``O((missing + holders) log holders)``.

    Parameters
    ----------
    own
        What the claimant has, those included that are on their way to it.
    missing
        How many more it wants.
    holders
        By scheduler id what each other scheduler has.

    Returns
    -------
    dict
        By scheduler id how many to claim, at least 1; without those who would give none.
    """
    asked: dict[str, int] = {}
    most = [(-stake.holds / stake.weight, name) for name, stake in holders.items()]
    heapq.heapify(most)
    while most and missing > 0:
        name = most[0][1]
        left = _after(holders[name], -asked.get(name, 0))
        if not gives(left, own):
            # Nor will it later: the claimant only comes to hold more.
            heapq.heappop(most)
            continue
        asked[name] = asked.get(name, 0) + 1
        own = _after(own, 1)
        missing -= 1
        heapq.heapreplace(most, ((1 - left.holds) / left.weight, name))
    return asked


def _after(stake: Stake, change: int) -> Stake:
    return replace(stake, holds=stake.holds + change)
