"""The paper's distribution (section 2), its schedules and its measurements, for any model of it.

An example is x = (x1, x2) with label y uniform on {-1, +1}, (2.1)-(2.4):

    with probability p0      x1 ~ P_y, x2 = 0        "P only"   (group 0)
    with probability q0      x1 = 0,   x2 ~ Q_y      "Q only"   (group 1)
    otherwise                x1 ~ P_y, x2 ~ Q_y      "both"     (group 2)

P_y: a half Gaussian beyond a margin gamma0 along w*; Q_y: one of three directions z, z + zeta,
z - zeta times alpha ~ U[0, A] (2.5); the paper has A = 1. Because every x2 is a multiple of one of
three directions and relu is positively homogeneous, g(alpha v) = alpha g(v): an example's x2 is
kept as a row of coefficients over the directions, and g on all of Q is three numbers.

The empirical fractions follow the corrected reading of section 2: q is the fraction of *Q-only*
examples (x1 = 0) and p that of *P-only* ones (x2 = 0).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lr_order_jax import fields
from lr_order_jax.algorithm import NEVER, Hypers
from lr_order_jax.fields import ConfigError
from lr_order_jax.models.two_layer import product
from lr_order_jax.problem import Model, Variable, Ways
from lr_order_jax.problems import assumptions, linear_rule

GROUPS = ("p_only", "q_only", "both")


class Examples(NamedTuple):
    """Examples of the distribution. n examples, d dimensions of each block."""

    x1: jax.Array  # (k, d) of the first k; zero where there is no P pattern, as in all others
    q_coefficients: jax.Array  # (n, 3): x2 = coefficients @ directions; zero without Q pattern
    y: jax.Array  # (n,) -1. or +1.
    group: jax.Array  # (n,) int32: index into GROUPS


class Sample(NamedTuple):
    """The data of one seed."""

    train: Examples
    test: Examples  # every one has both patterns; the groups are made by leaving one out
    w_star: jax.Array  # (d,) unit vector: the linear rule of P
    directions: jax.Array  # (3, d): z, z + zeta, z - zeta


def sample_p(key, y, w_star, gamma0):
    """x1 ~ P_y, one row a label: x1 = y gamma0 w* + (z | y <w*, z> >= 0), z ~ N(0, I/d).

    Exact for any unit w*: a Gaussian whose component along w* is turned to the side of y is the
    conditioned Gaussian (the bar in the printed definition is a conditioning bar).

    Args:
      y: (n,) labels.
      w_star: (d,) unit vector.

    Returns:
      (n, d), with y <w*, x1> >= gamma0.
    """
    d = w_star.shape[0]
    z = jax.random.normal(key, (y.shape[0], d)) / jnp.sqrt(jnp.float32(d))
    along = product(z, w_star)
    wanted = y * (jnp.abs(along) + gamma0)
    return z + (wanted - along)[:, None] * w_star[None, :]


def sample_q(key, y, q_scale):
    """x2 ~ Q_y (2.5) as coefficients over (z, z + zeta, z - zeta): (n, 3), one non-zero a row.

    alpha ~ U[0, A]; z for y = +1, and z + b zeta with b = +-1 for y = -1.
    """
    key_alpha, key_b = jax.random.split(key)
    alpha = q_scale * jax.random.uniform(key_alpha, y.shape)
    b = jax.random.bernoulli(key_b, shape=y.shape)
    direction = jnp.where(y > 0, 0, jnp.where(b, 1, 2))
    return alpha[:, None] * jax.nn.one_hot(direction, 3)


def sample_examples(key, n: int, groups, w_star, gamma0, q_scale) -> Examples:
    """n examples with uniform labels whose groups are given: (n,) int32, indices into GROUPS."""
    key_y, key_p, key_q = jax.random.split(key, 3)
    y = jax.random.rademacher(key_y, (n,), jnp.float32)
    x1 = sample_p(key_p, y, w_star, gamma0)
    q_coefficients = sample_q(key_q, y, q_scale)
    has_p, has_q = groups != 1, groups != 0
    return Examples(
        x1=jnp.where(has_p[:, None], x1, 0.0),
        q_coefficients=jnp.where(has_q[:, None], q_coefficients, 0.0),
        y=y,
        group=groups,
    )


def sample_groups(key, n: int, p0, q0):
    """The mixture (2.2)-(2.4): (n,) int32, P only with probability p0, Q only with q0."""
    u = jax.random.uniform(key, (n,))
    return jnp.where(u < p0, 0, jnp.where(u < p0 + q0, 1, 2)).astype(jnp.int32)


def sample_geometry(key, d: int, r):
    """Unit w*, and the directions z, z + zeta, z - zeta with unit z, |zeta| = r, <z, zeta> = 0."""
    key_w, key_plane = jax.random.split(key)
    w_star = jax.random.normal(key_w, (d,))
    plane, _ = jnp.linalg.qr(jax.random.normal(key_plane, (d, 2)))
    z, zeta = plane[:, 0], r * plane[:, 1]
    return w_star / jnp.linalg.norm(w_star), jnp.stack([z, z + zeta, z - zeta])


def logistic_loss(f, y):
    """l(f; (x, y)) = log(1 + exp(-y f)), elementwise (section 2)."""
    return jax.nn.softplus(-y * f)


def second_difference(g):
    """D = g(z + zeta) + g(z - zeta) - 2 g(z), the quantity of Lemma 4.2; `g` is (3,).

    A net that has learned Q has D < 0: z +- zeta have the label -1 and z has +1.

    Examples:
        >>> second_difference([0.5, -0.5, -0.4])  # g at z, z + zeta, z - zeta
        -1.9
    """
    return g[1] + g[2] - 2 * g[0]


def num_steps(flow_time: float, rate: float) -> int:
    """Steps of a rate that fit into a flow time (the sum of gamma_t); at most NEVER."""
    return math.floor(min(flow_time / rate * (1 + 1e-12), NEVER))


VARIABLES = {
    "train_loss": Variable("training loss, all examples"),
    "train_loss_p_only": Variable("training loss, P-only examples"),
    "train_loss_q_only": Variable("training loss, Q-only examples"),
    "train_loss_both": Variable("training loss, examples with both patterns"),
    "second_difference": Variable("g(z + zeta) + g(z - zeta) - 2 g(z) (Lemma 4.2)"),
    "test_error": Variable("test error of the mixture"),
    "test_error_p_only": Variable("test error, P-only examples"),
    "test_error_q_only": Variable("test error, Q-only examples"),
    "test_error_both": Variable("test error, examples with both patterns"),
    "test_loss": Variable("test loss of the mixture"),
    "test_loss_p_only": Variable("test loss, P-only examples"),
    "train_loss_on_m2": Variable("training loss, examples with a Q pattern (Lemma 5.1)"),
    "train_loss_of_r_on_m1": Variable(
        "training loss of r alone, examples with a P pattern (Lemma 4.4)"
    ),
}


SEED_VARIABLES = {
    "p": Variable("fraction of P-only examples in the training data"),
    "q": Variable("fraction of Q-only examples in the training data"),
    "linear_error_p_only": Variable(
        "P-only test error of the best linear rule that the P-only training examples give"
    ),
    "linear_error_all_p": Variable(
        "P-only test error of the best linear rule that all training examples with P give"
    ),
}


@dataclasses.dataclass(frozen=True)
class SyntheticFields:
    """The section of the configuration that all problems on this distribution share."""

    # Schedule and noise; tuples are swept.
    eta_init: tuple[float, ...] = fields.positive(many=True)  # initial rate; eta_2: Algorithm 2
    eta_2: tuple[float, ...] = fields.positive(many=True)  # rate after annealing
    noise_scale: tuple[float, ...] = fields.non_negative(many=True)  # multiplies tau_xi
    noise_init: tuple[float, ...] = fields.non_negative(many=True)  # before activations, over tau0
    noise_factor: tuple[float, ...] = fields.non_negative(many=True)  # of it when annealed
    lam: tuple[float, ...] = fields.non_negative(many=True)  # weight decay lambda
    tau_xi: tuple[float, ...] | None = fields.non_negative(many=True, optional=True)
    epsilon_1: tuple[float, ...] = fields.real(many=True)  # negative: no loss threshold
    epsilon_2: tuple[float, ...] = fields.non_negative(many=True)  # 0: no stop
    anneal_step: tuple[int, ...] | None = fields.integer(1, many=True, optional=True)
    eta_1: float | None = fields.positive(optional=True)  # unset: the largest eta_init
    flow_time_1: float = fields.non_negative()  # anneal by this flow time at the latest
    flow_time_2: float = fields.non_negative()  # run so long after annealing
    # Distribution. Several values of these are several programs, see `spec.parse_study`.
    d: int = fields.integer(2, outer=True)
    n: int = fields.integer(1, outer=True)
    p0: float = fields.real("a number from 0 to 1", lambda v: 0 <= v <= 1, outer=True)
    q0: float = fields.real("a number from 0 to 1", lambda v: 0 <= v <= 1, outer=True)
    r: float = fields.positive(1e3, outer=True)  # |zeta|
    gamma0: float | None = fields.non_negative(1e3, optional=True, outer=True)  # unset: 1/sqrt(d)
    q_scale: float = fields.positive(1e6, outer=True)  # A: alpha ~ U[0, A]
    num_test: int = fields.integer(1)  # test examples of each group


def resolve(section: Any) -> Any:
    """The section with its placeholders filled in and its fields checked against each other.

    Raises:
      ConfigError: if fields contradict each other.
    """
    if section.p0 + section.q0 > 1:
        raise ConfigError(
            f"config.p0 + config.q0 = {section.p0 + section.q0:g}: must be at most 1, "
            "the rest of the examples has both patterns"
        )
    eta_1 = section.eta_1 if section.eta_1 is not None else max(section.eta_init)
    if max(section.eta_2) > eta_1:
        raise ConfigError(
            f"config.eta_2 = {max(section.eta_2):g}: must be at most eta_1 = {eta_1:g}, "
            "the largest eta_init unless config.eta_1 is set"
        )
    largest = max(eta_1, *section.eta_init)
    if max(section.lam) * largest >= 1:
        raise ConfigError(
            f"config.lam = {max(section.lam):g}: must be below {1 / largest:g}, one over the "
            "largest rate, or weight decay overshoots"
        )
    if not section.flow_time_1 + section.flow_time_2 > 0:
        raise ConfigError("config.flow_time_1 + config.flow_time_2 = 0: must be > 0")
    gamma0 = section.gamma0 if section.gamma0 is not None else section.d**-0.5
    return dataclasses.replace(section, eta_1=eta_1, gamma0=gamma0)


def make_data(section: SyntheticFields, key) -> Sample:
    """Training and test examples of one seed. Test examples are drawn apart from training ones.

    The training examples without P pattern stand last.
    """
    key_geometry, key_groups, key_train, key_test = jax.random.split(key, 4)
    w_star, directions = sample_geometry(key_geometry, section.d, section.r)
    groups = sample_groups(key_groups, section.n, section.p0, section.q0)
    law = (w_star, section.gamma0, section.q_scale)
    train = sample_examples(key_train, section.n, groups, *law)
    order = jnp.argsort(groups == 1, stable=True)
    train = jax.tree.map(lambda leaf: leaf[order], train)
    both = jnp.full(section.num_test, 2, jnp.int32)
    test = sample_examples(key_test, section.num_test, both, *law)
    return Sample(train, test, w_star, directions)


def most_with_p(group) -> int:
    """How many training examples have a P pattern, at most over seeds; `group` is (S, n)."""
    return max(1, int(np.max(np.sum(np.asarray(group) != 1, axis=1))))


def of_all(of_first, count: int):
    """Numbers of the first examples, (k, ...), with zeros for the others, (count, ...)."""
    rest = [(0, count - of_first.shape[0])] + [(0, 0)] * (of_first.ndim - 1)
    return jnp.pad(of_first, rest)


def schedule(
    section: SyntheticFields,
    values: Mapping[str, Any],
    data: Sample,
    tau_xi: Any,
    together: Any = (1, 1),
) -> Hypers:
    """Hyperparameters of one member (host arrays): Algorithm 1, or 2 if eta_init = eta_2.

    Algorithm 1 anneals when the training loss falls to epsilon_1 + q log 2 (q: the Q-only
    fraction of this seed's data), at `anneal_step`, or at flow_time_1, whichever comes first, and
    then runs for flow_time_2. Algorithm 2 runs at eta_2 for flow_time_1 + flow_time_2. Both stop
    when the loss falls to epsilon_2 in their last phase. A phase has as many steps as fit into its
    flow time, so no member ends after the common time grid; with flow_time_1 = 0 there is no phase
    before annealing.

    Algorithm 2 with noise before the activations that is annealed (the mitigation of F.1) has two
    phases of one rate, and its noise is annealed as the rate of Algorithm 1 is. The loss that the
    triggers see is that of the step, with a fresh draw of the noise at the level of the phase in
    which the step began. A step that the loss moves on to the next phase has the rate of that, but
    a gradient with the noise level of the one before (at infinite width with that of the next).

    Args:
      together: how many steps of the algorithm one step of the program takes, in each phase.

    Raises:
      ConfigError: if the member's rates are in the wrong order or take too many steps, or a phase
        that is to have a flow time has no step.
    """
    eta_init, eta_2 = values["eta_init"], values["eta_2"]
    noise, noise_factor = values["noise_init"], values["noise_factor"]
    if eta_init < eta_2:
        raise ConfigError(
            f"config.eta_init = {eta_init:g}: must be at least eta_2 = {eta_2:g} "
            "(equal: Algorithm 2)"
        )
    stop = values["epsilon_2"] if values["epsilon_2"] > 0 else -math.inf
    lengths = (eta_init * int(together[0]), eta_2 * int(together[1]))
    one_phase = eta_init == eta_2 and (noise == 0 or noise_factor == 1)
    if one_phase:
        horizon = section.flow_time_1 + section.flow_time_2
        steps = (0, num_steps(horizon, lengths[1]))
        thresholds = (-math.inf, stop)
    else:
        first = num_steps(section.flow_time_1, lengths[0])
        steps = (
            min(first, values["anneal_step"] or NEVER),
            num_steps(section.flow_time_2, lengths[1]),
        )
        q = float(np.mean(np.asarray(data.train.group) == 1))
        epsilon_1 = values["epsilon_1"]
        thresholds = (epsilon_1 + q * math.log(2) if epsilon_1 >= 0 else -math.inf, stop)
    if sum(steps) >= NEVER:
        raise ConfigError(
            f"config.eta_init = {eta_init:g}, config.eta_2 = {eta_2:g}: the flow time takes "
            f"too many steps, must be below {NEVER}"
        )
    if not one_phase and eta_init > section.flow_time_1 > 0:
        raise ConfigError(
            f"config.eta_init = {eta_init:g}: one step is longer than "
            f"flow_time_1 = {section.flow_time_1:g}"
        )
    if section.flow_time_2 > 0 and eta_2 > section.flow_time_2:
        raise ConfigError(
            f"config.eta_2 = {eta_2:g}: one step is longer than "
            f"flow_time_2 = {section.flow_time_2:g}"
        )
    return Hypers(
        rates=np.array([eta_init, eta_2], np.float64),
        phase_steps=np.array(steps, np.int64),
        loss_thresholds=np.array(thresholds, np.float64),
        weight_decay=np.float64(values["lam"]),
        tau_xi=jax.tree.map(np.float64, tau_xi),
        activation_noise=(
            np.array([noise, noise * noise_factor]) if max(section.noise_init) > 0 else None
        ),
    )


def group_loss_sums(f, examples: Examples):
    """Sum of the loss and number of examples in each group, (3,) and (3,)."""
    members = jax.nn.one_hot(examples.group, len(GROUPS))
    return product(logistic_loss(f, examples.y), members), jnp.sum(members, axis=0)


def count_errors(r, g, f, y):
    """Wrong predictions with P alone, Q alone and both patterns, from r(x1), g(x2) and f(x): (3,).

    An output of 0, or one that is not a number, is wrong.
    """
    return jnp.stack([jnp.sum(~(y * out > 0), dtype=jnp.float32) for out in (r, g, f)])


def test_loss_sums(r, g, f, y):
    """Sums of the loss with P alone, Q alone and both patterns, from r(x1), g(x2), f(x): (3,)."""
    losses = jnp.stack([logistic_loss(out, y) for out in (r, g, f)])
    return product(losses, jnp.ones_like(y))  # a sum would depend on what it is fused with


def summarize(section: SyntheticFields, sums: Mapping[str, Any], g) -> dict[str, jax.Array]:
    """The contract's variables from sums over the examples and g at the three directions.

    Test error and loss of the mixture weigh the groups by their probabilities. The loss of a group
    without training examples is NaN.
    """
    loss, count = sums["loss"], sums["count"]
    by_group = loss / count
    error, test_loss = (sums[name] / sums["num_test"] for name in ("wrong", "test_loss"))
    share = jnp.array([section.p0, section.q0, 1 - section.p0 - section.q0])
    losses = {f"train_loss_{name}": by_group[i] for i, name in enumerate(GROUPS)}
    errors = {f"test_error_{name}": error[i] for i, name in enumerate(GROUPS)}
    return {
        "train_loss": jnp.sum(loss) / jnp.sum(count),
        **losses,
        "second_difference": second_difference(g),
        "test_error": jnp.sum(share * error),
        **errors,
        "test_loss": jnp.sum(share * test_loss),
        "test_loss_p_only": test_loss[0],
        "train_loss_on_m2": (loss[1] + loss[2]) / (count[1] + count[2]),
        "train_loss_of_r_on_m1": sums["loss_of_r"] / (count[0] + count[2]),
    }


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """What all problems on this distribution share. A subclass gives `init`, `tau_xi` and three
    outputs of its model: r on the training examples, r on the test examples, and g on Q. Where its
    output is not r + g, it gives `f` too."""

    fields: Any

    clock = "flow_time"
    ways = {"cpu": Ways("scan", "vmap")}  # noqa: RUF012
    num_evaluation_batches = 1
    table = "learning_order"
    study_figures = ("error_against_shape",)

    seed_variables = SEED_VARIABLES

    Fields = SyntheticFields

    @classmethod
    def build(cls, section: Any) -> "Synthetic":
        """The problem of a section of the configuration."""
        return cls(resolve(section))

    @property
    def variables(self) -> Mapping[str, Variable]:
        return VARIABLES

    @property
    def figures(self) -> tuple[str, ...]:
        """With rate and noise swept also their map, with eta_2 swept the error against it."""
        several = lambda name: len(set(getattr(self.fields, name))) > 1  # noqa: E731
        maps = ("learning_order_map",) if several("eta_init") and several("noise_scale") else ()
        ratios = ("error_against_shape",) if several("eta_2") else ()
        return ("learning_order", "error_against_rate", *maps, *ratios)

    def init(self, key) -> Model:
        raise NotImplementedError

    def tau_xi(self, values: Mapping[str, Any]) -> Any:
        """Deviation of the gradient noise of one member, as in `Hypers`."""
        raise NotImplementedError

    def train_r(self, params, stats, own) -> jax.Array:
        """r of each training example, (n,)."""
        raise NotImplementedError

    def test_r(self, params, stats, own) -> jax.Array:
        """r of each test example, (num_test,)."""
        raise NotImplementedError

    def g_of_directions(self, params, stats, own) -> jax.Array:
        """g at z, z + zeta and z - zeta, (3,)."""
        raise NotImplementedError

    def g(self, params, stats, own, examples: Examples) -> jax.Array:
        """g of each example: g(alpha v) = alpha g(v), so g at the three directions is g on all."""
        return product(examples.q_coefficients, self.g_of_directions(params, stats, own))

    def f(self, params, stats, own, examples: Examples, r) -> jax.Array:
        """The model's output on each example, whose r is given: f = r + g."""
        return r + self.g(params, stats, own, examples)

    def train_f(self, params, stats, own) -> jax.Array:
        """f of each training example, (n,)."""
        return self.f(params, stats, own, own.train, self.train_r(params, stats, own))

    def horizon(self) -> float:
        return self.fields.flow_time_1 + self.fields.flow_time_2

    def time_per_step(self, hypers):
        return hypers.rates

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Full batch: the noise of (3.2) stands for that of minibatches."""
        return (self.fields.n,)

    def load(self) -> tuple[()]:
        return ()

    def make_data(self, key, shared) -> Any:
        return make_data(self.fields, key)

    def trim_data(self, own):
        """Keeps x1 of as many training examples as have a P pattern in any seed."""
        train = own.train
        return own._replace(train=train._replace(x1=train.x1[:, : most_with_p(train.group)]))

    def together(self, rates) -> np.ndarray:
        """How many steps of the algorithm one step of the program takes, at each of these rates."""
        return np.ones(len(rates), int)

    def hypers(self, values, data):
        """No noise is drawn at all if no member of the sweep has any."""
        tau_xi = self.tau_xi(values) if max(self.fields.noise_scale) > 0 else None
        together = self.together([values["eta_init"], values["eta_2"]])
        return schedule(self.fields, values, data.own, tau_xi, together)

    def batch(self, data, task, key, step, size):
        return data.own

    def loss(self, params, stats, batch, noise_level, key):
        """L(U), the mean logistic loss of f over the training examples."""
        f = self.train_f(params, stats, batch)
        return jnp.mean(logistic_loss(f, batch.train.y)), stats

    # What theory asks for (`HasTheory`).

    def seed_values(self, data):
        train, test = data.own.train, data.own.test
        group, x1, y = (np.asarray(leaf) for leaf in (train.group, train.x1, train.y))
        x1_test, y_test = np.asarray(test.x1), np.asarray(test.y)
        errors = {
            name: linear_rule.best_error(x1[kept], y[kept], x1_test, y_test)
            for name, kept in (
                ("p_only", np.flatnonzero(group == 0)),
                ("all_p", np.flatnonzero(group != 1)),
            )
        }
        return {
            "p": float(np.mean(group == 0)),
            "q": float(np.mean(group == 1)),
            **{f"linear_error_{name}": error for name, error in errors.items()},
        }

    def widths(self) -> dict[str, tuple[float, float]]:
        """Width and tau_0 of each block; none in the limit of infinite width."""
        return {}

    def audit(self, members):
        c = self.fields
        checks = []
        for values, data in members:
            group = np.asarray(data.own.train.group)
            widths = self.widths() or {"all": (math.inf, 1.0)}
            tau_xi = np.broadcast_to(list(jax.tree.leaves(self.tau_xi(values))), len(widths))
            lam, eta_1 = values["lam"], c.eta_1
            kept = {  # eta_1 tau_xi^2/(lambda (2 - eta_1 lambda) tau_0^2), see Assumption 3.1
                block: eta_1 * tau**2 / (lam * (2 - eta_1 * lam) * tau_0**2) if lam * tau_0 else 0.0
                for (block, (_, tau_0)), tau in zip(widths.items(), tau_xi, strict=True)
            }
            of_member = {name: values[name] for name in ("eta_init", "eta_2", "lam")}
            checks.append(
                assumptions.audit(
                    **of_member,
                    **{name: getattr(c, name) for name in ("d", "n", "r", "q_scale", "gamma0")},
                    **{name: getattr(c, name) for name in ("p0", "q0", "eta_1")},
                    epsilon_1=values["epsilon_1"],
                    epsilon_2=values["epsilon_2"],
                    p=float(np.mean(group == 0)),
                    q=float(np.mean(group == 1)),
                    stationary_variance=kept,
                    widths=self.widths(),
                )
            )
        summary = assumptions.summarize(checks)
        return summary, assumptions.describe(summary)

    def evaluate(self, data, task, model, index):
        own, of_model = data.own, (model.params, model.stats, data.own)
        r = self.train_r(*of_model)
        loss, count = group_loss_sums(self.f(*of_model, own.train, r), own.train)
        of_r, _ = group_loss_sums(r, own.train)
        r = self.test_r(*of_model)
        f = self.f(*of_model, own.test, r)
        on_test = r, self.g(*of_model, own.test), f, own.test.y
        num_test = jnp.float32(own.test.y.shape[0])
        return {
            "loss": loss,
            "count": count,
            "loss_of_r": of_r[0] + of_r[2],
            "wrong": count_errors(*on_test),
            "test_loss": test_loss_sums(*on_test),
            "num_test": num_test,
        }

    def summarize(self, data, task, model, sums):
        g3 = self.g_of_directions(model.params, model.stats, data.own)
        return summarize(self.fields, sums, g3)
