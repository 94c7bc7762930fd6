"""ResNet-18 on ImageNet (He et al. 2015, Tables 2 and 3: top-1 error 27.88 % with 10 crops and shortcuts A)."""

from resdet.config import ClsConfig, ClsModelConfig

config = ClsConfig(model=ClsModelConfig(depth=18))
