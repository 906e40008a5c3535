#!/usr/bin/env bash
# A cluster on this host from a shell: two agents wait, one scheduler finds and attaches them.
# Needs nothing configured: the discovery `local` finds every agent that you run on this host.
set -euo pipefail
folder=$(mktemp -d)
export GC_BOOTSTRAP_RUNTIME_DIR="$folder/run"   # only for this example: leave your other agents alone
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

dask pool agent --nthreads 1 2>"$folder/agent-1.log" &
dask pool agent --nthreads 1 2>"$folder/agent-2.log" &

dask scheduler --host 127.0.0.1 --port 0 --dashboard-address :0 \
  --scheduler-file "$folder/scheduler.json" \
  --preload gc_bootstrap.preload --discovery local 2>"$folder/scheduler.log" &

until [ -s "$folder/scheduler.json" ]; do sleep 0.1; done

python - "$folder/scheduler.json" <<'PYTHON'
import sys

from distributed import Client

with Client(scheduler_file=sys.argv[1]) as client:
    client.wait_for_workers(2, timeout=60)
    print("sum of squares:", sum(client.gather(client.map(lambda x: x * x, range(10)))))
PYTHON

dask pool status --scheduler-file "$folder/scheduler.json"
