"""Joins parts of a grid into one run's directory, see `lr_order_jax.merge`.

    python -m analysis.merge DIR [DIR ...] --out=DIR

Parts are the shards of one config (`--config.shard=i/n`), or runs that differ in seeds and in the
values of their axes alone. A merge that was cut off is done again by the same command. Exit status
0 when all is joined; 2 with one line where a part is unfinished, damaged or of another config, or
where members are missing, which are named; 1 where a disk is full.
"""

import pathlib

from analysis import script
from lr_order_jax.fields import ConfigError
from lr_order_jax.merge import merge
from lr_order_jax.progress import say


def main() -> None:
    parser = script.Parser(prog="python -m analysis.merge", description=__doc__)
    parser.add_argument("dirs", nargs="+", metavar="DIR", help="directories of finished parts")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new directory")
    asked = parser.parse_args()
    for name, values in (("--out=", [asked.out]), ("DIR", asked.dirs)):
        if "" in values:
            parser.error(f"{name} is empty: name a directory")
    out = pathlib.Path(asked.out)

    def body() -> int:
        try:
            with script.writing(out):  # what cannot be read is told as a ConfigError
                whole = merge(asked.dirs, out)
        except ConfigError as error:
            say(f"error: {error}")
            return 2
        sizes = " x ".join(f"{whole.sizes[dim]} {dim}" for dim in whole["status"].dims)
        print(f"{whole['status'].size} members ({sizes}) of {len(asked.dirs)} parts in {out}")
        return 0

    script.told([out], body)


if __name__ == "__main__":
    main()
