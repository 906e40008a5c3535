"""Schedulers that share agents: all of them processes, all of them at work."""

from __future__ import annotations

import pytest

from tests.integration.harness import Processes, until
from tests.integration.sharing import ADAPT, sharing

pytestmark = pytest.mark.timeout(180)

PLENTY = 3_000
"""More tasks than there is time for."""


async def test_two_share_by_halves_and_who_has_no_work_gives_all_back(
    processes: Processes,
) -> None:
    async with sharing(processes, 6) as share:
        first = await share.party("first")
        first.compute(PLENTY)
        await share.until(6)
        second = await share.party("second")
        second.compute(PLENTY)
        await share.held("the second one has work, too")
        await share.until(3, 3)
        await share.stays(3, 3)
        await first.rest()
        await share.held("the first one has none any more")
        await share.until(0, 6)
        await second.rest()
        await share.held("nor has the second one")
        await share.until(0, 0)
        assert first.check() > 0
        assert second.check() > 0


async def test_three_share_by_weight_and_what_a_dead_one_had_goes_to_the_others(
    processes: Processes,
) -> None:
    async with sharing(processes, 6, "--no-nanny") as share:
        heavy = await share.party("heavy", adapt=ADAPT, share={"weight": 2})
        light = await share.party("light")
        for party in (heavy, light):
            party.compute(PLENTY)
        await share.until(4, 2)
        await share.stays(4, 2)
        newcomer = await share.party("newcomer")
        newcomer.compute(PLENTY)
        await share.held("a newcomer has work, too")

        async def balanced() -> bool:
            return await share.held() in ((4, 1, 1), (3, 2, 1), (3, 1, 2))

        # D'Hondt's: five are due to 3, 1 and 1, the sixth to any: 2/4, 1/2 and 1/2 are the same.
        await until(balanced, f"six are shared by 2:1:1, now {share}")
        await heavy.kill()
        await share.held("the heavy one is killed")
        await share.until(0, 3, 3)
        await share.stays(0, 3, 3)
        for party in (light, newcomer):
            await party.rest()
            assert party.check() > 0
        await share.until(0, 0, 0)


async def test_what_is_guaranteed_is_not_taken(processes: Processes) -> None:
    async with sharing(processes, 3, "--no-nanny") as share:
        first = await share.party("first", adapt=ADAPT, share={"guaranteed": 2})
        first.compute(PLENTY)
        await share.until(3)
        second = await share.party("second", adapt=ADAPT, share={"weight": 10})
        second.compute(PLENTY)
        await share.until(2, 1)
        await share.stays(2, 1)
        for party in (first, second):
            await party.rest()
            party.check()


@pytest.mark.parametrize("who", ["all", "adapt"])
async def test_who_keeps_all_gives_none_and_one_that_waits_has_them_when_it_is_gone(
    processes: Processes, who: str
) -> None:
    async with sharing(processes, 2, "--no-nanny") as share:
        first = await share.party("first", size="all")
        await share.until(2)
        options = {"size": "all"} if who == "all" else {"adapt": ADAPT, "share": {"weight": 10}}
        second = await share.party("second", **options)
        for party in (first, second):
            party.compute(PLENTY)
        await share.stays(2, 0)
        assert (await first.status())["counters"]["releases"] == 0
        await first.kill()
        await share.until(0, 2)
        await second.rest()
        second.check()
