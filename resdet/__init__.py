"""resdet: Faster R-CNN on a ResNet, as the papers wrote it."""

from resdet.config import load_config
from resdet.inference.detector import Detector

__version__ = "0.1.0"
__all__ = ["Detector", "__version__", "load_config"]
