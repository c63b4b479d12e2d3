"""Of several processes that run one program each holds a part of the grid of members.

With one process the part is the grid, and the functions that wait for the others cost nothing. To
be written the parts are blocks of global arrays, over a mesh of the processes.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lr_order_jax import processes
from lr_order_jax.problem import Data
from lr_order_jax.sweep import Grid, spread


@dataclasses.dataclass(frozen=True)
class Part:
    """Every a-th seed and every b-th column of a grid (S, H), as (s, h) leaves.

    Neighbouring columns are in different parts, as those of large rates end first.

    Attributes:
      shape: (S, H).
      ways: (a, b); the first part is the largest.
      index: of the process.
    """

    shape: tuple[int, int]
    ways: tuple[int, int]
    index: int

    @property
    def count(self) -> int:
        """How many parts there are."""
        return math.prod(self.ways)

    @property
    def is_copy(self) -> bool:
        """Whether there are more processes than parts: this one holds what another one has."""
        return self.index >= self.count

    @property
    def rows(self) -> slice:
        """Those of its seeds."""
        return slice(self._way[0], None, self.ways[0])

    @property
    def columns(self) -> slice:
        """Those of its members."""
        return slice(self._way[1], None, self.ways[1])

    @property
    def _way(self) -> tuple[int, int]:
        return divmod(min(self.index, self.count - 1), self.ways[1])

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

    def as_block(self, leaf: np.ndarray) -> jax.Array:
        """A global array of a block of each process, one after the other: its part, (s, h, ...),
        with zeros up to the size of the largest one. Waits for the others."""
        sharding = NamedSharding(_mesh(), PartitionSpec("process"))
        return jax.make_array_from_process_local_data(sharding, self.block(leaf))

    def block(self, leaf: np.ndarray) -> np.ndarray:
        """That of this process; of a copy zeros alone."""
        largest = [-(-size // k) for size, k in zip(self.shape, self.ways, strict=True)]
        block = np.zeros((*largest, *leaf.shape[2:]), leaf.dtype)
        if not self.is_copy:
            block[: leaf.shape[0], : leaf.shape[1]] = leaf
        return block


@functools.cache
def _mesh() -> Mesh:
    """A CPU of each process, whatever trains its members: what is written lies on its host. They
    are in the order of the processes, which JAX may number otherwise on other devices."""
    indices = processes.gathered(jax.local_devices(backend="cpu")[0].process_index)[:, 0]
    return Mesh([jax.local_devices(int(i), "cpu")[0] for i in indices], ("process",))


def joined(blocks: Sequence[np.ndarray], shape: tuple[int, int], ways: tuple[int, int]):
    """(S, H, ...): a leaf of all members from the blocks of all processes, see `Part.block`."""
    whole = np.empty((*shape, *blocks[0].shape[2:]), blocks[0].dtype)
    for index, block in enumerate(blocks[: math.prod(ways)]):
        part = Part(shape, ways, index)
        place = whole[part.rows, part.columns]
        place[...] = block[: place.shape[0], : place.shape[1]]
    return whole


def part_of(shape: tuple[int, int], count: int, index: int) -> Part:
    """The part of a grid (S, H) that process `index` of so many holds.

    Examples:
        >>> part = part_of((5, 6), 4, 1)
        >>> part.rows, part.columns
        (slice(0, None, 2), slice(1, None, 2))
    """
    return Part(shape, spread(*shape, count), index)
