"""The plain network of 34 layers on ImageNet (He et al. 2015, Table 2: top-1 error 28.54 % with 10 crops)."""

from resdet.config import ClsConfig, ClsModelConfig

config = ClsConfig(model=ClsModelConfig(depth=34, shortcut="none"))
