"""``python -m slicewise`` is the command ``slicewise``."""

from slicewise.cli import main

if __name__ == "__main__":
    main()
