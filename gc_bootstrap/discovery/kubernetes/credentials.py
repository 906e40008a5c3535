"""Who we are to the API server, and a connection for it.

Credentials are read anew for each request, which is once in some minutes: a rotated token or a new
CA is found without anybody telling. An exec plugin is run again when what it gave is about to
expire or has been refused.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import ssl
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from gc_bootstrap.discovery.kubernetes import kubeconfig
from gc_bootstrap.discovery.kubernetes.kubeconfig import Context, PluginAnswer
from gc_bootstrap.discovery.kubernetes.options import Family, Options
from gc_bootstrap.errors import DiscoveryError, one_line, os_reason

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts a pod's token, namespace and CA."""

EXPIRES_EARLY = 60.0
"""Seconds before its end at which a plugin's credential counts as expired."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One HTTP client of the API server, and how to introduce oneself."""

    client: RESTClientObject
    server: str
    source: str
    headers: Mapping[str, str] = field(repr=False)


class Access:
    """The credentials of one discovery, and the client that is made of them.

    Parameters
    ----------
    options
        ``kubeconfig`` and ``context`` count. With neither, a pod's service account is used where
        there is one, else the usual kubeconfig.
    wall_clock
        Seconds as of ``time.time()``, for the expiry of a plugin's credential.
    """

    def __init__(self, options: Options, wall_clock: Callable[[], float] = time.time) -> None:
        self._options = options
        self._wall_clock = wall_clock
        self._given: PluginAnswer | None = None
        self._made_of: Context | None = None
        self._client: RESTClientObject | None = None
        self.namespace = options.namespace

    @property
    def usual_family(self) -> Family:
        """The family that a Service's first address has unless it asks for another one.

        In a pod: that of the Service `kubernetes`, which has the cluster's first family. From
        outside there is no telling: IPv4.
        """
        return "ipv6" if ":" in os.environ.get("KUBERNETES_SERVICE_HOST", "") else "ipv4"

    async def connection(self, refused: bool = False) -> Connection:
        """Read the credentials, and make a client of them unless they are as they were.

        Parameters
        ----------
        refused
            The server did not accept the last ones: those of a plugin are asked for again.

        Raises
        ------
        DiscoveryError
            There are no credentials, or they cannot be used.
        """
        context = await asyncio.to_thread(self._read)
        if context.plugin is not None:
            given = self._given
            early = self._wall_clock() + EXPIRES_EARLY
            if refused or given is None or (given.expires is not None and given.expires < early):
                given = self._given = await kubeconfig.run_plugin(context.plugin, context)
            context = replace(
                context,
                authorization=f"Bearer {given.token}" if given.token else context.authorization,
                cert=given.cert or context.cert,
                key=given.key or context.key,
            )
        if self.namespace is None:
            self.namespace = context.namespace
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if context.authorization is not None:
            headers["Authorization"] = context.authorization
        alike = replace(context, authorization=None, plugin=None)
        if self._client is None or alike != self._made_of:
            await self._close_client()
            self._client = await asyncio.to_thread(_client, alike, aiohttp.DummyCookieJar())
            self._made_of = alike
        return Connection(self._client, context.server, context.source, headers)

    async def close(self) -> None:
        """Close the client. May be called more than once."""
        await self._close_client()

    async def _close_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()
            await asyncio.sleep(0)  # aiohttp closes TLS transports in the background

    def _read(self) -> Context:
        options, environ = self._options, os.environ
        in_pod = bool(environ.get("KUBERNETES_SERVICE_HOST")) and os.path.exists(
            SERVICE_ACCOUNT / "token"
        )
        if in_pod and options.kubeconfig is None and options.context is None:
            return _service_account(environ)
        files = kubeconfig.paths(options.kubeconfig, environ)
        try:
            context = kubeconfig.read(files, options.context)
        except kubeconfig.KubeconfigError as exc:
            if options.kubeconfig is None and options.context is None and not in_pod:
                raise kubeconfig.KubeconfigError(
                    f"{exc}; and this is no pod with a service account"
                ) from None
            raise
        return context if context.proxy else replace(context, proxy=_environment_proxy(context))


def _service_account(environ: Mapping[str, str]) -> Context:
    """A pod's own credentials. The API is a Service of the cluster: no proxy leads to it."""
    host = environ["KUBERNETES_SERVICE_HOST"]
    port = environ.get("KUBERNETES_SERVICE_PORT") or "443"
    path = SERVICE_ACCOUNT / "token"
    try:
        token = path.read_text().strip()
        path = SERVICE_ACCOUNT / "ca.crt"
        ca = path.read_text()
        path = SERVICE_ACCOUNT / "namespace"
        namespace = path.read_text().strip()
    except OSError as exc:
        raise DiscoveryError(f"service account: {path}: {os_reason(exc)}") from exc
    if not token:
        raise DiscoveryError(f"service account: {SERVICE_ACCOUNT / 'token'} is empty")
    return Context(
        source=f"service account token {SERVICE_ACCOUNT / 'token'}",
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        namespace=namespace,
        ca=ca,
        authorization=f"Bearer {token}",
    )


def _environment_proxy(context: Context) -> str | None:
    """``HTTPS_PROXY`` and its like, as kubectl honours them, ``NO_PROXY`` included."""
    parts = urlsplit(context.server)
    host = parts.hostname or ""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    # Go's net/http never uses a proxy for the local host.
    if loopback or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _client(context: Context, cookies: aiohttp.DummyCookieJar) -> RESTClientObject:
    """Make the client library's HTTP client. Blocks: it reads certificates."""
    configuration = Configuration(
        host=context.server,
        ca_cert_data=context.ca,
        verify_ssl=context.verify,
        tls_server_name=context.server_name,
        proxy=context.proxy,
        client_session_kwargs={
            "trust_env": False,  # it would look for a proxy and a ~/.netrc at each request
            "cookie_jar": cookies,
        },
    )
    try:
        with tempfile.TemporaryDirectory(prefix="gc_bootstrap-") as folder:  # mode 0700
            for name, content in (("cert_file", context.cert), ("key_file", context.key)):
                if content is not None:
                    (Path(folder) / name).write_bytes(content)
                    setattr(configuration, name, str(Path(folder) / name))
            return RESTClientObject(configuration)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        what = "the CA or the client certificate" if isinstance(exc, ssl.SSLError) else "TLS"
        raise DiscoveryError(f"{context.source}: {what} cannot be used: {one_line(exc)}") from exc
