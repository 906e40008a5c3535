"""The names by which the two programs call each other: HTTP routes, RPCs, stream messages."""

from __future__ import annotations

ATTACH = "/v1/attach"
DETACH = "/v1/detach"
STATUS = "/v1/status"

PROCESSING = "processing"
"""What a request's header ``Prefer`` (RFC 7240) says to be told that it is being worked on."""
NONCE = "GC-Bootstrap-Nonce"
"""Header of an agent's answers: what the tokens of requests to it have to carry."""

DRAIN_HANDLER = "gc_bootstrap_drain"
"""Name of the scheduler's RPC by which an agent has its workers drained."""
REFILL_HANDLER = "gc_bootstrap_refill"
"""Name of the scheduler's RPC by which an agent asks whether to start a worker in place of one that
has ended; it answers one of the next three."""
REFILL_YES = "yes"
REFILL_LATER = "later"
"""The agent's workers are being drained: it may ask again."""
REFILL_NO = "no"
"""The worker was retired on purpose."""
REPORT_REQUEST = "gc_bootstrap-report"
"""Name of the message that asks a worker which tasks it runs."""
REPORT_ANSWER = "gc_bootstrap-running"
"""Name of the worker's message that answers it."""
CLAIM_HANDLER = "gc_bootstrap_claim"
"""Name of the scheduler's RPC by which an agent says that somebody else claims it; it answers what
its pool holds."""
FREE_HANDLER = "gc_bootstrap_free"
"""Name of the scheduler's RPC by which an agent tells who has claimed it that it is free."""
RESIZE_HANDLER = "gc_bootstrap_resize"
"""Name of the scheduler's RPC by which a pool is given another size."""
STATUS_HANDLER = "gc_bootstrap_status"
"""Name of the scheduler's RPC that ``dask pool status`` calls."""
