"""The plain network of 32 layers on CIFAR-10 (He et al. 2015, Fig. 6 left)."""

from resdet.config import cifar10

config = cifar10(32, shortcut="none")
