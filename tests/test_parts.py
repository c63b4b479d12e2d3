"""Parts of a grid of members, one a process, and blocks of them."""

import numpy as np
import pytest

from lr_order_jax import parts


@pytest.mark.parametrize("shape", [(5, 6), (4, 2), (1, 3), (2, 1)])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_each_member_is_in_one_part_and_blocks_are_joined_again(shape, count):
    leaf = np.arange(np.prod(shape) * 2.0).reshape(*shape, 2)
    found = [parts.part_of(shape, count, i) for i in range(count)]
    held, blocks = np.zeros(shape, int), []
    for i, part in enumerate(found):
        ours = leaf[part.rows, part.columns]
        assert part.is_copy == (i >= part.count)
        if not part.is_copy:
            held[part.rows, part.columns] += 1
            columns = part.columns_in_part(range(shape[1]))
            np.testing.assert_array_equal(ours[:, columns], ours)
        blocks.append(part.block(ours))
    assert (held == 1).all()
    assert len({block.shape for block in blocks}) == 1
    np.testing.assert_array_equal(parts.joined(blocks, shape, found[0].ways), leaf)
