"""The benchmark of the ways prints its table, and a way that fails costs no other."""

import json
import os
import subprocess
import sys

import pytest
from conftest import COMPILATION_CACHE, ROOT


@pytest.mark.slow
def test_the_table_of_ways(tmp_path):
    out = tmp_path / "ways.json"
    command = [
        sys.executable, "-m", "analysis.benchmarks.ways", "--config=configs/patch_cifar.py:smoke",
        "--widths=1", "--members=2", "--rounds=2", "--steps=1", f"--out={out}",
        "--ways=dispatch:loop,scan:sideways,plain:loop", "--config.num_train=32",
    ]  # fmt: skip
    environment = os.environ | COMPILATION_CACHE
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ours, wrong, plain = json.loads(out.read_text())
    assert (ours["way"], plain["way"]) == ("dispatch:loop", "plain:loop")
    assert min(ours["to_fastest"], plain["to_fastest"]) == 1
    for row in (ours, plain):
        assert row["ms_a_member_image"] > 0
        assert row["mib"] > 0
        assert len(row["seconds"]) == 2
    assert "config.mapping = 'sideways'" in wrong["error"]
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert "failed" in lines[2]
