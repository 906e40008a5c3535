"""As many agents as the work needs, in a notebook.

The cluster starts two agents on this machine, which end with it; without `agents=2` it finds those
that run already (`dask pool agent`). Open this file as a notebook (VS Code, Spyder, Jupyter with
jupytext), or run it as a script.
"""

# %%
from __future__ import annotations

from gc_bootstrap import PoolCluster

cluster = PoolCluster("local", agents=2, dashboard_address=":0", name="notebook")
cluster.adapt(0, 6)
client = cluster.get_client()
cluster  # noqa: B018 - a notebook shows it

# %% [markdown]
# The work brings agents; when it is done they are let go, and anybody's.


# %%
def square(x: int) -> int:
    """Multiply a number by itself."""
    return x * x


print("sum of squares:", sum(client.gather(client.map(square, range(10)))))

# %% [markdown]
# Who is held, and why the others are not:

# %%
pool = cluster.pool_status()["pools"][0]
print("found:", len(pool["peers"]), "held:", len(pool["members"]))

# %%
client.close()
cluster.close()
