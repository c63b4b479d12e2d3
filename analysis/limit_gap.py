"""Finite networks against the limit of infinite width: the gap against m_v.

    python -m analysis.limit_gap NETS LIMIT

NETS is a run of configs/width.py, LIMIT one of configs/width.py:limit. Prints the numbers and
writes NETS/figures/limit_gap.png.
"""

import pathlib

from analysis import script
from lr_order_jax import figures, results


def main(nets_folder: pathlib.Path, limit_folder: pathlib.Path) -> int:
    nets, limit = (results.read_results(folder) for folder in (nets_folder, limit_folder))
    told = "do not fit together, see configs/width.py"
    for name, of_run, problem, dims in (
        ("NETS", nets, "two_layer", {"seed", "m_v", "eta_init"}),
        ("LIMIT", limit, "lazy_limit", {"seed", "eta_init"}),
    ):
        if of_run.attrs["problem"] != problem or not dims <= set(of_run["status"].dims):
            named = ", ".join(sorted(dims))
            raise ValueError(f"{told} ({name} must be a run of {problem} along {named})")
        if not of_run.attrs["complete"]:
            print(f"{name} is not finished: the gap is that of what both have recorded")
    try:
        gaps = results.limit_gaps(nets, limit)
    except KeyError:
        raise ValueError(f"{told} (LIMIT lacks an initial rate of NETS)") from None
    except ValueError as error:
        raise ValueError(f"{told} ({error})") from None
    print("      m_v  initial rate  gap (of the limit's largest |D|)  saturation")
    for width in gaps["m_v"].values:
        for rate in gaps["eta_init"].values:
            at = gaps.sel(m_v=width, eta_init=rate)
            print(f"{width:9d}  {rate:12g}  {float(at.gap):33.3f}  {float(at.saturation):10.2f}")
    script.save_figure(figures.limit_gap(nets, limit), nets_folder, "limit_gap")
    return 0


if __name__ == "__main__":
    script.run("python -m analysis.limit_gap NETS LIMIT", 2, main)
