"""What the README says works: its commands and snippets, with this test's addresses put in."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed import Client

from gc_bootstrap import Discovery, PoolCluster, backends
from gc_bootstrap.config import read_pools
from tests.integration.harness import Processes, SchedulerProcess, free_port, run_cli, until
from tests.integration.knot import Knot
from tests.integration.pool_clusters import agents_beside

README = (Path(__file__).parents[2] / "README.md").read_text()

pytestmark = pytest.mark.timeout(120)


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def _command(start: str) -> list[str]:
    """The README's command that starts so, as arguments of `dask`."""
    (line,) = re.findall(rf"^{start}.*$", README, re.MULTILINE)
    return str(line).split("#")[0].split()[1:]


def _put(arguments: list[str], replacements: dict[str, str]) -> list[str]:
    for old, new in replacements.items():
        assert any(old in argument for argument in arguments), (old, arguments)
        arguments = [argument.replace(old, new) for argument in arguments]
    return arguments


async def test_its_commands_form_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (make_cookie,) = re.findall(r"^\(umask .*> cookie\)$", README, re.MULTILINE)
    assert await (await asyncio.create_subprocess_shell(make_cookie)).wait() == 0
    port, scheduler_port = free_port(), free_port()
    async with Processes(tmp_path) as processes:
        listen = {"0.0.0.0:8791": f"127.0.0.1:{port}"}
        await processes.start(*_put(_command("dask pool agent"), listen))
        peers = {"10.0.0.5,10.0.0.6": f"127.0.0.1:{port}"}
        group = await processes.start(
            *_put(_command("dask scheduler"), peers),
            *("--host", "127.0.0.1", "--port", str(scheduler_port), "--dashboard-address", ":0"),
        )
        address = f"tcp://127.0.0.1:{scheduler_port}"
        await until(lambda: "looks for peers" in group.tail(50), "the pool is started")
        scheduler = SchedulerProcess(group, address)
        await until(scheduler.workers, "the agent is attached")
        code, out, _ = await run_cli("pool", "status", address)
        assert code == 0
        assert f"127.0.0.1:{port}  member" in out
        assert "can read it" not in group.tail(200), "it is not open to others"


async def test_its_python_attaches_from_a_client(tmp_path: Path) -> None:
    (snippet,) = [block for block in _blocks("python") if "register_plugin" in block]
    cookie = tmp_path / "cookie"
    cookie.write_text("0123456789abcdef" * 4)
    async with Processes(tmp_path) as processes:
        agents = await processes.agents(1, "--cookie-file", str(cookie))
        (peer,) = agents
        file = tmp_path / "s.json"
        group = await processes.start(
            *("scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0"),
            *("--scheduler-file", str(file)),
        )
        await until(file.exists, "the scheduler is up")
        async with Client(scheduler_file=str(file), asynchronous=True) as client:
            address = client.scheduler.address
        code = snippet.replace("tcp://10.0.0.1:8786", address)
        code = code.replace("10.0.0.5,10.0.0.6", str(peer))
        code = code.replace("/etc/dask/cookie", str(cookie))
        script = tmp_path / "snippet.py"
        script.write_text(code)
        process = await asyncio.create_subprocess_exec(sys.executable, str(script))
        assert await process.wait() == 0
        await SchedulerProcess(group, address).formed(agents)


def test_its_notebook_has_a_cluster_that_computes() -> None:
    (snippet,) = [block for block in _blocks("python") if "PoolCluster(" in block]
    names: dict[str, Any] = {}
    with agents_beside(1):
        exec(snippet, names)
        cluster = names["cluster"]
        try:
            assert names["client"].submit(sum, [1, 2]).result(30) == 3
            assert cluster.pool_status()["pools"][0]["adapt"]["maximum"] == 6
        finally:
            names["client"].close()
            cluster.close()


def test_its_table_of_clusters_names_what_there_is() -> None:
    (section,) = re.findall(r"^### From a notebook$(.*?)^### ", README, re.DOTALL | re.MULTILINE)
    calls = re.findall(r"`PoolCluster(?:\.\w+)?\(.*?\)`", section)
    assert len(calls) == 4
    given = {keyword for call in calls for keyword in re.findall(r"(\w+)=", call)}
    assert given == {"agents", "host", "cookie_file", "scheduler"}
    assert given < inspect.signature(PoolCluster).parameters.keys()
    for method in re.findall(r"`cluster\.(\w+)\(", section):
        assert callable(getattr(PoolCluster, method))


