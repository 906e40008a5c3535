"""The pod that the agent runs in, as the API server has it.

Imported where it is wanted only, and in a thread: the client library takes more than a second.
"""

from __future__ import annotations

import asyncio

import aiohttp

from gc_bootstrap.agent.deletion_cost import Pod
from gc_bootstrap.discovery.kubernetes.api import ApiError, broken, refusal, send
from gc_bootstrap.discovery.kubernetes.credentials import Access
from gc_bootstrap.discovery.kubernetes.options import Options

RULE = '{apiGroups: [""], resources: [pods/status], verbs: [patch]}'
"""Of a Role that lets annotate pods. Annotations can be changed by way of the status, too, and who
may change nothing but that cannot have a pod run another image."""
MERGE = "application/merge-patch+json"
TIMEOUT = 10.0
"""Seconds for one patch."""
MOST = 2**16
"""Bytes of an error that are read."""


class OwnPod:
    """Annotates the pod.

    Parameters
    ----------
    pod
        Its name.
    """

    def __init__(self, pod: Pod) -> None:
        self._pod = pod
        self._access = Access(Options())

    async def annotate(self, annotations: dict[str, str]) -> None:
        """Put annotations, in place of those with the same keys.

        Raises
        ------
        DiscoveryError
            There are no credentials, the API server cannot be reached, or it refuses.
        """
        pod = self._pod
        what = f"patch pods/status {pod}"
        path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/status"
        body = {"metadata": {"annotations": annotations}}
        try:
            async with asyncio.timeout(TIMEOUT):
                # From the service account's files each time: the kubelet renews the token.
                connection = await self._access.connection()
                response = await send(connection, "PATCH", path, body, MERGE)
                try:
                    if response.status != 200:
                        raise refusal(
                            response.status,
                            response.headers,
                            await response.content.read(MOST),
                            what=what,
                            rule=RULE,
                            source=connection.source,
                        )
                finally:
                    response.close()
        except TimeoutError:
            raise ApiError(f"{what}: no answer within {TIMEOUT:g} s") from None
        except (aiohttp.ClientError, OSError) as exc:
            raise ApiError(f"{what}: {broken(exc)}") from exc

    async def close(self) -> None:
        """Close the connection."""
        await self._access.close()
