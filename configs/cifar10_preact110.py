"""The pre-activation ResNet-110 on CIFAR-10 (He et al. 2016, Table 3: 6.37 %)."""

from resdet.config import cifar10

config = cifar10(110, warm_up=True, order="full_preactivation")
