"""The pre-activation ResNet-1001 with bottlenecks on CIFAR-10 (He et al. 2016, Table 3: 4.92 %)."""

from resdet.config import cifar10

config = cifar10(1001, warm_up=True, order="full_preactivation", bottleneck=True, shortcut="B")
