"""The one state of an agent: every transition, and what holds on every way through them."""

from __future__ import annotations

from importlib.resources import files

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gc_bootstrap.agent.state import TRANSITIONS, WORDS, Event, Life, State

POSSIBLE = [(state, event) for state in State for event in TRANSITIONS[state]]
IMPOSSIBLE = [(s, e) for s in State for e in Event if e not in TRANSITIONS[s]]


def life_in(state: State) -> Life:
    life = Life()
    life.state = state
    return life


def reachable(start: State) -> set[State]:
    found, new = {start}, [start]
    while new:
        for following in TRANSITIONS[new.pop()].values():
            if following not in found:
                found.add(following)
                new.append(following)
    return found


def test_an_agent_warms_up_waits_is_attached_drained_and_waits_again() -> None:
    life = Life()
    seen = [life.state]
    for event in (
        *(Event.WARMED, Event.ATTACH, Event.STARTED, Event.DRAIN, Event.END, Event.OVER),
        *(Event.ATTACH, Event.LEAVE, Event.STARTED, Event.DRAIN, Event.END, Event.OVER),
    ):
        life.tell(event)
        seen.append(life.state)
    assert [state.name for state in seen] == [
        *("WARMING", "IDLE", "ATTACHING", "ATTACHED", "DRAINING", "ENDING", "IDLE"),
        *("ATTACHING", "LEAVING", "LEAVING", "LEAVING", "CLOSING", "ENDED"),
    ]


def test_the_table_has_a_row_for_each_state_and_leads_to_every_one() -> None:
    assert TRANSITIONS.keys() == set(State)
    assert reachable(State.WARMING) == set(State)


@pytest.mark.parametrize("state", State)
def test_whatever_it_does_an_agent_can_be_told_to_leave_and_comes_to_its_end(state: State) -> None:
    life = life_in(state)
    life.tell(Event.LEAVE)
    assert life.leaves
    assert not life.ready
    assert State.ENDED in reachable(life.state)


@pytest.mark.parametrize("state", [s for s in State if not life_in(s).leaves])
def test_an_agent_that_stays_can_become_idle(state: State) -> None:
    assert State.IDLE in reachable(state)


@pytest.mark.parametrize("state", [s for s in State if life_in(s).leaves])
def test_who_leaves_does_not_come_back(state: State) -> None:
    assert all(life_in(following).leaves for following in reachable(state))


@pytest.mark.parametrize(("state", "event"), IMPOSSIBLE, ids=lambda it: it.name)
def test_what_cannot_happen_is_an_error_and_changes_nothing(state: State, event: Event) -> None:
    life = life_in(state)
    with pytest.raises(RuntimeError, match=f"an agent that is {state.name}: {event.value}"):
        life.tell(event)
    assert life.state is state


@pytest.mark.parametrize(("state", "event"), POSSIBLE, ids=lambda it: it.name)
def test_workers_that_end_do_not_come_to_life_again_without_an_attach(
    state: State, event: Event
) -> None:
    life = life_in(state)
    ended = life.workers_end
    life.tell(event)
    if ended and not life.workers_end:
        assert (event, life.state) == (Event.OVER, State.IDLE)


@given(st.lists(st.sampled_from(Event)))
def test_on_every_way_at_most_one_thing_is_said_of_an_agent(events: list[Event]) -> None:
    life = Life()
    for event in events:
        if event in TRANSITIONS[life.state]:
            life.tell(event)
        assert life.state.word in WORDS
        assert not (life.ready and life.leaves)
        assert not (life.frees_itself and life.leaves), "it can be attached, and cannot"
        assert not (life.restarts_workers and (life.workers_end or life.leaves))


def test_the_words_are_those_that_the_api_promises() -> None:
    text = files("gc_bootstrap.agent").joinpath("openapi.yaml").read_text()
    promised = yaml.safe_load(text)["components"]["schemas"]["StateName"]["enum"]
    assert list(WORDS) == promised
