"""The WideResNet of `lr_order_jax.models.wide_resnet` in PyTorch: for timings and parity.

Images are (batch, 3, height, width).
"""

import torch


class Activation(torch.nn.Module):
    """relu(BN(x) + level eps), eps one image shared by examples and channels; in training only."""

    def __init__(self, channels: int):
        super().__init__()
        self.bn = torch.nn.BatchNorm2d(channels)

    def forward(self, x, level=None):
        x = self.bn(x)
        if self.training and level is not None:
            x = x + level * torch.randn(1, 1, *x.shape[2:], device=x.device)
        return torch.relu(x)


class Block(torch.nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()

        def conv(i, o, k, s):
            return torch.nn.Conv2d(i, o, k, s, k // 2, bias=False)

        self.act1, self.act2 = Activation(inputs), Activation(outputs)
        self.conv1, self.conv2 = conv(inputs, outputs, 3, stride), conv(outputs, outputs, 3, 1)
        self.shortcut = conv(inputs, outputs, 1, stride) if inputs != outputs else None

    def forward(self, x, level=None):
        active = self.act1(x, level)
        y = self.conv2(self.act2(self.conv1(active), level))
        return y + (x if self.shortcut is None else self.shortcut(active))


class TorchNet(torch.nn.Module):
    """WideResNet of depth 16."""

    def __init__(self, widen: int, classes: int = 10):
        super().__init__()
        sizes = [16, 16 * widen, 32 * widen, 64 * widen]
        self.conv = torch.nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.blocks = torch.nn.ModuleList()
        for group in range(3):
            stride = 1 if group == 0 else 2
            self.blocks.append(Block(sizes[group], sizes[group + 1], stride))
            self.blocks.append(Block(sizes[group + 1], sizes[group + 1], 1))
        self.act = Activation(sizes[3])
        self.linear = torch.nn.Linear(sizes[3], classes)

    def forward(self, x, level=None):
        x = self.conv(x)
        for block in self.blocks:
            x = block(x, level)
        return self.linear(self.act(x, level).mean((2, 3)))
