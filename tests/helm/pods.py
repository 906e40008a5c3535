"""Runs pods of manifests as processes: their arguments, environment and files as they stand.

There is neither a cluster nor a container here. What a kubelet, DNS and the network would do is
done by :class:`Machine`; all that has to be put differently for it is in :meth:`Pod.here`.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import re
import ssl
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from gc_bootstrap.cli.processes import ProcessGroup
from tests.integration.harness import ForkedGroup, SchedulerProcess, until

Object = dict[str, Any]


@dataclass
class Pod:
    """One pod as a process; only a real cluster has a namespace for it."""

    name: str
    labels: Mapping[str, str]
    spec: Object
    host: str
    folder: Path
    services: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""

    @property
    def container(self) -> Object:
        (container,) = self.spec["containers"]
        assert isinstance(container, dict)
        return container

    def here(self, text: str) -> str:
        """A text of the manifest, for this machine.

        Every pod shares this machine's addresses and files: "all addresses" becomes the pod's own,
        absolute paths go below the pod's folder. Names of Services become addresses.
        """
        text = re.sub(r"^(0\.0\.0\.0)?:(\d+)$", rf"{self.host}:\2", text)
        text = re.sub(r"^(?=/(etc/gc-bootstrap|work)\b)", str(self.folder), text)
        for service, host in self.services.items():
            text = text.replace(f"//{service}:", f"//{host}:")
        return text

    @property
    def arguments(self) -> list[str]:
        """Of the container."""
        arguments = [self.here(argument) for argument in self.container["args"]]
        if arguments[0] == "dask":
            # In a pod, Dask finds the one address there is.
            arguments += ["--host", self.host]
        return arguments

    @property
    def environ(self) -> dict[str, str]:
        """Of the container, with what every process needs."""
        path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])
        fields = {"metadata.name": self.name, "metadata.namespace": self.namespace}
        own = {
            env["name"]: self.here(env["value"])
            if "value" in env
            else fields[env["valueFrom"]["fieldRef"]["fieldPath"]]
            for env in self.container["env"]
        }
        return {"PATH": path, **own}

    def port(self, name: str) -> int:
        """A port of the container by its name."""
        (port,) = [p for p in self.container["ports"] if p["name"] == name]
        return int(port["containerPort"])

    def mount(self, objects: Iterable[Object]) -> None:
        """Write what is mounted into the container."""
        files = {(o["kind"], o["metadata"]["name"]): o for o in objects}
        volumes = {volume["name"]: volume for volume in self.spec["volumes"]}
        for mount in self.container["volumeMounts"]:
            folder = Path(f"{self.folder}{mount['mountPath']}")
            folder.mkdir(parents=True, exist_ok=True)
            volume = volumes[mount["name"]]
            if "secret" in volume:
                data = files["Secret", volume["secret"]["secretName"]]["data"]
                keys = {k: k for k in data}
                if "items" in volume["secret"]:
                    keys = {item["key"]: item["path"] for item in volume["secret"]["items"]}
                for key, path in keys.items():
                    (folder / path).write_bytes(base64.b64decode(data[key]))
            elif "configMap" in volume:
                for name, text in files["ConfigMap", volume["configMap"]["name"]]["data"].items():
                    (folder / name).write_text(text)

    async def probe(self, which: str) -> int:
        """Do one of the container's probes, as a kubelet does: without any certificate."""
        get = self.container[which]["httpGet"]
        scheme = get.get("scheme", "HTTP").lower()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        url = f"{scheme}://{self.host}:{self.port(get['port'])}{get['path']}"
        async with aiohttp.ClientSession() as session:
            try:
                async with session.get(url, ssl=context) as response:
                    return response.status
            except aiohttp.ClientConnectionError:
                return 0


