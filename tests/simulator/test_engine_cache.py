"""The engine is compiled once for a machine, not once for a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).parent
PROGRAM = f"""
import sys
sys.path.insert(0, {str(HELPERS)!r})
from engine_cases import random_case
from servecast.simulator.engine.compiled import compile_engine
from servecast.simulator.engine import routing
compiled = compile_engine()
routing.compile_engine = lambda: compiled
routing.Engine().run(*random_case(3))
print(sum(compiled.stats.cache_hits.values()), sum(compiled.stats.cache_misses.values()))
"""


def cache_hits_and_misses(home: Path) -> str:
    environment = os.environ | {"XDG_CACHE_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_a_later_process_loads_what_the_first_compiled(tmp_path: Path) -> None:
    assert cache_hits_and_misses(tmp_path) == "0 1"
    assert cache_hits_and_misses(tmp_path) == "1 0"
