"""`python -m resdet.ops`: which operators were compiled, and what runs where they were not."""

import torch

from resdet.ops import library

if __name__ == "__main__":
    if "cpu" in library.DEVICES:
        best = library.INSTRUCTION_SETS[torch.ops.resdet.instruction_set()]
        print(f"CPU: resdet's own operators, for {best}, loaded into torch {torch.__version__}")
    else:
        print(f"CPU: torchvision's operators, with torch {torch.__version__}; resdet's were not built")
    own = "resdet's own" if "cuda" in library.DEVICES else "torchvision's"
    print(f"GPU: {own} operators; batch norm and convolutions are torch's")
