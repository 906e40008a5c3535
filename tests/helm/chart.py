"""The chart, rendered by Helm's own engine, with values such as people write.

``python -m tests.helm.chart`` writes the golden manifests anew.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "gc-bootstrap"
GOLDEN = Path(__file__).parent / "golden"
OLDEST, NEWEST = "1.26", "1.37"
"""Minors of Kubernetes: `kubeVersion` of Chart.yaml, and the newest whose schemas we have."""

Object = dict[str, Any]
Values = dict[str, Any]

PROMETHEUS = {"enabled": True, "labels": {"release": "prometheus"}}
SERVER = "http://prometheus-operated.monitoring:9090"
EVERYTHING: Values = {
    "image": {
        "repository": "registry.example.com/dask",
        "digest": "sha256:" + "0123456789abcdef" * 4,
        "pullSecrets": [{"name": "registry"}],
    },
    "cookie": {"existingSecret": "dask-cookie", "key": "secret"},
    "tls": {"existingSecret": "dask-tls"},
    "cluster": {"name": "research", "namespaces": ["gpus"]},
    "scheduler": {
        "args": ["--idle-timeout", "8h"],
        "config": {
            "gc-bootstrap": {"refresh-interval": "2s", "removal": {"policy": "drain"}},
            "distributed": {"scheduler": {"allowed-failures": 5}},
        },
        "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "dask-example-com"},
        "priorityClassName": "high",
    },
    "poolDefaults": {"imports": ["numpy"], "env": [{"name": "TMPDIR", "value": "/scratch"}]},
    "pools": {
        "default": None,
        "cpu": {
            "autoscaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 40},
            "resources": {"limits": {"cpu": None}, "requests": {"cpu": 2}},
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "topology.kubernetes.io/zone",
                    "whenUnsatisfiable": "ScheduleAnyway",
                }
            ],
            "config": {"distributed": {"worker": {"memory": {"target": 0.7}}}},
        },
        "gpu": {
            "kind": "StatefulSet",
            "replicas": 1,
            "drainTimeout": "10m",
            "args": ["--resources", "GPU=1"],
            "image": {"tag": "cuda", "digest": ""},
            "resources": {"limits": {"nvidia.com/gpu": 1}},
            "nodeSelector": {"accelerator": "a100"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "runtimeClassName": "nvidia",
            "podDisruptionBudget": {"maxUnavailable": 1},
            "volumeMounts": [{"name": "work", "mountPath": "/scratch"}],
            "volumeClaimTemplates": [
                {
                    "metadata": {"name": "models"},
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "10Gi"}},
                    },
                }
            ],
        },
    },
    "networkPolicy": {"egress": {"restrict": True, "extra": [{"ports": [{"port": 9000}]}]}},
    "metrics": {"serviceMonitor": PROMETHEUS, "podMonitor": PROMETHEUS},
}
SHARED: Values = {
    "fullnameOverride": "notebooks",
    "cluster": {"name": "research"},
    "keyPair": {"existingSecret": "dask-keys"},
    "pools": {
        "default": {"enabled": False, "discovery": {"service": "dask-default"}},
        "gpu": {"enabled": False, "discovery": {"service": "dask-gpu", "namespace": "gpus"}},
    },
}
SETS: dict[str, Values] = {
    "defaults": {},
    "everything": EVERYTHING,
    "scheduler-of-shared-pools": SHARED,
    "pools-only": {
        "scheduler": {"enabled": False},
        "cluster": {"name": "research"},
        "keyPair": {"existingSecret": "dask-keys"},
        "pools": {"gpu": {"replicas": 4}},
    },
    "dns": {"discovery": "dns", "discoveryOptions": {"ipv6": "both", "lookup-timeout": "2s"}},
    "srv": {
        "discovery": "srv",
        "clusterDomain": "k8s.example.com",
        "pools": {"default": {"kind": "StatefulSet"}},
    },
    "hostnames": {
        "discoveryOptions": {"address": "hostname"},
        "clusterDomain": "k8s.example.com",
        "poolDefaults": {"kind": "StatefulSet"},
    },
    "ipv6": {"discoveryOptions": {"ip-family": "ipv6"}},
    "own-cookie": {"cookie": {"value": "correct horse battery staple"}},
    "tls": {"tls": {"existingSecret": "dask-tls"}},
    "monitored": {"metrics": {"serviceMonitor": PROMETHEUS, "podMonitor": PROMETHEUS}},
    "restricted-egress": {"networkPolicy": {"egress": {"restrict": True}}},
    "open": {
        "networkPolicy": {"enabled": False},
        "poolDefaults": {"podDisruptionBudget": {"enabled": False}},
        "scheduler": {"service": {"type": "LoadBalancer", "annotations": {"internal": "true"}}},
    },
    "any-user-id": {
        "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
        "scheduler": {"serviceAccount": {"create": False, "name": "mine"}},
    },
    "names-like-numbers": {
        "fullnameOverride": "n",
        "cluster": {"name": "007"},
        "cookie": {"existingSecret": "1e3", "key": "1"},
        "tls": {"existingSecret": "0x10"},
        "pools": {"default": None, "1": {}, "0x1": {"replicas": 0}},
    },
    "sized": {
        "poolDefaults": {
            "adapt": {"minimum": 1, "maximum": 1_000_000, "interval": "200ms"},
            "share": {"weight": 0.5},
        },
        "pools": {
            "default": {},
            "patient": {"adapt": {"maximum": None, "waitCount": 5, "targetDuration": "10s"}},
            "four": {"size": 4, "share": {"policy": "keep", "weight": 2, "guaranteed": 3}},
            "none": {"size": 0},
            "all": {"size": "all"},
        },
    },
    "scaled-by-what-is-wanted": {
        "metrics": {"serviceMonitor": PROMETHEUS},
        "poolDefaults": {"adapt": {"maximum": 40}},
        "pools": {
            "default": {"autoscaling": {"enabled": True, "wanted": {"enabled": True}}},
            "alone": {
                "autoscaling": {
                    "enabled": True,
                    "targetCPUUtilizationPercentage": None,
                    "wanted": {"enabled": True, "metric": "dask_wanted"},
                }
            },
        },
    },
    "scaled-by-keda": {
        "cluster": {"name": "research", "namespaces": ["gpus"]},
        "metrics": {"serviceMonitor": PROMETHEUS},
        "pools": {
            "default": {
                "adapt": {"minimum": 0},
                "keda": {"enabled": True, "serverAddress": SERVER},
            },
            "gpu": {
                "kind": "StatefulSet",
                "adapt": {"minimum": 1},
                "keda": {
                    "enabled": True,
                    "minReplicas": 1,
                    "maxReplicas": 1_000_000,
                    "pollingInterval": 5,
                    "cooldownPeriod": 0,
                    "serverAddress": SERVER,
                    "metadata": {"authModes": "bearer"},
                    "authenticationRef": {"name": "prometheus"},
                    "triggers": [
                        {"type": "cpu", "metricType": "Utilization", "metadata": {"value": "80"}}
                    ],
                    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
                    "annotations": {"autoscaling.keda.sh/paused": "true"},
                },
            },
            "own": {"keda": {"enabled": True, "serverAddress": SERVER, "query": "vector(3)"}},
        },
    },
    "idle-agents-first": {
        "poolDefaults": {"podDeletionCost": True},
        "networkPolicy": {"egress": {"restrict": True}},
        "discovery": "dns",
        "pools": {
            "named": {
                "serviceAccountName": "mine",
                "env": [{"name": "POD_NAME", "value": "mine"}],
            },
            "stateful": {"kind": "StatefulSet", "podDeletionCost": False},
        },
    },
    "own-volumes": {
        "poolDefaults": {
            "workVolume": {
                "ephemeral": {
                    "volumeClaimTemplate": {
                        "spec": {
                            "accessModes": ["ReadWriteOnce"],
                            "storageClassName": "fast",
                            "resources": {"requests": {"storage": "100Gi"}},
                        }
                    }
                }
            },
            "volumes": [{"name": "data", "emptyDir": {"medium": "Memory"}}],
            "volumeMounts": [{"name": "data", "mountPath": "/tmp"}],
            "envFrom": [{"secretRef": {"name": "s3"}}],
        },
        "pools": {
            "default": {
                "autoscaling": {
                    "enabled": True,
                    "metrics": [
                        {
                            "type": "External",
                            "external": {
                                "metric": {"name": "dask_scheduler_desired_workers"},
                                "target": {"type": "AverageValue", "averageValue": "1"},
                            },
                        }
                    ],
                    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
                }
            }
        },
    },
}


@functools.cache
def chart() -> helm_python.Chart:
    """The chart, loaded once."""
    return helm_python.Chart.load(CHART)


def render_text(values: Values, name: str = "dask", namespace: str = "prod") -> str:
    """What `helm template` prints, each file with its name."""
    rendered = chart().render(values, name=name, namespace=namespace)
    files = [f"# {path}\n{text.strip()}\n" for path, text in sorted(rendered.items())]
    return "---\n".join(text for text in files if "\nkind: " in text)


@functools.cache
def _rendered(values: str, name: str, namespace: str) -> str:
    return render_text(json.loads(values), name, namespace)


def render(values: Values, name: str = "dask", namespace: str = "prod") -> list[Object]:
    """All objects that `helm template` prints; the same ones each time, as new objects."""
    text = _rendered(json.dumps(values), name, namespace)
    # libyaml's loader; the other one takes ten times as long.
    documents = yaml.load_all(text, Loader=yaml.CSafeLoader)
    return [document for document in documents if document]


def of_kind(objects: list[Object], *kinds: str) -> dict[str, Object]:
    """Objects by name."""
    return {o["metadata"]["name"]: o for o in objects if o["kind"] in kinds}


def pod_specs(objects: list[Object]) -> dict[str, Object]:
    """The specs of all pods, by the name of what makes them."""
    found = {}
    for obj in objects:
        if obj["kind"] in ("Deployment", "StatefulSet"):
            found[obj["metadata"]["name"]] = obj["spec"]["template"]["spec"]
        elif obj["kind"] == "Pod":
            found[obj["metadata"]["name"]] = obj["spec"]
    return found


def golden(name: str) -> str:
    """What a golden manifest should be: as rendered, but for the key pair, which is random."""
    return re.sub(
        r'(?m)^  (private|public)\.pem: "[A-Za-z0-9+/=]{100,800}"$',
        r"  \1.pem: RANDOM",
        render_text(SETS[name]),
    )


GOLDENS = ["defaults", "everything", "scheduler-of-shared-pools"]

if __name__ == "__main__":
    for _name in GOLDENS:
        (GOLDEN / f"{_name}.yaml").write_text(golden(_name))
