# %% [markdown]
# # As many agents as the work needs
#
# Start some agents on this machine first, each in a terminal: `dask pool agent`. Or let the cluster
# start them, as here: they end with it. Run this file as a notebook (Jupyter by jupytext, VS Code,
# Spyder), or as a script.

# %%
from __future__ import annotations

from gc_bootstrap import PoolCluster

cluster = PoolCluster("local", agents=2, dashboard_address=":0", name="notebook")
cluster.adapt(0, 6)
client = cluster.get_client()
cluster

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
