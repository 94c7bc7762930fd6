"""ResNet-44 on CIFAR-10 (He et al. 2015, Table 6: 7.17 %)."""

from resdet.config import cifar10

config = cifar10(44)
