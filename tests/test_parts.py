"""Parts of a grid of members, one a process, and blocks of them."""

import types

import numpy as np
import pytest

from lr_order_jax import experiment, parts


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


def test_what_is_kept_of_a_stored_leaf_does_not_keep_the_whole_alive():
    run = types.SimpleNamespace(grid=types.SimpleNamespace(shape=(4, 2)))
    run.part = parts.part_of((4, 2), 2, 1)
    leaf = np.arange(24.0).reshape(4, 2, 3)
    kept = experiment._Run.keep_ours(run, "params/W", leaf)
    assert kept.base is None
    np.testing.assert_array_equal(kept, leaf[1::2])
    assert experiment._Run.keep_ours(run, "history/loss", leaf) is leaf
    run.part = parts.part_of((4, 2), 1, 0)
    np.testing.assert_array_equal(experiment._Run.keep_ours(run, "params/W", leaf), leaf)
