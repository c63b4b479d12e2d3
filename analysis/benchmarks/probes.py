"""What each probe costs: a step, a record and a whole run with it, over the same without.

    python -m analysis.benchmarks.probes [--rounds=5] [--steps=200] [--config=configs/lemmas.py]
                                         [--config.FIELD=VALUE ...]

All variants are compiled first and then measured in turn, round by round, so that a noisy machine
is as unkind to each; medians are printed. A record evaluates every member once. A whole run is as
many steps as the config's longest member takes at most, and its records.
"""

import statistics
import time

import numpy as np
from absl import app, flags
from ml_collections import config_flags

from analysis.benchmarks import turns
from lr_order_jax.fields import ConfigError
from lr_order_jax.problems.probes import PROBES

_CONFIG = config_flags.DEFINE_config_file("config", "configs/lemmas.py", "Config file.")
_STEPS = flags.DEFINE_integer("steps", 200, "Steps of a measurement.", lower_bound=1)


class Variant:
    """The members of a config with some probes, placed and compiled."""

    def __init__(self, config, probes: tuple[str, ...]):
        self.members, state = turns.placed({**dict(config.items()), "probes": probes})
        self.longest = int(np.max(np.sum(self.members.grid.hypers.phase_steps, axis=-1)))
        self.take = turns.stepping(self.members)
        self.all = np.ones(state.status.shape, bool)
        self.step = 0
        self.advance(1)
        self.record()

    def advance(self, steps: int) -> float:
        """Milliseconds a step."""
        start = time.perf_counter()
        self.take(self.step, steps)
        self.step += steps
        return 1000 * (time.perf_counter() - start) / steps

    def record(self) -> float:
        """Milliseconds of a record."""
        start = time.perf_counter()
        self.members.measure(self.all)
        return 1000 * (time.perf_counter() - start)


def main(argv) -> None:
    del argv
    sets = [(), *((name,) for name in PROBES), tuple(PROBES)]
    try:
        variants = {probes: Variant(_CONFIG.value, probes) for probes in sets}
    except ConfigError as error:
        raise app.UsageError(str(error)) from None
    times: dict = {probes: ([], []) for probes in sets}
    for _ in range(turns.ROUNDS.value):
        for probes, variant in variants.items():
            times[probes][0].append(variant.advance(_STEPS.value))
            times[probes][1].append(variant.record())
    plain = [statistics.median(values) for values in times[()]]
    steps, records = variants[()].longest, _CONFIG.value.num_records + 1
    whole = lambda step, record: steps * step + records * record  # noqa: E731
    print(f"a whole run: {steps} steps and {records} records")
    print(f"{'probes':30}  ms a step    ratio  ms a record    ratio  whole run")
    for probes, values in times.items():
        step, record = (statistics.median(v) for v in values)
        name = "+".join(probes) if len(probes) < len(PROBES) else "all"
        ratios = step / plain[0], record / plain[1], whole(step, record) / whole(*plain)
        print(
            f"{name or 'none':30}  {step:9.3f}  {ratios[0]:7.2f}  {record:11.1f}  {ratios[1]:7.2f}"
            f"  {ratios[2]:9.2f}"
        )


if __name__ == "__main__":
    app.run(main)
