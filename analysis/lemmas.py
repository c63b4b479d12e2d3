"""What the lemmas of sections 4 and 5 speak of, measured in a run, beside the scales they predict.

    python -m analysis.lemmas DIR

For a run of configs/lemmas.py, or any of a synthetic problem that holds both algorithms.
"""

import pathlib

from analysis import script
from lr_order_jax import lemmas, results


def main(folder: pathlib.Path) -> int:
    results.print_table(lemmas.lemma_table(results.read_results(folder)))
    return 0


if __name__ == "__main__":
    script.run("python -m analysis.lemmas DIR", 1, main)
