"""The two-layer network of section 2: f(x) = r(x1) + g(x2), U = [W; V], fixed second layer.

    r(x1) = w^T relu(W x1)   (3.6),      g(x2) = v^T relu(V x2)   (3.5)

Both are N_A(u, U; x) = u^T (1(A x) * U x) (2.6) with A = U; noise before the activations, or a part
of the weights alone, gives another A.

W sees the first block of an example only and V the second (the simplest structure of section 2).
Their arrays have a column for each unit, (d, width): the transposes of the paper's matrices.
Each block has a width of its own, and its second layer the scale 1/sqrt(width).

**Planar V.** Every x2 lies in the span of z and zeta, so only the projection of V on that plane
enters f, and the gradient of f lies in it. Initial weights and noise are Gaussian, so projected
they are Gaussian again: V is simulated exactly in distribution by its coordinates along z and
zeta/|zeta|, two vectors of length m_v instead of one matrix (d, m_v). They are two leaves rather
than the rows of one array: XLA's CPU backend then fuses the update without branches.
"""

import jax
import jax.numpy as jnp


def product(a, b):
    """a @ b in full float32: accelerators would otherwise multiply in TF32 or bfloat16."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def second_layer(key, width: int, law: str):
    """The fixed second layer of one block, (width,): E[u_i^2] = 1/width.

    The main text leaves the law of u open. `sign`: +-1/sqrt(width) with equal probability;
    `gaussian`: N(0, 1/width).
    """
    if law == "sign":
        return jax.random.rademacher(key, (width,), jnp.float32) / jnp.sqrt(jnp.float32(width))
    return jax.random.normal(key, (width,)) / jnp.sqrt(jnp.float32(width))


@jax.custom_vjp
def before(x, weights):
    """W x of each row of x: (n, d), (d, width) -> (n, width).

    Its gradient by the weights is x^T times a cotangent (n, width): as jax would write it, the
    other way round and transposed, XLA's CPU backend moves the whole of it once more in each step.
    """
    return product(x, weights)


def _before_forward(x, weights):
    return product(x, weights), (x, weights)


def _before_backward(kept, cotangent):
    x, weights = kept
    return product(cotangent, weights.T), product(x.T, cotangent)


before.defvjp(_before_forward, _before_backward)


def output_by_pattern(u, shown, decides):
    """N_A(u, U; x) of (2.6) from U x and A x, each (..., width): -> (...,)."""
    return product(jnp.where(decides >= 0, shown, 0.0), u)


def block_output(u, weights, x):
    """u^T relu(W x) for each row of x: (width,), (d, width), (n, d) -> (n,)."""
    return product(jax.nn.relu(before(x, weights)), u)


def planar_before(plane, slope: float):
    """V x2 at the point z + slope * zeta/|zeta|, (m_v,), for planar V.

    `plane` holds V's coordinates along `z` and `zeta` (unit vectors), each (m_v,).
    """
    return plane["z"] + slope * plane["zeta"]


def planar_output(v, plane, slopes: tuple[float, ...]):
    """g at the points z + slope * zeta/|zeta|, for planar V: -> (len(slopes),)."""
    return jnp.stack([_sum_of_active(v, planar_before(plane, s)) for s in slopes])


def _sum_of_active(u, before):
    """u^T relu(before), for one point: (width,), (width,) -> ().

    As a sum of products with relu(before) it is in XLA's CPU backend a call of a library that takes
    a step of a million units 6 times as long. What is no number stays so.
    """
    return jnp.sum(jnp.where(before <= 0, 0.0, u * before))
