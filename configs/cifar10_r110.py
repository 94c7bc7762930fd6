"""ResNet-110 on CIFAR-10 (He et al. 2015, Table 6: 6.43 %, mean of five 6.61 %)."""

from resdet.config import cifar10

config = cifar10(110, warm_up=True)
