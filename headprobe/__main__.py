"""``python -m headprobe``: the same command line as the ``headprobe`` script."""

from headprobe.cli.app import main

if __name__ == "__main__":
    main()
