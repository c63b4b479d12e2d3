"""A study: programs that differ in shapes or in the distribution, one after the other.

What a program is compiled for (d, n, widths, r, ...) cannot be an axis of its grid. Several values
of such a field are several programs, each a run of its own in a directory of its own; their results
are joined into one `results.nc`, with a dimension for each of these fields.
"""

import functools
import pathlib
from collections.abc import Sequence

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
      Interrupted: after SIGINT, SIGTERM or SIGHUP, with everything saved.
    """
    if not study.axes:
        return experiment.run(study.specs[0], workdir)
    folders = [workdir / name for name in study.programs]

    def check() -> None:
        directory.check_config(workdir, study)
        parts = _parts_of_joined(study, workdir)
        for run_spec, folder, part in zip(study.specs, folders, parts, strict=True):
            directory.check_config(folder, run_spec)
            experiment.refuse_lost_checkpoints(folder, has_records=results.count_records(part) > 0)

    def write() -> xr.Dataset | None:
        ours = [*map(directory.results_of, folders, study.specs)]
        parts = [*map(_more_of, ours, _parts_of_joined(study, workdir))]
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


def _parts_of_joined(study: spec.Study, workdir: pathlib.Path) -> Sequence[xr.Dataset | None]:
    """What the joined results of this study hold of each program; None if there are none."""
    if (joined := directory.results_of(workdir, study)) is None:
        return [None] * len(study.programs)
    return results.split(joined, study.axes)


def _more_of(part: xr.Dataset | None, earlier: xr.Dataset | None) -> xr.Dataset | None:
    """A program's results, or, while they are not complete, what the joined ones have had of it if
    that is more: no record is lost because a file of the program is."""
    if part is not None and part.attrs["complete"]:
        return part
    return earlier if results.count_records(earlier) > results.count_records(part) else part
