"""What the READMEs say of the chart works: commands through Helm's own engine, and values."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from tests.helm.api import ApiServer, serving
from tests.helm.chart import CHART, NEWEST, OLDEST, ROOT, chart, of_kind, render
from tests.integration.harness import free_port

READMES = {
    "root": (ROOT / "README.md").read_text(),
    "chart": (CHART / "README.md").read_text(),
}
BOTH = pytest.mark.parametrize("readme", READMES.values(), ids=READMES)


def _commands(readme: str, program: str) -> list[list[str]]:
    """Commands in blocks and in the text, without their comments; each once."""
    found = re.findall(rf"^{program} .*$|(?<=`){program} [a-z][^`]*", readme, re.MULTILINE)
    commands = [shlex.split(command, comments=True) for command in found]
    return [command for n, command in enumerate(commands) if command not in commands[:n]]


def _option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1] if name in command else ""


@BOTH
async def test_its_helm_commands_run(readme: str, tmp_path: Path) -> None:
    commands = [command[1:] for command in _commands(readme, "helm")]
    verbs = {verb for verb, *_ in commands}
    assert {"install", "upgrade", "uninstall", "test"} <= verbs
    api = ApiServer()
    async with serving(api, free_port()) as url:
        with helm_python.Config(
            kube_apiserver=url,
            kubeconfig_content="apiVersion: v1\nkind: Config\n",
            namespace="default",
            storage_driver="memory",
        ) as config:

            def run(verb: str, release: str, *arguments: str) -> Any:
                given = helm_python.parse_set_string(_option(list(arguments), "--set"))
                if verb == "install":
                    return config.install(ROOT / arguments[0], release, given)
                if verb == "upgrade":
                    assert "--reset-then-reuse-values" in arguments or given == {}
                    values = _merged(config.get_values(release), given)
                    return config.upgrade(CHART, release, values)
                return config.uninstall(release)

            wanted = [c for c in commands if c[0] == "install" and "--set" in c][:1]
            wanted += [c for c in commands if c[0] == "upgrade" and len(c) > 1]
            for command in wanted:
                release = await asyncio.to_thread(run, *command)
                assert release["status"] == "deployed", command
            assert len(wanted) > 1
            _names_exist(readme, api)
            await asyncio.to_thread(run, "uninstall", "dask")
    assert api.objects == {}


def _merged(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {**below, **{key: _merged(below.get(key, {}), above[key]) for key in above}}


def _names_exist(readme: str, api: ApiServer) -> None:
    """What `kubectl` is told to talk to is what the chart makes."""
    names = {(plural, name) for _, plural, name in api.objects}
    short = {"deploy": "deployments", "deployment": "deployments", "svc": "services"}
    found = re.findall(r"(deploy|deployment|svc)/([a-z0-9-]+)", readme)
    assert found
    for kind, name in found:
        if name.startswith("dask-gc-bootstrap"):
            assert (short[kind], name) in names


def test_the_notes_and_both_readmes_scale_with_the_same_flags() -> None:
    notes = chart().render({}, name="dask", namespace="prod")["gc-bootstrap/templates/NOTES.txt"]
    scales = [
        {word for word in command if word.startswith("--") and word != "--namespace"}
        for text in (*READMES.values(), notes)
        for command in _commands(text.replace("\n  helm", "\nhelm"), "helm")
        if command[1] == "upgrade" and ".replicas=" in _option(command, "--set")
    ]
    assert scales == [{"--reset-then-reuse-values", "--set"}] * 3


def _values(readme: str) -> list[dict[str, Any]]:
    blocks = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    ours = [block for block in blocks if "apiVersion:" not in block and "not of this" not in block]
    return [yaml.safe_load(block) for block in ours]


VALUES = _values(READMES["chart"])


@pytest.mark.parametrize("values", VALUES, ids=lambda values: "-".join(values))
def test_its_values_render(values: dict[str, Any]) -> None:
    assert render(values)


def test_its_shared_pools_find_each_other() -> None:
    agents, scheduler = [values for values in VALUES if "cluster" in values]
    (service,) = of_kind(render(agents, name="pools"), "Service")
    assert scheduler["pools"]["default"]["discovery"]["service"] == service


def test_its_short_values_render() -> None:
    """Values within the text, such as `tls: {existingSecret: dask-tls}`."""
    found = re.findall(r"`([a-zA-Z]+: \{[^`]*\})`", READMES["chart"])
    known = {text: yaml.safe_load(text) for text in found}
    tried = 0
    for values in known.values():
        if values.keys() <= chart().values.keys():
            assert render(values)
            tried += 1
    assert tried >= 2


def test_it_names_the_minors_that_are_tested() -> None:
    assert f"Kubernetes {OLDEST} and newer" in READMES["chart"]
    assert f"schemas of\n{OLDEST} and {NEWEST}" in READMES["chart"]
