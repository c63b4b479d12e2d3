"""What all scripts do where files cannot be read or written, and at Ctrl-C."""

import errno
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from conftest import ROOT

from analysis import limit_gap, script
from lr_order_jax.fields import ConfigError


def written(number, path="DIR/report.html"):
    with script.writing(pathlib.Path("DIR")):
        raise OSError(number, os.strerror(number), path)


def raised(error):
    raise error


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (lambda: 1, 1, ""),
        (
            lambda: written(errno.ENOSPC),
            1,
            "DIR/report.html: cannot be written (No space left on device)",
        ),
        (lambda: written(errno.EACCES), 2, "DIR/report.html: cannot be written (Permission denied"),
        (lambda: written(errno.EACCES, None), 2, "DIR: cannot be written (Permission denied)"),
        (lambda: raised(PermissionError(13, "Permission denied", "x")), 2, "x: cannot be read"),
        (lambda: raised(OSError(errno.ENOSPC, "No space left")), 1, "stdout: cannot be written"),
        (lambda: raised(ConfigError("is not")), 2, "DIR: is not"),
    ],
)
def test_each_failure_is_one_line(monkeypatch, capsys, body, status, told):
    monkeypatch.setattr(script.os, "dup2", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        script.told([pathlib.Path("DIR")], body)
    assert ended.value.code == status
    line = capsys.readouterr().err
    assert line.startswith(f"error: {told}" if told else "")
    assert line.count("\n") == bool(told)


def test_ctrl_c_ends_a_script_without_a_word(tmp_path):
    """While modules load, as at any time."""
    os.mkfifo(tmp_path / "config.json")  # it waits for ever to read this
    command = [sys.executable, "-m", "analysis.report", tmp_path]
    child = subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1)
    with open(tmp_path / "config.json", "w"):  # once it has begun to read
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=60) == (b"", b"")
    assert child.returncode == -signal.SIGINT  # 130 in a shell


def gap_of(monkeypatch, nets, limit):
    monkeypatch.setattr(limit_gap.results, "read_results", {"n": nets, "l": limit}.get)
    limit_gap.main("n", "l")


def test_what_does_not_fit_the_limit_is_told_plainly(monkeypatch):
    def of(problem, **coords):
        sizes = [len(values) for values in coords.values()]
        status = xr.DataArray(np.zeros(sizes), coords, tuple(coords))
        return xr.Dataset({"status": status}, attrs={"problem": problem, "complete": 1})

    limit = of("lazy_limit", seed=[0], eta_init=[0.1])
    with pytest.raises(ValueError, match="NETS must be a run of two_layer along eta_init, m_v, s"):
        gap_of(monkeypatch, of("two_layer", seed=[0], eta_init=[0.1]), limit)
    nets = of("two_layer", seed=[0], m_v=[8, 9], eta_init=[0.2])
    with pytest.raises(ValueError, match="LIMIT must be a run of lazy_limit along eta_init, seed"):
        gap_of(monkeypatch, nets, nets)
    nets, limit = (
        d.assign(second_difference=d["status"].expand_dims(flow_time=[0.0, 1.0]))
        for d in (nets, limit)
    )
    with pytest.raises(ValueError, match="LIMIT lacks an initial rate of NETS"):
        gap_of(monkeypatch, nets, limit)
