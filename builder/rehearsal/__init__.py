"""The rehearsal medium: a small install ISO that cannot be mistaken for the vendor's.

`builder.rehearsal.medium` builds it; `installer/` is a separate program under GPL-2.0-only that runs inside it.
"""

from __future__ import annotations
