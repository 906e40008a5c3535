"""What state an agent is in: the states, what happens to an agent, and where that leads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType


class State(Enum):
    """Of an agent: what the API and the metrics call it, and what it means.

    Several have one word; Python tells members apart by their whole value.
    """

    WARMING = "warming", "imports what its workers will need"
    IDLE = "idle", "waits for a scheduler"
    ATTACHING = "attaching", "its workers start"
    ATTACHED = "attached", "its workers run"
    DRAINING = "draining", "its scheduler takes the workers' tasks and data; then it is idle again"
    ENDING = "draining", "its workers end; then it is idle again"
    LEAVING = "draining", "as DRAINING, but for good: the process ends"
    CLOSING = "draining", "as ENDING, but for good"
    ENDED = "draining", "no worker is left, and none comes any more"

    @property
    def word(self) -> str:
        """What the API and the metrics call it."""
        return self.value[0]


WORDS = tuple(dict.fromkeys(state.word for state in State))
"""What a state can be called, in the order of an agent's life."""


class Event(Enum):
    """What happens to an agent."""

    WARMED = "it has warmed up"
    ATTACH = "a scheduler takes it"
    STARTED = "its workers have registered"
    DRAIN = "somebody wants its workers drained"
    END = "its workers end, for whatever reason"
    OVER = "the last of them has ended"
    LEAVE = "the process is to end"


TRANSITIONS: Mapping[State, Mapping[Event, State]] = MappingProxyType(
    {
        State.WARMING: {Event.WARMED: State.IDLE, Event.LEAVE: State.ENDED},
        State.IDLE: {Event.ATTACH: State.ATTACHING, Event.LEAVE: State.ENDED},
        State.ATTACHING: {
            Event.STARTED: State.ATTACHED,
            Event.DRAIN: State.DRAINING,
            Event.END: State.ENDING,
            Event.LEAVE: State.LEAVING,
        },
        State.ATTACHED: {
            Event.DRAIN: State.DRAINING,
            Event.END: State.ENDING,
            Event.LEAVE: State.LEAVING,
        },
        State.DRAINING: {
            Event.STARTED: State.DRAINING,
            Event.DRAIN: State.DRAINING,
            Event.END: State.ENDING,
            Event.LEAVE: State.LEAVING,
        },
        State.ENDING: {
            Event.DRAIN: State.ENDING,
            Event.END: State.ENDING,
            Event.OVER: State.IDLE,
            Event.LEAVE: State.CLOSING,
        },
        State.LEAVING: {
            Event.STARTED: State.LEAVING,
            Event.DRAIN: State.LEAVING,
            Event.END: State.CLOSING,
            Event.LEAVE: State.LEAVING,
        },
        State.CLOSING: {
            Event.DRAIN: State.CLOSING,
            Event.END: State.CLOSING,
            Event.OVER: State.ENDED,
            Event.LEAVE: State.CLOSING,
        },
        # It may have been told to leave while it warmed up.
        State.ENDED: {Event.WARMED: State.ENDED, Event.LEAVE: State.ENDED},
    }
)
"""All that may happen. What is not here is a bug of the agent's."""


class Life:
    """The one state of one agent.

    Attributes
    ----------
    state
        What it is now; only :meth:`tell` changes it.
    """

    def __init__(self) -> None:
        self.state = State.WARMING
        self._told: list[Callable[[], object]] = []

    def on_change(self, call: Callable[[], object]) -> None:
        """Have something called after each change of the state."""
        self._told.append(call)

    def tell(self, event: Event) -> None:
        """Say what has happened.

        Raises
        ------
        RuntimeError
            It cannot happen in this state.
        """
        following = TRANSITIONS[self.state].get(event)
        if following is None:
            raise RuntimeError(f"an agent that is {self.state.name}: {event.value}?")
        self.state = following
        for call in self._told:
            call()

    @property
    def leaves(self) -> bool:
        """Whether the process is to end: nobody attaches the agent any more."""
        return self.state in (State.LEAVING, State.CLOSING, State.ENDED)

    @property
    def ready(self) -> bool:
        """Whether the agent can be attached, or is: perhaps in a moment, when it is free."""
        return self.state is not State.WARMING and not self.leaves

    @property
    def frees_itself(self) -> bool:
        """Whether the agent is being freed of its scheduler, and can then be attached anew."""
        return self.state in (State.DRAINING, State.ENDING)

    @property
    def workers_end(self) -> bool:
        """Whether the workers are ending, or have ended."""
        return self.state in (State.ENDING, State.CLOSING, State.ENDED)

    @property
    def restarts_workers(self) -> bool:
        """Whether a worker that dies is started again."""
        return self.state in (State.ATTACHING, State.ATTACHED)
