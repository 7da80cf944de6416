"""Records the conversations of the version at hand: `python -m tests.vectors.conversations`."""

import sys

import kosreg
from tests.vectors.conversations.record import HERE, write

try:
    for path in write(HERE / kosreg.__version__):
        print(path.relative_to(HERE))
except FileExistsError:
    sys.exit(
        f"kosreg {kosreg.__version__} is recorded already, and what a version said does not change any more. "
        "For a version that was never released, remove its directory first."
    )
