"""ResNet-50 on ImageNet (He et al. 2015, Tables 2 and 3: top-1 error 22.85 % with 10 crops)."""

from resdet.config import ClsConfig, ClsModelConfig

config = ClsConfig(model=ClsModelConfig(depth=50))
