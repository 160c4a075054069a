"""``python -m vlg_lib``: the command line."""

from vlg_lib.cli import main

if __name__ == "__main__":
    main()
