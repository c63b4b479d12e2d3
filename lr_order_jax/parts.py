"""Of several processes that run one program each holds a part of the grid of members.

With one process the part is the grid, and the functions that wait for the others cost nothing.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from lr_order_jax import processes
from lr_order_jax.problem import Data
from lr_order_jax.sweep import Grid, spread


@dataclasses.dataclass(frozen=True)
class Part:
    """Every a-th seed and every b-th column of a grid (S, H), as (s, h) leaves.

    Neighbouring columns are in different parts, as those of large rates end first.

    Attributes:
      shape: (S, H).
      rows, columns: of those in the part.
      is_copy: whether there are more processes than parts: this one holds what another one has.
    """

    shape: tuple[int, int]
    rows: slice
    columns: slice
    is_copy: bool

    def columns_in_part(self, columns: Sequence[int]) -> list[int]:
        """Those of these columns that it holds, counted within it."""
        if self.is_copy:
            return []
        first, b = self.columns.start, self.columns.step
        return [h // b for h in columns if h % b == first]

    def of_grid(self, grid: Grid) -> Grid:
        """Its members, as a grid without axes: they need not be a product."""
        if self.rows.step == self.columns.step == 1:
            return grid
        own, epoch = jax.tree.map(lambda leaf: leaf[self.rows], (grid.data.own, grid.data.epoch))
        return Grid(
            axes=(),
            members=grid.members[self.columns],
            seeds=grid.seeds[self.rows],
            keys=grid.keys[self.rows],
            data=Data(grid.data.shared, own, epoch),
            hypers=jax.tree.map(lambda leaf: leaf[self.rows, self.columns], grid.hypers),
        )

    def gather(self, leaf: np.ndarray) -> np.ndarray:
        """(S, H, ...): what each process has for its part, (s, h, ...). Waits for the others."""
        if jax.process_count() == 1:
            return leaf
        whole = np.zeros((*self.shape, *leaf.shape[2:]), leaf.dtype)
        if not self.is_copy:
            whole[self.rows, self.columns] = leaf
        return processes.total(whole)

    def gather_on_first(self, leaf: np.ndarray) -> np.ndarray:
        """The same for a large leaf, a seed at a time; (0, H, ...) in all but the first process.
        Waits for the others."""
        if jax.process_count() == 1:
            return leaf
        seeds, *shape = *self.shape, *leaf.shape[2:]
        ours = {} if self.is_copy else self._by_seed(leaf)
        whole = np.empty((seeds if processes.is_first() else 0, *shape), leaf.dtype)
        for s in range(seeds):
            row = np.zeros(shape, leaf.dtype)
            if s in ours:
                row[self.columns] = ours[s]
            row = processes.total(row)
            if processes.is_first():
                whole[s] = row
        return whole

    def scatter(self, leaf: np.ndarray, whole: np.ndarray) -> None:
        """Writes into a leaf (s, h, ...) what the first process has for all members, (S, H, ...), a
        seed at a time. Waits for the others."""
        ours = self._by_seed(leaf)
        for s in range(self.shape[0]):
            blank = np.zeros((self.shape[1], *leaf.shape[2:]), leaf.dtype)
            row = processes.of_first(whole[s] if processes.is_first() else blank)
            if s in ours:
                ours[s][...] = row[self.columns]

    def _by_seed(self, leaf: np.ndarray) -> Mapping[int, np.ndarray]:
        """The rows of a leaf, by the index of their seeds."""
        return dict(zip(range(self.shape[0])[self.rows], leaf, strict=True))


def part_of(shape: tuple[int, int], count: int, index: int) -> Part:
    """The part of a grid (S, H) that process `index` of so many holds; the first one has the most.

    Examples:
        >>> part = part_of((5, 6), 4, 1)
        >>> part.rows, part.columns
        (slice(0, None, 2), slice(1, None, 2))
    """
    a, b = spread(*shape, count)
    i, j = divmod(min(index, a * b - 1), b)
    return Part(shape, slice(i, None, a), slice(j, None, b), index >= a * b)
