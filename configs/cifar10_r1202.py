"""ResNet-1202 on CIFAR-10 (He et al. 2015, Table 6: 7.93 %)."""

from resdet.config import cifar10

config = cifar10(1202, warm_up=True)
