"""What a kubelet does, with processes in place of containers."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from gc_bootstrap.cli.processes import ProcessGroup
from tests.e2e.cluster import ApiRefusedError, Cluster, Object
from tests.helm.pods import Pod
from tests.integration.harness import ForkedGroup

NODE = "gc-bootstrap-e2e"
POLL = 0.1
"""Seconds between two looks at the pods of the namespace, and between two probes of one."""
SERVICE_ACCOUNT = "var/run/secrets/kubernetes.io/serviceaccount"


class Kubelet:
    """Runs the pods that controllers make in a namespace, and is their scheduler, too.

    A pod gets an address of its own, its mounted files and its service account's token; its
    readiness probe is asked for as long as it runs; when it is being deleted it gets SIGTERM, and
    SIGKILL after its grace period; then it is gone.

    Attributes
    ----------
    codes
        Exit codes by pod, of those that have ended.
    """

    def __init__(self, cluster: Cluster, logs: Path) -> None:
        self._cluster = cluster
        self._logs = logs
        # Not the test's own folder: a pod's TMPDIR is short, and sockets have to fit (108 bytes).
        self._temporary = TemporaryDirectory(prefix="pods")
        self._numbers = itertools.count()
        self._deleted: dict[str, asyncio.Event] = {}
        self._pods: dict[str, Pod] = {}
        self._groups: dict[str, ProcessGroup] = {}
        self.codes: dict[str, int] = {}

    async def __aenter__(self) -> Kubelet:
        await self._make_node()
        self._task = asyncio.create_task(self._run(), name="kubelet")
        return self

    async def __aexit__(self, *exc: object) -> None:
        failed = self._task.done()
        self._task.cancel()
        await asyncio.gather(*(group.stop() for group in self._groups.values()))
        self._temporary.cleanup()
        with suppress(asyncio.CancelledError):
            await self._task
        assert not failed, "the kubelet has ended"

    def host(self, start: str) -> str:
        """The address of the running pod whose name begins like this."""
        (pod,) = [pod for name, pod in self._pods.items() if name.startswith(start)]
        return pod.host

    def printed(self, name: str) -> list[str]:
        """The lines that a pod has printed."""
        return (self._logs / f"{name}.log").read_text().splitlines()

    async def _make_node(self) -> None:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        try:
            await self._cluster.admin.call("POST", "/api/v1/nodes", node)
        except ApiRefusedError as exc:
            if exc.status != 409:  # the test before has made it
                raise

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as lives:
            while True:
                for pod in (await self._cluster.get("pods"))["items"]:
                    uid = pod["metadata"]["uid"]
                    if uid not in self._deleted:
                        self._deleted[uid] = asyncio.Event()
                        lives.create_task(self._live(pod, self._deleted[uid]))
                    if "deletionTimestamp" in pod["metadata"]:
                        self._deleted[uid].set()
                await asyncio.sleep(POLL)

    async def _live(self, obj: Object, deleted: asyncio.Event) -> None:
        """A pod's whole life."""
        name, uid = obj["metadata"]["name"], obj["metadata"]["uid"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
        }
        await self._cluster.admin.call("POST", self._cluster.path("pods", name, "binding"), binding)
        folder = Path(self._temporary.name, str(next(self._numbers)))
        pod = Pod(
            *(name, obj["metadata"]["labels"], obj["spec"], self._cluster.new_host(), folder),
            namespace=self._cluster.namespace,
        )
        environ = await self._prepare(pod, uid)
        self._pods[name] = pod
        if obj["spec"]["restartPolicy"] == "Never":
            await self._run_once(pod, environ)
            await deleted.wait()
        else:
            await self._serve(pod, environ, deleted)
        del self._pods[name]
        await self._cluster.delete("pods", name, 0)

    async def _prepare(self, pod: Pod, uid: str) -> dict[str, str]:
        """Mount volumes; the environment."""
        objects = []
        for kind, collection in (("ConfigMap", "configmaps"), ("Secret", "secrets")):
            found = (await self._cluster.get(collection))["items"]
            objects += [{**obj, "kind": kind} for obj in found]
        pod.mount(objects)
        services = (await self._cluster.get("services"))["items"]
        pod.services = {
            service["metadata"]["name"]: other.host
            for service in services
            for other in self._pods.values()
            if service["spec"]["selector"].items() <= other.labels.items()
        }
        environ = pod.environ
        if any("projected" in volume for volume in pod.spec["volumes"]):
            environ["KUBECONFIG"] = str(await self._give_token(pod, uid))
        return environ

    async def _give_token(self, pod: Pod, uid: str) -> Path:
        """A token that is good for as long as the pod is there, where it is mounted."""
        account = pod.spec["serviceAccountName"]
        bound = {"kind": "Pod", "apiVersion": "v1", "name": pod.name, "uid": uid}
        token = await self._cluster.token_of(account, 3607, **bound)
        file = pod.folder / SERVICE_ACCOUNT / "token"
        file.write_text(token)
        # In a pod it would be found by its path; here a kubeconfig has to lead there.
        return self._cluster.config_of(pod.folder, {"tokenFile": str(file)})

    async def _serve(self, pod: Pod, environ: dict[str, str], deleted: asyncio.Event) -> None:
        program, *arguments = pod.arguments
        assert program == "dask"
        log = self._logs / f"{pod.name}.log"
        group = self._groups[pod.name] = ForkedGroup(arguments, log, environ)
        await group.start()
        ready: bool | None = None
        kill_at = float("inf")
        loop = asyncio.get_running_loop()
        while not group.ended:
            if deleted.is_set() and kill_at == float("inf"):
                group.signal(signal.SIGTERM)
                kill_at = loop.time() + pod.spec["terminationGracePeriodSeconds"]
            if loop.time() > kill_at:
                group.kill()
            answers = await pod.probe("readinessProbe") == 200
            if answers != ready:
                ready = answers
                await self._tell(pod, "Running", ready=ready)
            await asyncio.sleep(POLL)
        assert deleted.is_set(), f"{pod.name} has ended by itself: {group.tail()}"
        assert group.returncode is not None
        self.codes[pod.name] = group.returncode
        await group.stop()

    async def _run_once(self, pod: Pod, environ: dict[str, str]) -> None:
        program, *arguments = pod.arguments
        assert program == "python"
        await self._tell(pod, "Running", ready=True)
        with (self._logs / f"{pod.name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, env=environ, stdout=log, stderr=log
            )
        try:
            self.codes[pod.name] = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        phase = "Failed" if self.codes[pod.name] else "Succeeded"
        await self._tell(pod, phase, ready=False)

    async def _tell(self, pod: Pod, phase: str, *, ready: bool) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": now}
        status = {
            "phase": phase,
            "conditions": [condition],
            "podIP": pod.host,
            "podIPs": [{"ip": pod.host}],
        }
        await self._cluster.patch_status("pods", pod.name, status)
