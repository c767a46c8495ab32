"""The speed benchmark in this process: its jobs and their JSON, without the processes."""

import json
from dataclasses import replace

import pytest
import torch
from benchmarks.speed import __main__ as command
from benchmarks.speed import fresh

from tests.benchmarks.speed_here import RATES


@pytest.fixture
def in_process(monkeypatch):
    """Run the jobs of given cases here, through the same command line and the same JSON."""

    def install(*own):
        by_name = {case.name: case for case in own}
        monkeypatch.setattr(fresh, "case_named", by_name.__getitem__)
        monkeypatch.setattr(command, "cases", lambda: by_name)
        monkeypatch.setattr(command, "chosen", lambda words: list(own))
        threads = torch.get_num_threads()

        def call(threads_of_job, job, name, *arguments):
            try:
                done = fresh.do([name, job, "--threads", str(threads_of_job), *map(str, arguments)])
            finally:
                torch.set_num_threads(threads)
            return json.loads(json.dumps(done))

        monkeypatch.setattr(fresh, "call", call)
        monkeypatch.setattr(fresh, "rates", lambda group, threads: replace(RATES, group=group, threads=threads))
        return own

    return install
