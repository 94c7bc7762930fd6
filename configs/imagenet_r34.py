"""ResNet-34 on ImageNet (He et al. 2015, Tables 2 and 3: top-1 error 24.52 % with 10 crops)."""

from resdet.config import ClsConfig, ClsModelConfig

config = ClsConfig(model=ClsModelConfig(depth=34))
