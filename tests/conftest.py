"""What tests share: real traces and measurements from outside the repository, and a user's cache."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
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


@pytest.fixture(scope="session")
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For XDG_CACHE_HOME: the engine as it is compiled already, and a profile store of its own."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "servecast").mkdir()
    compiled = Path(platformdirs.user_cache_dir("servecast"))
    for path in compiled.iterdir() if compiled.is_dir() else ():
        if ".duckdb" not in path.name:
            (cache / "servecast" / path.name).symlink_to(path)
    return cache
