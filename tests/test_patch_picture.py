"""The picture of H.2, of the stand-in."""

import os
import subprocess
import sys

from conftest import COMPILATION_CACHE, ROOT


def test_the_picture_is_drawn_and_another_problem_refused(tmp_path):
    def call(*arguments):
        command = [sys.executable, "-m", "analysis.patch_picture", f"--out={tmp_path / 'p.png'}"]
        return subprocess.run(
            [*command, *arguments], cwd=ROOT, env=os.environ | COMPILATION_CACHE,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    wrong = call("--config=configs/sweep.py:smoke")
    assert (wrong.returncode, wrong.stderr.splitlines()[-1][:14]) == (2, "error: config:")
    done = call("--config=configs/patch_cifar.py:smoke")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p.png").stat().st_size > 10_000
