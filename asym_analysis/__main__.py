"""`python -m asym_analysis` is `asym`."""

from asym_analysis.cli import main

if __name__ == "__main__":
    main()
