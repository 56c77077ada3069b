"""The audit log: one JSON line per request of a client, which tells later who was searched for, when and from where.

Keys: `time` (UTC, ISO 8601), `client` (address), `action`, and its details: the query, the ids of the images shown, the
SHA-256 of an uploaded picture (never the picture itself). Only the owner of the file can read it.
"""

import json
import os
import stat
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from utils.errors import UserError


class AuditLog:
    """Appends to a file. path None: no log.

    Raises: UserError if the file cannot be written.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._path = None if path is None else Path(path)
        self._lock = threading.Lock()
        try:
            self._append("")
        except OSError as error:
            raise UserError(f"cannot write the audit log {path}: {error.strerror}") from error

    def write(self, client: str, action: str, **details: Any) -> None:
        """Append one line. details: values for JSON.

        Raises: OSError if that fails. The client must not get an answer then.
        """
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        entry = {"time": time, "client": client, "action": action, **details}
        self._append(json.dumps(entry, ensure_ascii=False) + "\n")

    def _append(self, text: str) -> None:
        if self._path is None:
            return
        with self._lock:
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with open(handle, "a", encoding="utf-8") as file:
                mode = os.fstat(handle).st_mode
                if stat.S_ISREG(mode) and mode & 0o077:  # the file existed before
                    os.fchmod(handle, 0o600)
                file.write(text)
