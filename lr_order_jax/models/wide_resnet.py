"""WideResNet (Zagoruyko and Komodakis 2016) as the authors' experiments run it, in Flax Linen.

Pre-activation blocks, no dropout, no bias in convolutions. Three groups of (depth - 4)/6 blocks
with 16k, 32k and 64k channels and strides 1, 2, 2; at the end batch norm, relu, mean over pixels,
linear. Where a block changes the number of channels, its 1x1 shortcut starts from the *activated*
input; elsewhere the shortcut is the raw input itself. With depth 16, widen factor 10 and 10 classes
it has 17,116,634 parameters.

**Activation noise** (section 6): at each of the 13 sites (two a block and the last) the network
computes relu(BN(x) + level * eps), eps ~ N(0, 1) fresh each forward pass, in training only. In the
authors' code eps is one image, shared by all examples and channels.

Images are (batch, height, width, channels). Parameters and statistics are float32; `dtype` is that
of the convolutions and products.
"""

from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

AXES = ("batch", "height", "width", "channel")


def _conv_init(key, shape, dtype=jnp.float32):
    """N(0, 2/(k k out)) for a kernel of shape (k, k, in, out)."""
    height, width, _, channels = shape
    return jax.random.normal(key, shape, dtype) * jnp.sqrt(2.0 / (height * width * channels))


def _linear_init(key, shape, dtype=jnp.float32):
    """U(-1/sqrt(in), 1/sqrt(in)) for a kernel of shape (in, out)."""
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with torch's running statistics.

    Flax's own differs in the running variance: torch's is the unbiased estimate. `momentum` is
    torch's: the weight of the new batch. Statistics are computed in float32.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        if train:
            wide = x.astype(jnp.float32)
            axes = tuple(range(x.ndim - 1))
            count = wide.size // wide.shape[-1]
            now_mean, now_var = jnp.mean(wide, axes), jnp.var(wide, axes)
            if not self.is_initializing():
                unbiased = now_var * (count / max(count - 1, 1))
                mean.value += self.momentum * (now_mean - mean.value)
                var.value += self.momentum * (unbiased - var.value)
        else:
            now_mean, now_var = mean.value, var.value
        gain = scale * jax.lax.rsqrt(now_var + self.epsilon)
        shift = bias - now_mean * gain
        lift = (1,) * (x.ndim - 1) + channels
        return (x.astype(jnp.float32) * gain.reshape(lift) + shift.reshape(lift)).astype(x.dtype)


class Activation(nn.Module):
    """One noise site: relu(BN(x) + level * eps); eps is shared along the `shared` axes."""

    shared: Collection[str]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, noise_level: Any) -> jax.Array:
        x = BatchNorm(name="bn")(x, train)
        if train and noise_level is not None:
            shape = [1 if a in self.shared else n for a, n in zip(AXES, x.shape, strict=True)]
            eps = jax.random.normal(self.make_rng("activation_noise"), shape)
            x = x + (noise_level * eps).astype(x.dtype)
        return nn.relu(x)


class _Block(nn.Module):
    channels: int
    stride: int
    shared: Collection[str]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, noise_level: Any) -> jax.Array:
        def conv(size: int, stride: int, name: str) -> nn.Conv:
            return nn.Conv(
                self.channels,
                (size, size),
                stride,
                padding=size // 2,  # explicit: SAME pads a stride of 2 on one side only
                use_bias=False,
                dtype=self.dtype,
                kernel_init=_conv_init,
                name=name,
            )

        active = Activation(self.shared, name="act1")(x, train, noise_level)
        if x.shape[-1] != self.channels:
            x = conv(1, self.stride, "shortcut")(active)
        y = conv(3, self.stride, "conv1")(active)
        y = Activation(self.shared, name="act2")(y, train, noise_level)
        return x + conv(3, 1, "conv2")(y)


class WideResNet(nn.Module):
    """Images (batch, height, width, 3) -> logits (batch, classes), float32.

    Attributes:
      depth: layers, 6 n + 4 for n blocks a group.
      widen_factor: k; the groups have 16 k, 32 k and 64 k channels.
      shared: axes (of `AXES`) along which the activation noise is one draw.
    """

    depth: int = 16
    widen_factor: int = 10
    classes: int = 10
    shared: Collection[str] = ("batch", "channel")
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, noise_level: Any = None) -> jax.Array:
        """Logits. In training, `noise_level` (a scalar, which may be traced; None: no noise at all,
        not even drawn) scales the noise of the `activation_noise` stream, and `batch_stats` must be
        mutable."""
        blocks, rest = divmod(self.depth - 4, 6)
        if rest:
            raise ValueError(f"depth = {self.depth}: must be 6 n + 4")
        x = nn.Conv(
            16, (3, 3), padding=1, use_bias=False, dtype=self.dtype, kernel_init=_conv_init,
            name="conv",
        )(x.astype(self.dtype))  # fmt: skip
        for group in range(3):
            for block in range(blocks):
                x = _Block(
                    16 * self.widen_factor * 2**group,
                    stride=2 if group > 0 and block == 0 else 1,
                    shared=self.shared,
                    dtype=self.dtype,
                    name=f"group{group + 1}_block{block + 1}",
                )(x, train, noise_level)
        x = Activation(self.shared, name="act")(x, train, noise_level)
        x = jnp.mean(x, axis=(1, 2))
        linear = nn.Dense(self.classes, dtype=self.dtype, kernel_init=_linear_init, name="linear")
        return linear(x).astype(jnp.float32)
