#!/usr/bin/env bash
# A cluster through DNS on this host: a Knot DNS serves workers.zone, two agents wait on the addresses in
# it, and a scheduler finds and attaches them. Then a record is taken away, and its agent is dropped.
# Needs Knot DNS (Debian: apt-get install knot knot-dnsutils), and Linux for 127.0.0.2 and 127.0.0.3.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
folder=$(mktemp -d)
export GC_BOOTSTRAP_RUNTIME_DIR="$folder/run"   # only for this example: leave your other agents alone
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

read -r port agent < <(python - <<'PYTHON'
import random

print(*random.sample(range(20000, 32000), 2))
PYTHON
)
sed "s/ 8791 / $agent /" "$here/workers.zone" >"$folder/workers.zone"
cat >"$folder/knot.conf" <<CONF
server:
  rundir: $folder
  listen: 127.0.0.1@$port
database:
  storage: $folder/db
zone:
  - domain: workers.example
    file: $folder/workers.zone
CONF
knotd -c "$folder/knot.conf" >"$folder/knot.log" 2>&1 &
until knotc -s "$folder/knot.sock" zone-status workers.example 2>/dev/null | grep -q serial; do sleep 0.1; done

for host in 127.0.0.2 127.0.0.3; do
  dask pool agent --listen "$host:$agent" --nthreads 1 --host 127.0.0.1 2>"$folder/$host.log" &
done

# What the name server says, in each of the ways in which it can be asked.
dask pool peers "dns:cpu.workers.example?nameservers=127.0.0.1:$port&port=$agent"
dask pool peers "dns:_dask._tcp.workers.example?nameservers=127.0.0.1:$port&record-type=srv"
dask pool peers "dns:_dask._tcp.workers.example?nameservers=127.0.0.1:$port&record-type=srv&host-type=ip"

export DASK_GC_BOOTSTRAP__REMOVAL__POLICY=drain DASK_GC_BOOTSTRAP__REMOVAL__GRACE=1s
dask scheduler --host 127.0.0.1 --port 0 --dashboard-address :0 \
  --scheduler-file "$folder/scheduler.json" --preload gc_bootstrap.preload --refresh-interval 1s \
  --discovery "dns:cpu.workers.example?nameservers=127.0.0.1:$port&port=$agent" 2>"$folder/scheduler.log" &

until [ -s "$folder/scheduler.json" ]; do sleep 0.1; done

python - "$folder/scheduler.json" <<'PYTHON'
import sys

from distributed import Client

with Client(scheduler_file=sys.argv[1]) as client:
    client.wait_for_workers(2, timeout=60)
    print("sum of squares:", sum(client.gather(client.map(lambda x: x * x, range(10)))))
PYTHON

# One record less: after three answers without it, and a second, its agent is dropped.
sed -i -e "/^cpu .*127.0.0.3/d" -e "s/hostmaster 1 /hostmaster 2 /" "$folder/workers.zone"
knotc -s "$folder/knot.sock" zone-reload workers.example >/dev/null

until dask pool status --scheduler-file "$folder/scheduler.json" | grep -q '127\.0\.0\.3:.* drained in'; do sleep 0.2; done
dask pool status --scheduler-file "$folder/scheduler.json"