async def test_its_dns_names_find_agents(tmp_path: Path) -> None:
    """Each short form of the how-to, asked of a name server that has such records."""
    (section,) = re.findall(r"^### DNS$(.*?)^### ", README, re.DOTALL | re.MULTILINE)
    commands = re.findall(r"^dask (pool peers) '(dns:\S+)'", section, re.MULTILINE)
    specs = {spec for _, spec in commands} | set(re.findall(r"`(dns:\S+)`", section))
    assert len(commands) == 1
    assert len(specs) == 6
    async with Knot(tmp_path, ["prod", "0.0.10.in-addr.arpa"]) as knot:
        await knot.write(
            "prod",
            *("workers A 10.0.0.5", "workers AAAA fd00::5"),
            "_dask._tcp.workers SRV 0 0 9000 workers",
        )
        await knot.write("0.0.10.in-addr.arpa", "5 PTR workers.prod.")
        found = set()
        for spec in specs:
            name, mark, query = spec.partition("?")
            asked = f"{name}.?{query}{mark and '&'}nameservers={knot.server}"
            code, out, err = await run_cli("pool", "peers", "--json", asked)
            assert (code, err) == (0, "")
            found |= {peer["address"] for peer in json.loads(out)["peers"]}
    assert found == {
        *("10.0.0.5:8791", "[fd00::5]:8791", "workers.prod:8791"),
        *("workers.prod:9000", "10.0.0.5:9000"),
    }


def test_its_dns_options_are_accepted() -> None:
    (section,) = re.findall(r"^### DNS$(.*?)^### ", README, re.DOTALL | re.MULTILINE)
    options: dict[str, Any] = {}
    for code in re.findall(r"^- `([^`]+)`", section, re.MULTILINE):
        options |= yaml.safe_load(code)
    assert options.keys() == {"nameservers", "partial", "cache"}
    (whole,) = re.findall(r"`discovery: (.*?)`", section)
    written = yaml.safe_load(whole)
    written["dns"] |= options
    assert isinstance(backends.load("discovery", written, "x"), Discovery)


def test_its_configuration_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sharing, block = [block for block in _blocks("yaml") if block.startswith("gc-bootstrap:")]
    (snippet,) = [block for block in _blocks("python") if "from_database" in block]
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    (tmp_path / "my_package" / "peers.py").write_text(snippet)
    monkeypatch.syspath_prepend(str(tmp_path))
    pools, problems = read_pools(configured=yaml.safe_load(block)["gc-bootstrap"])
    assert problems == []
    assert pools.keys() == {"default", "gpu"}
    shared, problems = read_pools(configured=yaml.safe_load(sharing)["gc-bootstrap"])
    assert problems == []
    assert shared["default"].is_fair
    assert (shared["default"].kept, shared["default"].share.weight) == (1, 2)
    made: list[Any] = [backends.load("discovery", pool.discovery, "x") for pool in pools.values()]
    assert isinstance(made[0], Discovery)
    assert made[1].__name__ == "from_database"
    found = backends.load("discovery", "my_package.peers:FromDatabase?table=workers", "x")
    assert isinstance(found, Discovery)


def test_its_kubernetes_manifests_are_what_the_discovery_needs() -> None:
    from gc_bootstrap.discovery.kubernetes.options import DEFAULT_PORT_NAME
    from gc_bootstrap.discovery.kubernetes.resources import RESOURCES
    from gc_bootstrap.peer import DEFAULT_PORT

    (block,) = [block for block in _blocks("yaml") if "kind: Role\n" in block]
    objects = {obj["kind"]: obj for obj in yaml.safe_load_all(block)}
    assert objects.keys() == {"Service", "ServiceAccount", "Role", "RoleBinding"}
    (rule,) = objects["Role"]["rules"]
    assert rule == yaml.safe_load(RESOURCES["endpointslices"].rule)
    assert objects["Service"]["spec"]["ports"] == [
        {"name": DEFAULT_PORT_NAME, "port": DEFAULT_PORT, "targetPort": DEFAULT_PORT}
    ]
    for resource in RESOURCES.values():
        assert (f"resources: [{resource.name}]") in README
    names = {obj["metadata"]["name"] for kind, obj in objects.items() if kind != "Service"}
    assert names == {objects["RoleBinding"]["roleRef"]["name"]} == {"dask-scheduler"}
    assert objects["RoleBinding"]["subjects"][0]["name"] == "dask-scheduler"
    forms = re.findall(r"kubernetes:[^`\"\s]+", README)
    assert len(forms) >= 4
    for form in forms:
        written = form.replace("NAMESPACE", "pools").replace("SERVICE", "dask-agents")
        found = backends.load("discovery", written, "x")
        assert isinstance(found, Discovery)
    mapping = {"kubernetes": {"service": "dask-agents"}}
    assert f"discovery: {str(mapping).replace(chr(39), '')}" in README
    assert isinstance(backends.load("discovery", mapping, "x"), Discovery)


def test_its_newcomer_commands_are_one_line_each() -> None:
    for which in ("run", "test"):
        (block,) = re.findall(rf"<!-- newcomer: {which} -->\s*```bash\n(.*?)```", README, re.DOTALL)
        assert len(block.strip().splitlines()) == 1
        assert shutil.which(block.split()[0])
