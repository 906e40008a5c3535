# One image for scheduler and agents: both need the same Python, Dask and packages of yours.
#
#   docker build -t registry.example.com/dask .
#   docker build -t registry.example.com/dask --build-arg PACKAGES="s3fs xgboost" .
#
# To pin the base to the byte, give its digest: --build-arg BASE=python:3.13.7-slim-bookworm@sha256:...
ARG BASE=python:3.13.7-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE} AS build
ARG DASK_VERSION=2026.8.0
ARG PACKAGES=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# Dask changes less often than this project: a layer of its own.
# hadolint ignore=SC2086
RUN python -m venv /opt/dask \
    && /opt/dask/bin/pip install "dask[complete]==${DASK_VERSION}" ${PACKAGES}
COPY pyproject.toml README.md LICENSE ./
COPY gc_bootstrap ./gc_bootstrap
RUN /opt/dask/bin/pip install ".[metrics]" \
    && /opt/dask/bin/pip check \
    # The root file system will be read-only.
    && /opt/dask/bin/python -m compileall -q /opt/dask/lib

# hadolint ignore=DL3006
FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gc_bootstrap" \
      org.opencontainers.image.description="Dask scheduler and agents that find each other" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# As process 1, tini reaps orphans and passes SIGTERM on to the agent alone, which drains. (Its -g
# would kill the workers at the same time, and their data with them.)
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini=0.19.0-1* \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 dask \
    && useradd --uid 10001 --gid 10001 --create-home --home-dir /work --shell /usr/sbin/nologin dask
COPY --from=build /opt/dask /opt/dask
ENV PATH=/opt/dask/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /work
USER 10001:10001
EXPOSE 8786 8787 8791
ENTRYPOINT ["tini", "--"]
CMD ["dask", "pool", "--help"]
