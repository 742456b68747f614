"""Trivial tasks through HyperQueue's own server and one worker of 8 slots on this
machine: tasks per second for N, the start of one on the idle worker, and from a
parent's end to its dependent's start. Run by scripts/bench-tasks."""

import os
import sys
import tempfile
import time
from pathlib import Path

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

n = int(sys.argv[1])
stamp = ["/bin/sh", "-c", "date +%s%N"]


def quietly(fn, *args):
    """wait_for_jobs draws a bar."""
    keep, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        return fn(*args)
    finally:
        os.dup2(keep, 2)
        os.close(null)
        os.close(keep)


def percentiles(what, all):
    """A line for each: test/report keeps lines of one figure."""
    all.sort()
    print(f"hyperqueue: {what}, p50: {all[len(all) // 2]:.1f} ms")
    print(f"hyperqueue: {what}, p99: {all[int(len(all) * 0.99)]:.1f} ms")


with tempfile.TemporaryDirectory() as top:
    with LocalCluster(server_dir=f"{top}/server", worker_config=WorkerConfig(cores=8)) as cluster:
        client = cluster.client()
        rates = []
        for i in range(3):
            cwd = Path(top) / f"tasks{i}"
            cwd.mkdir()
            job = Job(default_workdir=cwd)
            for _ in range(n):
                job.program(["/bin/true"])
            began = time.time()
            quietly(client.wait_for_jobs, [client.submit(job)])
            rates.append(n / (time.time() - began))
        print(f"hyperqueue: {n} tasks: {sorted(rates)[1]:.0f} tasks/s")  # the median of three
        starts = []
        for i in range(50):
            job = Job(default_workdir=top)
            job.program(stamp, stdout=f"{top}/start{i}")
            began = time.time_ns()
            quietly(client.wait_for_jobs, [client.submit(job)])
            starts.append((int(Path(f"{top}/start{i}").read_text()) - began) / 1e6)
        percentiles("submission to the start on an idle worker", starts)
        job = Job(default_workdir=top)
        last = None
        for i in range(50):
            last = job.program(stamp, stdout=f"{top}/chain{i}", deps=[last] if last else [])
        quietly(client.wait_for_jobs, [client.submit(job)])
        at = [int(Path(f"{top}/chain{i}").read_text()) / 1e6 for i in range(50)]
        percentiles("from one task of a chain to the next, the task included", [b - a for a, b in zip(at, at[1:])])