class Machine:
    """All pods of some manifests on this machine, each on a loopback address of its own."""

    kind: type[ProcessGroup] = ForkedGroup
    """How a pod's program is started."""

    def __init__(self, objects: list[Object], logs: Path, **environ: str) -> None:
        self.objects = objects
        self._logs = logs
        # Not the test's own folder: a pod's TMPDIR is short, and sockets have to fit (108 bytes).
        self._temporary = TemporaryDirectory(prefix="pods")
        self.pods: list[Pod] = []
        self._environ = environ
        # Other tests may run at the same time, with the same ports.
        self._net = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}"
        self._groups: dict[str, ProcessGroup] = {}
        for obj in objects:
            if obj["kind"] in ("Deployment", "StatefulSet"):
                template = obj["spec"]["template"]
                for index in range(obj["spec"].get("replicas", 1)):
                    self._add(f"{obj['metadata']['name']}-{index}", template)
            elif obj["kind"] == "Pod":
                self._add(obj["metadata"]["name"], obj)
        for pod in self.pods:
            pod.services = {name: pods[0].host for name, pods in self.services().items() if pods}

    def _add(self, name: str, template: Object) -> None:
        host = f"{self._net}.{len(self.pods) + 1}"
        labels = template["metadata"]["labels"]
        folder = Path(self._temporary.name, str(len(self.pods)))
        pod = Pod(name, labels, template["spec"], host, folder)
        self.pods.append(pod)

    def services(self) -> dict[str, list[Pod]]:
        """The pods that each Service selects."""
        return {
            o["metadata"]["name"]: [
                p for p in self.pods if o["spec"]["selector"].items() <= p.labels.items()
            ]
            for o in self.objects
            if o["kind"] == "Service"
        }

    def endpoints(self) -> dict[str, list[tuple[Pod, int]]]:
        """What the endpoints controller makes of each headless Service: pods, and their port."""
        found = {}
        for obj in self.objects:
            if obj["kind"] == "Service" and obj["spec"].get("clusterIP") == "None":
                port, *others = obj["spec"]["ports"]
                if port["name"] != "agent":
                    continue  # of schedulers
                assert not others
                pods = self.services()[obj["metadata"]["name"]]
                found[obj["metadata"]["name"]] = [(p, p.port(port["targetPort"])) for p in pods]
        return found

    async def __aenter__(self) -> Machine:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.gather(*(group.stop() for group in self._groups.values()))
        self._temporary.cleanup()

    async def start(self, *names: str) -> None:
        """Start pods by the beginning of their names, and wait until their probes say so."""
        pods = [pod for pod in self.pods if pod.name.startswith(names)]
        assert pods, (names, [pod.name for pod in self.pods])
        for pod in pods:
            pod.mount(self.objects)
            program, *arguments = pod.arguments
            assert program == "dask"
            log = self._logs / f"{pod.name}.log"
            group = self._groups[pod.name] = self.kind(arguments, log, self._all_environ(pod))
            await group.start()
        for pod in pods:
            for which in ("startupProbe", "readinessProbe", "livenessProbe"):
                await until(partial(self._passes, pod, which), f"{pod.name} passes its {which}")

    async def _passes(self, pod: Pod, which: str) -> bool:
        group = self._groups[pod.name]
        assert not group.ended, f"{pod.name} has ended: {group.tail()}"
        return await pod.probe(which) == 200

    async def run(self, name: str) -> tuple[int, str]:
        """Run a pod to its end: exit code and output."""
        (pod,) = [pod for pod in self.pods if pod.name == name]
        pod.mount(self.objects)
        program, *arguments = pod.arguments
        assert program == "python"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *arguments),
            env=self._all_environ(pod),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode()

    @property
    def folder(self) -> str:
        """Where the files of all pods are."""
        return self._temporary.name

    def group(self, name: str) -> ProcessGroup:
        """A pod's processes."""
        return self._groups[name]

    def pod(self, name: str) -> Pod:
        """A pod by its name."""
        (pod,) = [pod for pod in self.pods if pod.name == name]
        return pod

    def scheduler(self, name: str) -> SchedulerProcess:
        """The scheduler, to be asked for its status; without TLS."""
        return SchedulerProcess(self._groups[name], f"tcp://{self.pod(name).host}:8786")

    def _all_environ(self, pod: Pod) -> dict[str, str]:
        return {**pod.environ, **self._environ}
