"""python -m cell2sen: the command line."""

from cell2sen.cli import main

if __name__ == "__main__":
    main()
