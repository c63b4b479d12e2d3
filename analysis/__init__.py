"""Scripts that read the directories of runs, see the README. Ctrl-C ends them at once: what they
write is written whole or not at all."""

import signal
import sys

from lr_order_jax import progress

if sys.argv[:1] == ["-m"]:  # this package is imported for a script of its own, before all else
    progress.open_streams()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
