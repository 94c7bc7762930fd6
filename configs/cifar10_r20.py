"""ResNet-20 on CIFAR-10 (He et al. 2015, Table 6: 8.75 %)."""

from resdet.config import cifar10

config = cifar10(20)
