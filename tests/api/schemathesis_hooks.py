"""For schemathesis, which knows no type of its own for the pieces of an upload: they are bytes."""

from __future__ import annotations

import schemathesis

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
