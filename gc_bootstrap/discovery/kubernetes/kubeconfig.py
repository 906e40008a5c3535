"""kubeconfig files, read as ``kubectl`` reads them, and the exec plugins that they name.

The client library merges the files. Its loader is not used: it leaves private keys in temporary
files, goes on without credentials where a plugin fails, and gives a plugin no deadline.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from kubernetes.aio.config import ConfigException
from kubernetes.aio.config.kube_config import ENV_KUBECONFIG_PATH_SEPARATOR, KubeConfigMerger

from gc_bootstrap.errors import DiscoveryError, one_line, os_reason

DEFAULT = "~/.kube/config"
EXEC_TIMEOUT = 20.0
"""Seconds that an exec plugin may take. One that waits for a person would wait for ever."""


class KubeconfigError(DiscoveryError):
    """A kubeconfig cannot be used; the message names it."""


@dataclass(frozen=True, slots=True)
class Context:
    """One context of a kubeconfig, its files read, its plugin not run yet."""

    source: str
    server: str
    namespace: str
    ca: str | None = None
    cert: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    authorization: str | None = field(default=None, repr=False)
    verify: bool = True
    server_name: str | None = None
    proxy: str | None = None
    plugin: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PluginAnswer:
    """What an exec plugin gave. ``expires`` is a time stamp of ``time.time()``, or None."""

    token: str | None = field(default=None, repr=False)
    cert: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    expires: float | None = None


def paths(given: str | None, environ: Mapping[str, str]) -> str:
    """The files to read: what was given, else ``$KUBECONFIG``, else ``~/.kube/config``."""
    return given or environ.get("KUBECONFIG") or DEFAULT


def read(files: str, context: str | None) -> Context:
    """Read a context, and all files that it names. Blocks.

    Parameters
    ----------
    files
        One path, or several, separated as in ``$KUBECONFIG``.
    context
        Its name; default: the files' ``current-context``.

    Raises
    ------
    KubeconfigError
        With the file, and what is wrong with it.
    """
    where = f"kubeconfig {files}"
    try:
        existing = [Path(p).expanduser() for p in files.split(ENV_KUBECONFIG_PATH_SEPARATOR) if p]
        if not any(path.exists() for path in existing):
            raise KubeconfigError("does not exist")
        merged = KubeConfigMerger(files).config
        return _context(merged, context, where)
    except KubeconfigError as exc:
        raise KubeconfigError(f"{where}: {exc}") from None
    except OSError as exc:
        file = f"{exc.filename}: " if exc.filename else ""
        raise KubeconfigError(f"{where}: {file}{os_reason(exc)}") from exc
    except yaml.YAMLError as exc:
        raise KubeconfigError(f"{where}: is not YAML: {one_line(exc)}") from exc
    except (ConfigException, AttributeError, KeyError, TypeError, ValueError) as exc:
        raise KubeconfigError(f"{where}: is not as it should be: {one_line(exc)}") from exc


def _context(merged: Any, name: str | None, where: str) -> Context:
    name = name or merged.value.get("current-context")
    if not name:
        raise KubeconfigError("has no current-context; set context")
    context = _named(merged, "contexts", "context", name)[0]
    cluster, cluster_folder = _named(merged, "clusters", "cluster", context.get("cluster"))
    user: Mapping[str, Any] = {}
    user_folder = cluster_folder
    if context.get("user"):
        user, user_folder = _named(merged, "users", "user", context["user"])
    if "auth-provider" in user and not {"token", "tokenFile", "exec"} & user.keys():
        provider = user["auth-provider"].get("name")
        raise KubeconfigError(f"auth-provider {provider} is not supported; use exec, as kubelogin")
    if not cluster.get("server"):
        raise KubeconfigError(f"cluster {context.get('cluster')!r} has no server")
    ca = _data(cluster, "certificate-authority", cluster_folder)
    return Context(
        source=f"{where}, context {name}",
        server=str(cluster["server"]).rstrip("/"),
        namespace=context.get("namespace") or "default",
        ca=None if ca is None else ca.decode("ascii"),
        cert=_data(user, "client-certificate", user_folder),
        key=_data(user, "client-key", user_folder),
        authorization=_authorization(user, user_folder),
        verify=not cluster.get("insecure-skip-tls-verify", False),
        server_name=cluster.get("tls-server-name"),
        proxy=cluster.get("proxy-url"),
        plugin=user.get("exec"),
    )


def _named(merged: Any, section: str, part: str, name: Any) -> tuple[Mapping[str, Any], Path]:
    """An entry of a section, and the folder of its file: paths in it are relative to that."""
    nodes = merged.value.get(section) or []
    for node in nodes:
        if node.value["name"] == name:
            return node.value[part] or {}, Path(node.path).expanduser().resolve().parent
    names = ", ".join(sorted(str(node.value["name"]) for node in nodes)) or "none"
    raise KubeconfigError(f"has no {part} {name!r}; there are: {names}")


def _data(section: Mapping[str, Any], key: str, folder: Path) -> bytes | None:
    """What a file holds that is given by its path or, in base64, by its content."""
    if encoded := section.get(f"{key}-data"):
        try:
            return base64.b64decode(encoded, validate=False)
        except binascii.Error as exc:
            raise KubeconfigError(f"{key}-data is not base64") from exc
    path = section.get(key)
    return (folder / path).read_bytes() if path else None


def _authorization(user: Mapping[str, Any], folder: Path) -> str | None:
    # Of both, the file counts: it is the one that is kept up to date (as client-go has it).
    if path := user.get("tokenFile"):
        return f"Bearer {(folder / path).read_text().strip()}"
    if token := user.get("token"):
        return f"Bearer {token}"
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"
    return None


async def run_plugin(plugin: Mapping[str, Any], context: Context) -> PluginAnswer:
    """Run an exec plugin (``client.authentication.k8s.io``).

    Raises
    ------
    KubeconfigError
        It cannot be run, fails, takes too long, or gives no credentials.
    """
    where = f"{context.source}: exec plugin {plugin.get('command')}"
    try:
        out = await _run(plugin)
        return _answer(json.loads(out)["status"])
    except TimeoutError as exc:  # an OSError, too
        raise KubeconfigError(f"{where}: no answer within {EXEC_TIMEOUT:g} s") from exc
    except OSError as exc:
        hint = f" ({plugin['installHint']})" if plugin.get("installHint") else ""
        raise KubeconfigError(f"{where}: {os_reason(exc)}{hint}") from exc
    except KubeconfigError as exc:
        raise KubeconfigError(f"{where}: {exc}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise KubeconfigError(f"{where}: answers with no ExecCredential: {one_line(exc)}") from exc


async def _run(plugin: Mapping[str, Any]) -> bytes:
    info = {
        "apiVersion": plugin.get("apiVersion"),
        "kind": "ExecCredential",
        "spec": {"interactive": False},
    }
    extra = {item["name"]: item["value"] for item in plugin.get("env") or ()}
    process = await asyncio.create_subprocess_exec(
        *(plugin["command"], *map(str, plugin.get("args") or ())),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **extra, "KUBERNETES_EXEC_INFO": json.dumps(info)},
        start_new_session=True,  # so that what it starts can be ended with it
    )
    try:
        async with asyncio.timeout(EXEC_TIMEOUT):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode:
        said = " ".join(err.decode(errors="replace").split())[-300:]
        raise KubeconfigError(f"exit code {process.returncode}: {said}")
    return out


def _answer(status: Mapping[str, Any]) -> PluginAnswer:
    token, cert = status.get("token"), status.get("clientCertificateData")
    key = status.get("clientKeyData")
    if not token and not (cert and key):
        raise KubeconfigError("gives neither a token nor a certificate with its key")
    expires = status.get("expirationTimestamp")
    return PluginAnswer(
        token,
        cert.encode() if cert and key else None,
        key.encode() if cert and key else None,
        datetime.fromisoformat(expires).timestamp() if expires else None,
    )
