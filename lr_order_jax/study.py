"""A study: programs that differ in shapes or in the distribution, one after the other.

What a program is compiled for (d, n, widths, r, ...) cannot be an axis of its grid. Several values
of such a field are several programs, each a run of its own in a directory of its own; their results
are joined into one `results.nc`, with a dimension for each of these fields.
"""

import functools
import pathlib

import numpy as np
import xarray as xr

from lr_order_jax import directory, experiment, figures, processes, results, spec
from lr_order_jax.progress import say


def run(study: spec.Study, workdir: pathlib.Path) -> xr.Dataset | None:
    """Runs or continues all programs of a study and writes all files.

    `results.nc` of what is there is written after each program, and after a signal. The audit of a
    program is in its own `config.json`.

    Returns:
      The results, joined; those of several programs in the first process alone.

    Raises:
      ConfigError: if a program's config or a directory cannot serve, before any is run.
      Interrupted: after SIGINT or SIGTERM, with everything saved.
    """
    if not study.axes:
        return experiment.run(study.specs[0], workdir)
    folders = [workdir / name for name in study.programs]

    def check() -> None:
        directory.check_config(workdir, study)
        for folder, has_records in zip(folders, _have_records(study, workdir), strict=True):
            experiment.refuse_lost_checkpoints(folder, bool(has_records))

    def write() -> xr.Dataset | None:
        parts = [_results_of(*pair) for pair in zip(study.specs, folders, strict=True)]
        if all(part is None for part in parts):
            return None
        dataset = results.join(study.what, study.axes, parts)
        results.write_results(dataset, workdir / "results.nc")
        return dataset

    held = directory.held(workdir)
    with experiment.Signals() as signals, processes.first_holds(held):
        processes.first_does(check)
        for run_spec in study.specs:
            processes.all_do(functools.partial(experiment.check, run_spec))
            signals.check()
        processes.first_does(lambda: directory.write_config(workdir, study, []))
        for i, (run_spec, folder) in enumerate(zip(study.specs, folders, strict=True)):
            say(f"program {i + 1} of {len(folders)}: {folder.name}")
            try:
                experiment.run(run_spec, folder, signals)
            except experiment.Interrupted:
                processes.first_does(write)
                raise
            dataset = processes.first_does(write)
            signals.check()
        if dataset is not None:
            names = study.specs[0].problem.study_figures
            figures.draw(dataset, names, workdir / "figures")
        processes.first_does(lambda: None)
    return dataset


def _results_of(run_spec: spec.Spec, folder: pathlib.Path) -> xr.Dataset | None:
    """The results of a program; None if it has none, or damaged ones or those of another config:
    then running it again writes them, or says why it cannot."""
    try:
        dataset = results.read_results(folder)
    except (FileNotFoundError, ValueError):
        return None
    return None if spec.difference(results.config_of(dataset), run_spec.what) else dataset


def _have_records(study: spec.Study, workdir: pathlib.Path) -> np.ndarray:
    """(programs,): whether the joined results hold records of each program."""
    try:
        steps = results.read_results(workdir)["step"]
    except (FileNotFoundError, ValueError):
        return np.zeros(len(study.programs), bool)
    steps = steps.transpose(*(axis.name for axis in study.axes), ...)
    return np.isfinite(steps.values.reshape(len(study.programs), -1)).any(axis=1)
