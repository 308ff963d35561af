"""Reproduces the CIFAR tables of *Averaging Weights Leads to Wider Optima* (SWA, 2018)."""

import signal
import sys

# Ctrl-C while a command is still importing ends it without a traceback. Later it is caught.
_is_command = sys.argv[0].rpartition("/")[2].startswith("swa-")
if _is_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
