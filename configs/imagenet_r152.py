"""ResNet-152 on ImageNet (He et al. 2015, Tables 2 and 3: top-1 error 21.43 % with 10 crops)."""

from resdet.config import ClsConfig, ClsModelConfig

config = ClsConfig(model=ClsModelConfig(depth=152))
