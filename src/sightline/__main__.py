"""The `sightline` command, also as `python -m sightline`."""

import signal


def main() -> None:
    """Load the command line and run it."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing has begun yet: Ctrl-C just ends it, without a traceback
    from sightline.cli import main as run

    try:
        run()
    finally:
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done; the exit code is that of the command


if __name__ == "__main__":
    main()
