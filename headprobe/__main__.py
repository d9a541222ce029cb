"""``python -m headprobe``: the same command line as the ``headprobe`` script."""

from headprobe.cli import app

if __name__ == "__main__":
    app(prog_name="headprobe")
