"""``python -m vlg_lib``: the command ``vlg`` under another name, for launchers
that start a module.
"""

from vlg_lib.cli import main

if __name__ == "__main__":
    main()
