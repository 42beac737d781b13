"""Files of the package that are no modules: pages for browsers, and the manual.

They are read by the loader of the package, so from a directory and from within a zip file alike.
"""

from __future__ import annotations

import os
from typing import Any

_PACKAGE = os.path.dirname(__file__)


def read_resource(path: str) -> bytes:
    """Return the bytes of a file, by its path below the package. Raises OSError.

    Not by `importlib.resources`: that imports pathlib and tempfile, which a daemon has no other use for.
    """
    loader: Any = __spec__.loader
    data: bytes = loader.get_data(os.path.join(_PACKAGE, path))
    return data
