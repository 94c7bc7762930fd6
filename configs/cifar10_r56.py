"""ResNet-56 on CIFAR-10 (He et al. 2015, Table 6: 6.97 %)."""

from resdet.config import cifar10

config = cifar10(56)
