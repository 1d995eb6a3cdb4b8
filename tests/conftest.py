"""What tests share: the folder of real traces and measurements that lies outside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The ``data`` folder of SERVECAST_SHARED; a test that needs it skips, or fails where CI asks for it."""
    root = Path(os.environ.get("SERVECAST_SHARED", "../shared"))
    data = (root if root.is_absolute() else REPOSITORY / root) / "data"
    if data.is_dir():
        return data
    reason = f"no real traces or profiles at {data}; set SERVECAST_SHARED to their folder"
    if os.environ.get("SERVECAST_REQUIRE_SHARED"):
        pytest.fail(reason)
    pytest.skip(reason)
