"""``python -m resdet`` is ``resdet``; ``torchrun -m resdet train-det …`` trains on several processes."""

from resdet.cli import main

if __name__ == "__main__":
    main()
