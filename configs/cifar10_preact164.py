"""The pre-activation ResNet-164 with bottlenecks on CIFAR-10 (He et al. 2016, Table 3: 5.46 %)."""

from resdet.config import cifar10

config = cifar10(164, warm_up=True, order="full_preactivation", bottleneck=True, shortcut="B")
