"""Ask and tell: Optuna proposes members in batches, each batch is one compiled program.

    python -m analysis.optuna_search [TRIALS]

An example for `lr_order_jax.run_members`, which needs Optuna (`pip install optuna`): which initial
rate and noise level make the P-only error of a small problem least? Prints the best of TRIALS (40),
in batches of 8.
"""

import importlib.util
import runpy
import sys
from typing import Any

import lr_order_jax
from lr_order_jax import results
from lr_order_jax.progress import say

BATCH = 8


def search(config: Any, trials: int, batch: int = BATCH) -> Any:
    """The Optuna study after a number of trials (rounded up to whole batches), of the mean over
    seeds of the final P-only error; a member that diverged counts as an error of 1."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    lowest, highest = max(config["eta_2"]), config["eta_1"]
    for _ in range(-(-trials // batch)):
        asked = [study.ask() for _ in range(batch)]
        members = [
            {
                "eta_init": trial.suggest_float("eta_init", lowest, highest, log=True),
                "noise_scale": trial.suggest_float("noise_scale", 0.0, 1.0),
            }
            for trial in asked
        ]
        dataset = lr_order_jax.run_members(config, members)
        errors = results.final(dataset, "test_error_p_only").mean("seed", skipna=False)
        for trial, error in zip(asked, errors.fillna(1.0).values, strict=True):
            study.tell(trial, float(error))
    return study


def main(trials: int) -> None:
    config = runpy.run_path("configs/sweep.py")["get_config"]("smoke")
    config.eta_1, config.num_seeds = 0.2, 4
    study = search(config, trials)
    best = ", ".join(f"{name} = {value:.4g}" for name, value in study.best_params.items())
    print(f"best of {len(study.trials)}: {best}, P-only error {100 * study.best_value:.2f} %")


if __name__ == "__main__":
    if importlib.util.find_spec("optuna") is None:
        say("error: needs Optuna (pip install optuna)")
        sys.exit(2)
    if len(sys.argv) > 2 or not all(word.isdecimal() and int(word) for word in sys.argv[1:]):
        say("usage: python -m analysis.optuna_search [TRIALS]")
        sys.exit(2)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
