"""The two-layer network of section 2 in the limit of infinite width: no weights, but memory.

As m -> infinity and tau0 -> 0 with tau0 sqrt(m) -> infinity, which units are active is decided by
the noise part of the weights alone, and the noise part's own output vanishes. Then, with gamma the
rate and l' the derivative of the loss at each example, (3.4) gives the output in closed form,

    f_t(x) = - sum_{s<t} gamma_s d_{t,s} (1/N) sum_n l'_n(s) k_{t,s}(x_n, x),

    d_{t,s} = prod_{s<i<t} (1 - gamma_i lambda),

with the kernel of `models.arcsine_kernel`, block by block. This is the "rapidly changing kernel" of
the paper's explanation: under a large rate the noise part is redrawn soon and forgets, at a small
one it stays. The clock of the noise is sigma = log of 1/rho; in a step its variance v (relative to
tau0^2) and sigma go to

    v' = (1 - gamma lambda)^2 v + gamma^2 tau_xi^2,
    sigma' = sigma + log(1 + gamma^2 tau_xi^2 / ((1 - gamma lambda)^2 v)) / 2.

Q needs the outputs at its three directions only, P an N x N kernel. A step costs
O(J N^2) for P, J terms of the series, and is independent of how many steps were taken.
After 100,000 steps the outputs were within 4e-4 of the largest one of the exact sum at the weight
decay of the configs, and the second difference within 1e-4; with next to no weight decay within
5e-3, as float32 rounds what a step adds to the sums of all (`tests/test_lazy_limit.py`).

**Noise before the activations** of relative deviation nu (in units of tau0; the mitigation of F.1)
multiplies rho by (1 + nu^2/v)^-1/2 at each of the two times at which it is there: at s for good, at
t in the training loss alone. That is a lapse log(1 + nu^2/v)/2 of the clock. Whether the noise is
fresh for each unit and example or for each weight, and whether it enters the output as well, makes
no difference in the limit.

**Steps taken together.** k steps of rate gamma with the residuals frozen are one step in closed
form: with a = 1 - gamma lambda, all sums decay by a^k, the source is gamma (1 - a^k)/(1 - a), v and
sigma move as k steps would move them, and the source is forgotten by the mean over its k parts.
What is left is the error of larger Euler steps in the residuals; `flow_step` says how much flow
time one step may take.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lr_order_jax import fields
from lr_order_jax.algorithm import (
    Hypers,
    read_activation_noise,
    read_rate,
    stationary_tau_xi,
)
from lr_order_jax.fields import ConfigError
from lr_order_jax.models.arcsine_kernel import (
    FIT_RATES,
    arcsine_series,
    exponential_weights,
    series_length,
)
from lr_order_jax.models.two_layer import product
from lr_order_jax.problem import Model
from lr_order_jax.problems import synthetic
from lr_order_jax.problems.synthetic import Examples

TWO_PI = 2 * np.pi
MOST_GAMMA0 = 3  # margins alone then make a cosine of 0.9


class Sample(NamedTuple):
    """The data of one seed, with what does not change of the kernel of P. J terms, N examples, of
    which the first K are those of `Examples.x1`."""

    train: Examples
    test: Examples
    w_star: jax.Array
    directions: jax.Array
    gram: jax.Array  # (K, J K): <a, b> a_j cos^(2j+1)/(2 pi) side by side, 0 on the diagonals
    linear: jax.Array  # (K, K): <a, b>/4
    squares: jax.Array  # (K,): <a, a>


class Memory(NamedTuple):
    """Decayed sums over past steps of gamma (-l')/N: all that is known of the past.

    E exponentials of the fit. The sums for Q are those of the examples along each direction, times
    their alpha.
    """

    p_linear: jax.Array  # (N,)
    p_series: jax.Array  # (J, N)
    p_self: jax.Array  # (E, N)
    q_linear: jax.Array  # (3,)
    q_fit: jax.Array  # (E, 3)
    variance: jax.Array  # () of the noise part, relative to tau0^2


class LazyLimit(synthetic.Synthetic):
    """Problem `lazy_limit`: the fields of `two_layer` without widths and tau0, in whose units
    tau_xi is."""

    @dataclasses.dataclass(frozen=True)
    class Fields(synthetic.SyntheticFields):
        # Flow time that one step of the program may take; 0: each is one of the algorithm. The
        # variable `step` of the results counts those of the program.
        flow_step: float = fields.non_negative()

    @classmethod
    def build(cls, section: Any) -> "LazyLimit":
        section = synthetic.resolve(section)
        if section.gamma0 > MOST_GAMMA0:
            raise ConfigError(
                f"config.gamma0 = {section.gamma0:g}: must be at most {MOST_GAMMA0} for "
                "lazy_limit, whose series converges slowly where all examples of a label are alike"
            )
        if section.flow_step == 0:
            return cls(section)
        # Steps of twice this size would make the common mode of the three directions oscillate.
        curvature = section.q_scale**2 / 24 * (1 - section.p0)
        times = [t for t in (section.flow_time_1, section.flow_time_2) if t > 0]
        most = min(*times, 1 / max(curvature, 1e-9))
        if section.flow_step > most:
            raise ConfigError(
                f"config.flow_step = {section.flow_step:g}: must be at most {most:.3g}, so that "
                "steps taken together stay stable and inside a phase"
            )
        if section.anneal_step is not None:
            raise ConfigError("config.anneal_step: cannot be set with flow_step > 0")
        return cls(section)

    def together(self, rates) -> np.ndarray:
        flow_step = self.fields.flow_step
        return np.maximum(1, np.floor(flow_step / np.asarray(rates) * (1 + 1e-12))).astype(int)

    def hypers(self, values, data):
        hypers = super().hypers(values, data)
        return hypers._replace(task={"together": self.together(hypers.rates).astype(np.float64)})

    def time_per_step(self, hypers):
        return hypers.rates * hypers.task["together"]

    @property
    def terms(self) -> int:
        """J: cosines between different examples are of order d^-1/2, beside that of the margins."""
        of_margins = self.fields.gamma0**2 / (1 + self.fields.gamma0**2)
        return series_length(min(of_margins + 6 * self.fields.d**-0.5, 0.99))

    def make_data(self, key, shared) -> Sample:
        sample = synthetic.make_data(self.fields, key)
        inner = product(sample.train.x1, sample.train.x1.T)
        squares = jnp.diagonal(inner)
        cosine = _cosine(inner, squares, squares)
        cosine = jnp.where(jnp.eye(len(squares), dtype=bool), 0.0, cosine)
        coefficients = arcsine_series(self.terms) / TWO_PI
        gram = [inner * float(a) * cosine ** (2 * j + 1) for j, a in enumerate(coefficients)]
        return Sample(*sample, jnp.concatenate(gram, axis=1), inner / 4, squares)

    def trim_data(self, own):
        own, seeds = super().trim_data(own), len(own.squares)
        k, n = own.train.x1.shape[1], own.squares.shape[1]
        gram = own.gram.reshape(seeds, n, self.terms, n)[:, :k, :, :k].reshape(seeds, k, -1)
        return own._replace(gram=gram, linear=own.linear[:, :k, :k], squares=own.squares[:, :k])

    def init(self, key) -> Model:
        """Nothing is learned yet: f = 0."""
        n, terms, fitted = self.fields.n, self.terms, len(FIT_RATES)
        nothing = Memory(
            p_linear=jnp.zeros(n),
            p_series=jnp.zeros((terms, n)),
            p_self=jnp.zeros((fitted, n)),
            q_linear=jnp.zeros(3),
            q_fit=jnp.zeros((fitted, 3)),
            variance=jnp.float32(1),
        )
        return Model({}, nothing)

    def tau_xi(self, values) -> float:
        if values["tau_xi"] is not None:
            return values["noise_scale"] * values["tau_xi"]
        return values["noise_scale"] * stationary_tau_xi(1.0, self.fields.eta_1, values["lam"])

    def g_of_directions(self, params, stats, own):
        """g at z, z + zeta and z - zeta from the sums of the three."""
        r = self.fields.r
        inner = np.array([[1, 1, 1], [1, 1 + r**2, 1 - r**2], [1, 1 - r**2, 1 + r**2]])
        norms = np.sqrt(np.diag(inner))
        cosine = np.clip(inner / np.outer(norms, norms), -1, 1)
        weights = np.array(
            [[np.sign(c) * exponential_weights(abs(c)) for c in row] for row in cosine]
        )
        kernel = jnp.asarray(inner[..., None] * weights / TWO_PI, jnp.float32)  # (3, 3, E)
        linear = product(jnp.asarray(inner / 4, jnp.float32), stats.q_linear)
        fitted = jnp.sum(kernel * stats.q_fit.T[None], axis=(1, 2))
        return linear + fitted

    def train_r(self, params, stats, own):
        weights = jnp.asarray(exponential_weights(1.0) / TWO_PI, jnp.float32)
        k = len(own.squares)
        r = product(own.linear, stats.p_linear[:k])
        r = r + own.squares * product(weights, stats.p_self[:, :k])
        r = r + product(own.gram, stats.p_series[:, :k].reshape(-1))
        return synthetic.of_all(r, self.fields.n)

    def test_r(self, params, stats, own):
        """The series also serves test examples: none of them is a training example."""
        k = len(own.squares)
        inner = product(own.test.x1, own.train.x1.T)
        cosine = _cosine(inner, jnp.sum(own.test.x1**2, axis=1), own.squares)
        square = cosine**2
        coefficients = arcsine_series(self.terms) / TWO_PI
        total = jnp.zeros_like(cosine)
        for j in reversed(range(self.terms)):  # Horner
            total = total * square + float(coefficients[j]) * stats.p_series[j, None, :k]
        total = inner * (total * cosine + stats.p_linear[None, :k] / 4)
        return jnp.sum(total, axis=1)

    def loss(self, params, stats, batch, noise_level, key):
        """With noise before the activations that of the net which has it."""
        return super().loss(params, self.noisy(stats, noise_level), batch, None, key)[0], stats

    def noisy(self, memory: Memory, noise_level) -> Memory:
        """The sums as the output sees them through noise before the activations."""
        if noise_level is None:
            return memory
        return _forgetting(memory, _lapse(noise_level**2 / memory.variance))

    def move(self, hypers: Hypers, model: Model, batch: Any, phase) -> Model:
        """One step: what happens now is added to the sums, and all of them decay."""
        memory: Memory = model.stats
        rate, together = read_rate(hypers, phase), hypers.task["together"][phase]
        noise_level = read_activation_noise(hypers, phase)
        f = self.train_f(model.params, self.noisy(memory, noise_level), batch)
        y = batch.train.y
        lost = rate * hypers.weight_decay  # 1 - a
        log_decay = together * jnp.log1p(-lost)
        decay = jnp.exp(log_decay)
        steps = jnp.where(
            lost > 0, -jnp.expm1(log_decay) / jnp.where(lost > 0, lost, 1.0), together
        )
        source = rate * steps * y * jax.nn.sigmoid(-y * f) / self.fields.n  # gamma (-l')/N
        of_directions = product(source, batch.train.q_coefficients)
        kept, fresh = decay**2 * memory.variance, jnp.float32(0)
        if hypers.tau_xi is not None:
            squares = -jnp.expm1(2 * log_decay) / jnp.where(lost > 0, lost * (2 - lost), 1.0)
            fresh = (rate * hypers.tau_xi) ** 2 * jnp.where(lost > 0, squares, together)
        # Without noise v only shrinks, and nothing is ever forgotten.
        lapse = _lapse(jnp.where(fresh > 0, fresh / kept, 0.0))
        now = Memory(
            p_linear=source,
            p_series=jnp.broadcast_to(source, memory.p_series.shape),
            p_self=jnp.broadcast_to(source, memory.p_self.shape),
            q_linear=of_directions,
            q_fit=jnp.broadcast_to(of_directions, memory.q_fit.shape),
            variance=memory.variance,
        )

        def share(exponents):  # mean of e^-x, e^-x(1 - 1/k), .. e^-x/k for the k parts, x whole
            part = exponents * lapse / together
            mean = jnp.expm1(-exponents * lapse) / (together * jnp.expm1(-part))
            return jnp.exp(-part) * jnp.where(part > 0, mean, 1.0)

        new = _scaled(self.noisy(now, noise_level), share)
        old = _forgetting(memory, lapse)
        # (a^k - 1) old + old: a^k itself would be rounded the same way in every step.
        grown = jax.tree.map(lambda old, new: old + (jnp.expm1(log_decay) * old + new), old, new)
        return Model({}, grown._replace(variance=kept + fresh))


def _lapse(share):
    """By how much the clock sigma advances where noise of this share of v comes on top of it."""
    return 0.5 * jnp.log1p(share)


def _forgetting(memory: Memory, lapse) -> Memory:
    """The sums after a lapse of the clock: each exponential by its rate."""
    return _scaled(memory, lambda exponents: jnp.exp(-exponents * lapse))


def _scaled(memory: Memory, factor) -> Memory:
    """The sums times a function of the rates of their exponentials."""
    of_series = factor(2.0 * jnp.arange(memory.p_series.shape[0], dtype=jnp.float32) + 1)[:, None]
    of_fit = factor(jnp.asarray(FIT_RATES, jnp.float32))[:, None]
    return memory._replace(
        p_series=of_series * memory.p_series,
        p_self=of_fit * memory.p_self,
        q_fit=of_fit * memory.q_fit,
    )


def _cosine(inner, squares_a, squares_b):
    """Cosines of angles, (n, m), 0 where an input is zero."""
    norms = jnp.sqrt(squares_a[:, None] * squares_b[None, :])
    return jnp.where(norms > 0, inner / jnp.where(norms > 0, norms, 1.0), 0.0)
