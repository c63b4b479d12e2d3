"""From a config to sections: what names a run, and what is refused."""

import pytest

from lr_order_jax import spec
from lr_order_jax.fields import ConfigError


def test_placeholders_are_resolved_and_written(tiny):
    what = spec.parse(tiny(eta_init=(0.05, 0.2), eta_2=(0.05,), d=16)).what
    assert what["eta_1"] == 0.2
    assert what["gamma0"] == 0.25
    assert what["seeds"] == [0, 1]
    assert what["tau_xi"] is None  # by block: see TwoLayer.tau_xi


def test_num_seeds_stands_for_the_first_seeds(tiny):
    assert spec.parse(tiny(num_seeds=3)).seeds == (0, 1, 2)
    assert spec.parse(tiny(num_seeds=3, seeds=(7, 5))).seeds == (7, 5)
    assert spec.digest(spec.parse(tiny(num_seeds=3))) == spec.digest(
        spec.parse(tiny(seeds=(0, 1, 2)))
    )


def test_the_digest_depends_on_what_and_not_on_how(tiny):
    plain = spec.digest(spec.parse(tiny()))
    assert plain == spec.digest(spec.parse(tiny(mapping="map", checkpoint_every=1.0)))
    assert plain != spec.digest(spec.parse(tiny(d=7)))
    assert plain != spec.digest(spec.parse(tiny(eta_init=(0.2, 0.06))))


def test_the_difference_names_the_fields(tiny):
    a, b = spec.parse(tiny()).what, spec.parse(tiny(d=7)).what
    assert spec.difference(a, a) == ""
    told = spec.difference(a, b)
    assert "d is 6 there, 7 here" in told
    assert "gamma0" in told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"problem": "three_layer"},
            "config.problem = 'three_layer': must be one of lazy_limit, patch_cifar, two_layer",
        ),
        ({"problem": None}, "config.problem"),
        ({"problem": "math:sqrt"}, "MODULE:CLASS of your own (TypeError: sqrt has no Fields)"),
        ({"problem": "nowhere:Line"}, "No module named 'nowhere'"),
        ({"widht": 3}, "config.widht: problem 'two_layer' has no such field"),
        ({"m_v": -4}, "config.m_v = -4: must be a whole number from 1"),
        ({"seeds": (1, 1)}, "distinct"),
        ({"seeds": (-1,)}, "config.seeds"),
        ({"num_seeds": None}, "config.seeds is not set"),
        ({"mapping": "fast"}, "config.mapping"),
    ],
)
def test_wrong_configs_are_refused(tiny, changes, told):
    with pytest.raises(ConfigError) as error:
        spec.parse(tiny() | changes)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
