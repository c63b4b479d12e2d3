"""Plain lines where there is no terminal, a bar where there is one."""

import sys

import pytest

from lr_order_jax import progress


@pytest.fixture
def clock(monkeypatch):
    """The time that `progress` sees, set by the test."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_plain_line_now_and_then(clock, capsys):
    bar = progress.Progress(done=100)
    clock[0] = 1.0
    bar.update(150, 1000, "flow_time", 3.0, 4, 10, 55.0)
    assert capsys.readouterr().err == ""
    clock[0] = 30.0
    bar.update(250, 1000, "flow_time", 8.5, 4, 20, 55.0)
    bar.update(260, 1000, "flow_time", 8.6, 4, 21, 55.0)
    told = capsys.readouterr().err
    # 150 member-steps in 30 s: 750 more take 150 s.
    assert told == " 25%  flow time 8.5, 4 members alive, step 20, 55 steps/s, 0:02:30 left\n"
    bar.close()


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = progress.Progress(done=0)
    bar.update(5, 10, "epoch", 2.0, 3, 7, 1.0)
    assert bar._bar is not None
    task = bar._bar.tasks[0]
    assert (task.completed, task.total) == (5, 10)
    assert "epoch 2, 3 members alive, step 7, 1 steps/s" in task.description
    bar.close()
    assert bar._bar is None
