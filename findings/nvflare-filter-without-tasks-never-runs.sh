#!/usr/bin/env bash
# nvflare 2.9.0: a filter that is given to a job without `tasks` is written into the job for the task "*", as an executor
# without tasks is. For an executor "*" means every task; for a filter it is looked up as a task of that very name, which
# no workflow has, so that the filter is built, hears events, and never filters anything: no error, no warning. Filters
# are how NVFlare takes away what must not leave (differential privacy, excluded variables, encryption).
# What works: tasks=["train"], or whichever names the workflow uses.
#
# Seen: "tasks in the job: ['*'], results filtered: 0" and "tasks in the job: ['train'], results filtered: 2".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet nvflare==2.9.0 numpy==2.4.6
cd "$folder"
cat > counting.py <<'PYTHON'
from nvflare.apis.filter import Filter


class Counting(Filter):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def process(self, shareable, fl_ctx):
        with open(self.path, "a") as file:
            file.write("filtered\n")
        return shareable
PYTHON
cat > training_script.py <<'PYTHON'
import numpy as np
import nvflare.client as flare

flare.init()
while flare.is_running():
    received = flare.receive()
    flare.send(flare.FLModel(params={"w": np.ones(2)}, metrics={"loss": 0.0}))
PYTHON
cat > run.py <<'PYTHON'
import os
import sys

from counting import Counting
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.job_config.api import FedJob
from nvflare.job_config.defs import FilterType
from nvflare.job_config.script_runner import FrameworkType, ScriptRunner

name, tasks = sys.argv[1], sys.argv[2:]
job = FedJob(name=name)
persistor = job.to_server(NPModelPersistor(), id="persistor")
job.to_server(FedAvg(num_clients=2, num_rounds=1, persistor_id="persistor"))
path = os.path.abspath(f"{name}.txt")
named = {"tasks": tasks} if tasks else {}
job.to_server(Counting(path), filter_type=FilterType.TASK_RESULT, **named)
for site in ("site-1", "site-2"):
    job.to(ScriptRunner(script="training_script.py", framework=FrameworkType.NUMPY), site)
job.simulator_run(workspace=os.path.abspath(f"work-{name}"), threads=2)
PYTHON
for name in without with; do
  "$folder/env/bin/python" run.py $name $([ $name = with ] && echo train) > $name.log 2>&1
done
"$folder/env/bin/python" - <<'PYTHON'
import glob
import importlib.metadata
import json
import os

print("nvflare", importlib.metadata.version("nvflare"))
counts = []
for name in ("without", "with"):
    (config,) = glob.glob(f"work-{name}/server/simulate_job/app_server/config/config_fed_server.json")
    tasks = json.load(open(config))["task_result_filters"][0]["tasks"]
    counts.append(len(open(f"{name}.txt").readlines()) if os.path.exists(f"{name}.txt") else 0)
    print(f"tasks in the job: {tasks}, results filtered: {counts[-1]}")
assert counts == [0, 2], "NVFlare behaves otherwise now"
PYTHON
