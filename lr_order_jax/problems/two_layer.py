"""The two-layer network of section 2 on the paper's distribution: (3.1)-(3.2) on U.

Its `structure` is the main text's, or one of the two of appendix F. m units, second layer u:

    separate      f = w^T relu(W x1) + v^T relu(V x2)     each unit sees one block, U = [W; V]
    coupled       f = u^T relu(W x1 + V x2)               each unit sees both blocks, U = [W, V]
    convolution   f = u^T relu(U x1) + u^T relu(U x2)     each filter is applied to both blocks

In all three r and g are the outputs on one pattern alone, f at (x1, 0) and at (0, x2): r(x1) =
w^T relu(W x1) and g(x2) = v^T relu(V x2) with w = v = u in the last two, and V = W in the
convolution. Only in the coupled one is f not r + g.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lr_order_jax import fields
from lr_order_jax.algorithm import stationary_tau_xi
from lr_order_jax.fields import ConfigError
from lr_order_jax.models import two_layer as net
from lr_order_jax.models.two_layer import product
from lr_order_jax.problem import Model
from lr_order_jax.problems import probes, synthetic
from lr_order_jax.problems.synthetic import Examples


class Sample(NamedTuple):
    """The data of one seed, and what the probe `lemma_5_3` makes of them once."""

    train: Examples
    test: Examples
    w_star: jax.Array
    directions: jax.Array
    fit: jax.Array | None  # (d, k): `probes.fit_of_alpha` of the first k test examples


class TwoLayer(synthetic.Synthetic):
    """Problem `two_layer`."""

    @dataclasses.dataclass(frozen=True)
    class Fields(synthetic.SyntheticFields):
        structure: str = fields.choice("separate", "coupled", "convolution")
        m_w: int = fields.integer(1, outer=True)  # width of W
        m_v: int = fields.integer(1, outer=True)  # width of V
        tau0_w: float = fields.non_negative(outer=True)  # deviation of the initial weights
        tau0_v: float = fields.non_negative(outer=True)
        u_law: str = fields.choice("sign", "gaussian")
        v_representation: str = fields.choice("planar", "ambient")
        noise_law: str = fields.choice("weights", "units")  # of the noise before activations
        noise_in: str = fields.choice("pattern", "both")  # which occurrence of U in (2.6) has it
        probes: tuple[str, ...] = fields.choice(
            *probes.PROBES, many=True, swept=False, optional=True
        )

    @classmethod
    def build(cls, section):
        problem = super().build(section)
        c = problem.fields
        told = f"config.structure = {c.structure!r}"
        if c.structure != "separate" and c.m_w != c.m_v:
            raise ConfigError(f"{told}: m_w = {c.m_w} and m_v = {c.m_v} must be equal")
        if c.structure == "convolution" and c.tau0_w != c.tau0_v:
            raise ConfigError(
                f"{told}: tau0_w = {c.tau0_w:g} and tau0_v = {c.tau0_v:g} must be equal"
            )
        if c.structure == "convolution" and c.v_representation != "ambient":
            raise ConfigError(
                f"{told}: v_representation = {c.v_representation!r} must be 'ambient'"
            )
        return problem

    @property
    def variables(self):
        return {**super().variables, **probes.variables(self.fields.probes)}

    @property
    def figures(self):
        return (*super().figures, "lemmas") if self.fields.probes else super().figures

    def make_data(self, key, shared) -> Sample:
        sample, fit = synthetic.make_data(self.fields, key), None
        if "lemma_5_3" in self.fields.probes:
            fit = probes.fit_of_alpha(sample.test.x1[: probes.NUM_FIT], sample.train)
        return Sample(*sample, fit)

    def init(self, key) -> Model:
        """U_0 ~ N(0, tau_0^2) entrywise, tau_0 by block; u fixed at its draw."""
        c = self.fields
        key_w, key_v, key_u = jax.random.split(key, 3)
        key_uw, key_uv = jax.random.split(key_u)
        params = self._gaussian(key_w, key_v)
        w = net.second_layer(key_uw, c.m_w, c.u_law)
        v = net.second_layer(key_uv, c.m_v, c.u_law) if c.structure == "separate" else w
        return Model(params, stats={"w": w, "v": v}, watched=probes.init(c.probes, params))

    def _gaussian(self, key_w, key_v) -> dict[str, Any]:
        """N(0, tau_0^2) entrywise, like the parameters; a convolution's V is its W."""
        blocks = {"W": self._gaussian_w(key_w)}
        if self.fields.structure != "convolution":
            blocks["V"] = self._gaussian_v(key_v)
        return blocks

    def _gaussian_w(self, key):
        """N(0, tau_0^2) entrywise, like W."""
        return self.fields.tau0_w * jax.random.normal(key, (self.fields.d, self.fields.m_w))

    def _gaussian_v(self, key):
        """N(0, tau_0^2) entrywise, like V."""
        c = self.fields
        if c.v_representation == "ambient":
            return c.tau0_v * jax.random.normal(key, (c.d, c.m_v))
        draws = c.tau0_v * jax.random.normal(key, (2, c.m_v))
        return {"z": draws[0], "zeta": draws[1]}

    def widths(self):
        c = self.fields
        return {"V": (c.m_v, c.tau0_v), "W": (c.m_w, c.tau0_w)}  # in the order of tree leaves

    def tau_xi(self, values) -> dict[str, float]:
        """Noise deviation a block: Assumption 3.1 at eta_1 unless set, times noise_scale."""
        c = self.fields

        def block(tau_0):
            if values["tau_xi"] is not None:
                return values["noise_scale"] * values["tau_xi"]
            return values["noise_scale"] * stationary_tau_xi(tau_0, c.eta_1, values["lam"])

        if c.structure == "convolution":
            return {"W": block(c.tau0_w)}
        return {"W": block(c.tau0_w), "V": block(c.tau0_v)}

    def train_r(self, params, stats, own):
        r = net.block_output(stats["w"], params["W"], own.train.x1)  # (3.6)
        return synthetic.of_all(r, own.train.y.shape[0])

    def test_r(self, params, stats, own):
        return net.block_output(stats["w"], params["W"], own.test.x1)

    @property
    def _slopes(self) -> tuple[float, ...]:
        """The three directions in the plane of Q: z + slope zeta/|zeta|, whatever the plane."""
        return (0.0, self.fields.r, -self.fields.r)

    def g_of_directions(self, params, stats, own):
        if self.fields.v_representation == "planar":
            return net.planar_output(stats["v"], params["V"], self._slopes)
        return net.block_output(stats["v"], probes.v_of(params), own.directions)  # (3.5)

    def f(self, params, stats, own, examples, r):
        if self.fields.structure != "coupled":
            return super().f(params, stats, own, examples, r)
        before_v = product(examples.q_coefficients, self.before_v(params, own))
        before_w = synthetic.of_all(self.before_w(params, examples), examples.y.shape[0])
        return product(jax.nn.relu(before_w + before_v), stats["w"])

    def before_w(self, params, examples):
        """W x1 of the first k examples, (k, m_w); it is zero for the others."""
        return net.before(examples.x1, params["W"])

    def before_v(self, params, own):
        """V x2 at the three directions, (3, m_v)."""
        v = probes.v_of(params)
        if self.fields.v_representation == "planar":
            return jnp.stack([net.planar_before(v, slope) for slope in self._slopes])
        return net.before(own.directions, v)

    # Noise before the activations (F.1).

    def loss(self, params, stats, batch, noise_level, key):
        """L(U); with noise before the activations that of f under fresh noise.

        In `noise_in = "pattern"` the noise decides which units are active and does not enter the
        output: f = N_A(u, U; x) (2.6), A x = U x + noise. In "both" it does both: f = N_A(u, A; x).
        Its deviation is noise_level tau_0 |x|, either fresh for each weight and the same for all
        examples (`noise_law = "weights"`: A = U + Xi) or fresh for each unit and example ("units").
        """
        if noise_level is None:
            return super().loss(params, stats, batch, None, key)
        f = self._noisy_f(params, stats, batch, noise_level, key)
        return jnp.mean(synthetic.logistic_loss(f, batch.train.y)), stats

    def _noisy_f(self, params, stats, own, noise_level, key):
        key_w, key_v = jax.random.split(key)
        by_weight = self.fields.noise_law == "weights"
        coupled = self.fields.structure == "coupled"
        of_examples = lambda v: product(own.train.q_coefficients, v)  # noqa: E731
        before_w, before_v = self.before_w(params, own.train), self.before_v(params, own)
        if by_weight:
            xi = self._gaussian(key_w, key_v)
            w, v = self.before_w(xi, own.train), self.before_v(xi, own)
            if coupled:
                before_v, v = of_examples(before_v), of_examples(v)
        else:
            length = jnp.linalg.norm(own.train.x1, axis=1)[:, None] * self.fields.tau0_w
            w = length * jax.random.normal(key_w, before_w.shape)
            before_v = of_examples(before_v)  # (n, m_v)
            length = of_examples(jnp.linalg.norm(own.directions, axis=1))[:, None]
            v = length * self.fields.tau0_v * jax.random.normal(key_v, before_v.shape)
        count = own.train.y.shape[0]
        if coupled:
            before_w, w = synthetic.of_all(before_w, count), synthetic.of_all(w, count)
            return self._noisy(stats["w"], before_w + before_v, noise_level * (w + v))
        r = synthetic.of_all(self._noisy(stats["w"], before_w, noise_level * w), count)
        g = self._noisy(stats["v"], before_v, noise_level * v)
        return r + (of_examples(g) if by_weight else g)

    def _noisy(self, u, before, noise):
        shown = before + noise if self.fields.noise_in == "both" else before
        return net.output_by_pattern(u, shown, before + noise)

    # What analyses ask for (`ShowsActivations`).

    def activations(self, data, task, model):
        """relu(W x1) on the training examples with a P pattern and relu(V x2) on the three
        directions; of the coupled structure relu(W x1 + V x2) on all training examples."""
        own, params = data.own, model.params
        before_w, before_v = self.before_w(params, own.train), self.before_v(params, own)
        if self.fields.structure == "coupled":
            count = own.train.y.shape[0]
            before = product(own.train.q_coefficients, before_v)
            before = before + synthetic.of_all(before_w, count)
            return {"units": (jax.nn.relu(before), jnp.ones(count, bool))}
        has_p = own.train.group[: before_w.shape[0]] != 1
        return {
            "W": (jax.nn.relu(before_w), has_p),
            "V": (jax.nn.relu(before_v), jnp.ones(3, bool)),
        }

    # Probes.

    def watch(self, hypers, model, batch, grads, phase, noise_level, key):
        def loss_on_m2(w):
            params = model.params | {"W": w}
            if noise_level is None:
                f = self.train_f(params, model.stats, batch)
            else:
                f = self._noisy_f(params, model.stats, batch, noise_level, key)
            in_m2 = batch.train.group != 0
            losses = synthetic.logistic_loss(f, batch.train.y)
            return jnp.sum(jnp.where(in_m2, losses, 0.0)) / self.fields.n

        m2_grad = lambda: jax.grad(loss_on_m2)(model.params["W"])  # noqa: E731
        return probes.watch(model.watched, hypers, phase, grads, m2_grad)

    def summarize(self, data, task, model, sums):
        values = super().summarize(data, task, model, sums)
        own, stats, watched = data.own, model.stats, model.watched
        if "decomposition" in self.fields.probes:
            values |= probes.decomposition(
                stats,
                model.params,
                watched,
                lambda u: self.before_w(u, own.train),
                lambda u: self.before_v(u, own),
                own.train,
            )
        if "lemma_5_2" in self.fields.probes:
            values["m2_gradient_norm"] = jnp.linalg.norm(watched["m2_gradient"])
        if "lemma_5_3" in self.fields.probes:
            x1 = own.test.x1[: probes.NUM_FIT]
            values |= probes.lemma_5_3(stats["w"], model.params["W"], x1, own.fit)
        return values
