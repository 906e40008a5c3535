"""For tests of discoveries, dists and pools: doubles that can be steered, and contract suites.

The doubles are honest implementations of the contracts, without a network. The suites hold any
implementation to its contract: subclass one in your tests, say how to make your implementation,
and pytest (with pytest-asyncio in ``auto`` mode) runs it.
"""

from gc_bootstrap.testing.contracts import DiscoveryContract as DiscoveryContract
from gc_bootstrap.testing.contracts import DistContract as DistContract
from gc_bootstrap.testing.doubles import FakeDist as FakeDist
from gc_bootstrap.testing.doubles import ManualDiscovery as ManualDiscovery
