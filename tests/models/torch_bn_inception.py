"""BN-Inception in PyTorch, layer by layer under the flat names of its public weights.

Written after the layers and widths of `pretrainedmodels/models/bninception.py` (Cadene,
pretrained-models.pytorch) and `bn_inception.yaml` (TSN, tsn-pytorch), with which it shares the
names of parameters. Convolutions have biases; pools are in ceil mode; 3x3 average pools count
their padding; inception_5b pools by the maximum.
"""

import torch
from torch import nn
from torch.nn import functional as F

# name, channels in, channels out, side of the kernel, stride; padding keeps the size at stride 1.
CONVOLUTIONS = """
conv1_7x7_s2                     3   64  7 2
conv2_3x3_reduce                64   64  1 1
conv2_3x3                       64  192  3 1
inception_3a_1x1               192   64  1 1
inception_3a_3x3_reduce        192   64  1 1
inception_3a_3x3                64   64  3 1
inception_3a_double_3x3_reduce 192   64  1 1
inception_3a_double_3x3_1       64   96  3 1
inception_3a_double_3x3_2       96   96  3 1
inception_3a_pool_proj         192   32  1 1
inception_3b_1x1               256   64  1 1
inception_3b_3x3_reduce        256   64  1 1
inception_3b_3x3                64   96  3 1
inception_3b_double_3x3_reduce 256   64  1 1
inception_3b_double_3x3_1       64   96  3 1
inception_3b_double_3x3_2       96   96  3 1
inception_3b_pool_proj         256   64  1 1
inception_3c_3x3_reduce        320  128  1 1
inception_3c_3x3               128  160  3 2
inception_3c_double_3x3_reduce 320   64  1 1
inception_3c_double_3x3_1       64   96  3 1
inception_3c_double_3x3_2       96   96  3 2
inception_4a_1x1               576  224  1 1
inception_4a_3x3_reduce        576   64  1 1
inception_4a_3x3                64   96  3 1
inception_4a_double_3x3_reduce 576   96  1 1
inception_4a_double_3x3_1       96  128  3 1
inception_4a_double_3x3_2      128  128  3 1
inception_4a_pool_proj         576  128  1 1
inception_4b_1x1               576  192  1 1
inception_4b_3x3_reduce        576   96  1 1
inception_4b_3x3                96  128  3 1
inception_4b_double_3x3_reduce 576   96  1 1
inception_4b_double_3x3_1       96  128  3 1
inception_4b_double_3x3_2      128  128  3 1
inception_4b_pool_proj         576  128  1 1
inception_4c_1x1               576  160  1 1
inception_4c_3x3_reduce        576  128  1 1
inception_4c_3x3               128  160  3 1
inception_4c_double_3x3_reduce 576  128  1 1
inception_4c_double_3x3_1      128  160  3 1
inception_4c_double_3x3_2      160  160  3 1
inception_4c_pool_proj         576  128  1 1
inception_4d_1x1               608   96  1 1
inception_4d_3x3_reduce        608  128  1 1
inception_4d_3x3               128  192  3 1
inception_4d_double_3x3_reduce 608  160  1 1
inception_4d_double_3x3_1      160  192  3 1
inception_4d_double_3x3_2      192  192  3 1
inception_4d_pool_proj         608  128  1 1
inception_4e_3x3_reduce        608  128  1 1
inception_4e_3x3               128  192  3 2
inception_4e_double_3x3_reduce 608  192  1 1
inception_4e_double_3x3_1      192  256  3 1
inception_4e_double_3x3_2      256  256  3 2
inception_5a_1x1              1056  352  1 1
inception_5a_3x3_reduce       1056  192  1 1
inception_5a_3x3               192  320  3 1
inception_5a_double_3x3_reduce 1056 160  1 1
inception_5a_double_3x3_1      160  224  3 1
inception_5a_double_3x3_2      224  224  3 1
inception_5a_pool_proj        1056  128  1 1
inception_5b_1x1              1024  352  1 1
inception_5b_3x3_reduce       1024  192  1 1
inception_5b_3x3               192  320  3 1
inception_5b_double_3x3_reduce 1024 192  1 1
inception_5b_double_3x3_1      192  224  3 1
inception_5b_double_3x3_2      224  224  3 1
inception_5b_pool_proj        1024  128  1 1
"""


class BNInception(nn.Module):
    """[N, C, H, W] -> class scores [N, K]; `features` gives the map of inception_5b."""

    def __init__(self, num_classes=1000, channels=3):
        super().__init__()
        for line in CONVOLUTIONS.split("\n")[1:-1]:
            name, *numbers = line.split()
            fan_in, width, side, stride = map(int, numbers)
            fan_in = channels if name == "conv1_7x7_s2" else fan_in
            setattr(self, name, nn.Conv2d(fan_in, width, side, stride, side // 2))
            setattr(self, f"{name}_bn", nn.BatchNorm2d(width))
        self.last_linear = nn.Linear(1024, num_classes)

    def layer(self, x, name):
        return F.relu(getattr(self, f"{name}_bn")(getattr(self, name)(x)))

    def mixed(self, x, name, pool):
        """The side-by-side layers of a block that keeps the size of the map."""
        name = f"inception_{name}"
        three = self.layer(self.layer(x, f"{name}_3x3_reduce"), f"{name}_3x3")
        double = self.layer(x, f"{name}_double_3x3_reduce")
        double = self.layer(double, f"{name}_double_3x3_1")
        double = self.layer(double, f"{name}_double_3x3_2")
        pooled = self.layer(pool(x), f"{name}_pool_proj")
        return torch.cat([self.layer(x, f"{name}_1x1"), three, double, pooled], 1)

    def halved(self, x, name):
        """The side-by-side layers of a block that halves the map."""
        name = f"inception_{name}"
        three = self.layer(self.layer(x, f"{name}_3x3_reduce"), f"{name}_3x3")
        double = self.layer(x, f"{name}_double_3x3_reduce")
        double = self.layer(double, f"{name}_double_3x3_1")
        double = self.layer(double, f"{name}_double_3x3_2")
        # Of an odd side the pool has one position less than the convolutions, and the public
        # definitions fail. Here the map goes on to the next even side with nothing to find.
        odd = [x.shape[3] % 2, x.shape[2] % 2]
        x = F.pad(x, (0, odd[0], 0, odd[1]), value=-torch.inf)
        return torch.cat([three, double, F.max_pool2d(x, 3, 2, ceil_mode=True)], 1)

    def features(self, x):
        def average(x):
            return F.avg_pool2d(x, 3, 1, 1, ceil_mode=True, count_include_pad=True)

        def maximum(x):
            return F.max_pool2d(x, 3, 1, 1, ceil_mode=True)

        x = F.max_pool2d(self.layer(x, "conv1_7x7_s2"), 3, 2, ceil_mode=True)
        x = self.layer(self.layer(x, "conv2_3x3_reduce"), "conv2_3x3")
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for name in ("3a", "3b"):
            x = self.mixed(x, name, average)
        x = self.halved(x, "3c")
        for name in ("4a", "4b", "4c", "4d"):
            x = self.mixed(x, name, average)
        x = self.halved(x, "4e")
        return self.mixed(self.mixed(x, "5a", average), "5b", maximum)

    def forward(self, x):
        return self.last_linear(self.features(x).mean((2, 3)))
