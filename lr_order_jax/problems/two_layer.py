"""The two-layer network of section 2 on the paper's distribution: (3.1)-(3.2) on U = [W; V]."""

import dataclasses

import jax

from lr_order_jax import fields
from lr_order_jax.algorithm import stationary_tau_xi
from lr_order_jax.models import two_layer as net
from lr_order_jax.problem import Model
from lr_order_jax.problems import synthetic


class TwoLayer(synthetic.Synthetic):
    """Problem `two_layer`."""

    @dataclasses.dataclass(frozen=True)
    class Fields(synthetic.SyntheticFields):
        m_w: int = fields.integer(1)  # width of W
        m_v: int = fields.integer(1)  # width of V
        tau0_w: float = fields.non_negative()  # deviation of the initial weights
        tau0_v: float = fields.non_negative()
        u_law: str = fields.choice("sign", "gaussian")
        v_representation: str = fields.choice("planar", "ambient")

    def init(self, key) -> Model:
        """U_0 ~ N(0, tau_0^2) entrywise, tau_0 by block; u fixed at its draw."""
        c = self.fields
        key_w, key_v, key_u = jax.random.split(key, 3)
        if c.v_representation == "planar":
            draws = c.tau0_v * jax.random.normal(key_v, (2, c.m_v))
            v = {"z": draws[0], "zeta": draws[1]}
        else:
            v = c.tau0_v * jax.random.normal(key_v, (c.m_v, c.d))
        key_uw, key_uv = jax.random.split(key_u)
        return Model(
            params={"W": c.tau0_w * jax.random.normal(key_w, (c.m_w, c.d)), "V": v},
            stats={
                "w": net.second_layer(key_uw, c.m_w, c.u_law),
                "v": net.second_layer(key_uv, c.m_v, c.u_law),
            },
        )

    def tau_xi(self, values) -> dict[str, float]:
        """Noise deviation a block: Assumption 3.1 at eta_1 unless set, times noise_scale."""
        c = self.fields

        def block(tau_0):
            if values["tau_xi"] is not None:
                return values["noise_scale"] * values["tau_xi"]
            return values["noise_scale"] * stationary_tau_xi(tau_0, c.eta_1, values["lam"])

        return {"W": block(c.tau0_w), "V": block(c.tau0_v)}

    def train_r(self, params, stats, own):
        return net.block_output(stats["w"], params["W"], own.train.x1)  # (3.6)

    def test_r(self, params, stats, own):
        return net.block_output(stats["w"], params["W"], own.test.x1)

    def g_of_directions(self, params, stats, own):
        if self.fields.v_representation == "planar":  # these three points, whatever the plane
            slopes = (0.0, self.fields.r, -self.fields.r)
            return net.planar_output(stats["v"], params["V"], slopes)
        return net.block_output(stats["v"], params["V"], own.directions)  # (3.5)
