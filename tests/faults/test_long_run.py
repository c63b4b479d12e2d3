"""As many chunks as an hour has: memory, file handles and files stay as they are."""

import os
import resource

import numpy as np
import pytest

from lr_order_jax import experiment, progress, results, spec

pytestmark = pytest.mark.slow

CHUNKS = 3600  # of CHUNK_SECONDS = 1 s


def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_an_hour_of_chunks(tiny, tmp_path, monkeypatch, record_property):
    rate, records = 0.2, 50
    steps = CHUNKS // 2
    values = tiny(
        eta_init=(rate, rate / 2), eta_2=(rate / 2,), flow_time_1=steps * rate / 2,
        flow_time_2=steps * rate / 2, num_records=records, checkpoint_every=0.3,
    )  # fmt: skip
    monkeypatch.setattr(experiment, "CHUNK_SECONDS", 0.0)  # one step a chunk
    update, found = progress.Progress.update, []

    def measure(self, *arguments):
        folders = (tmp_path / "run" / "checkpoints", tmp_path / "run")
        files = sum(len(list(folder.iterdir())) for folder in folders if folder.exists())
        found.append((resident_mib(), len(os.listdir("/proc/self/fd")), files))
        return update(self, *arguments)

    monkeypatch.setattr(progress.Progress, "update", measure)
    dataset = experiment.run(spec.parse(values), tmp_path / "run")
    assert dataset.attrs["complete"] == 1
    assert len(found) >= CHUNKS
    memory, handles, files = np.array(found).T
    record_property("cases: chunks in one process", len(found))
    half, tenth = len(found) // 2, len(found) // 10
    of_tenths = memory[::tenth]
    assert of_tenths[7] - of_tenths[4] < 4, of_tenths  # before and after them programs are compiled
    assert of_tenths[-1] - of_tenths[0] < 64, of_tenths
    assert handles[half:].max() <= handles[:half].max()
    assert files.max() <= 12
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().count("\n")
    assert lines == int(np.isfinite(dataset["step"]).sum())
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) <= 3
    assert (dataset["status"] == results.Status.COMPLETED).all()
