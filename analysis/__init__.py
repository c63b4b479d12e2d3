"""Scripts that read the directories of runs, see the README. Ctrl-C ends them at once: what they
write is written whole or not at all."""

import signal
import sys

if sys.argv[:1] == ["-m"]:  # this package is imported for a script of its own, before all else
    signal.signal(signal.SIGINT, signal.SIG_DFL)
