"""Every shipped model has the parameters of its published checkpoint, to the last one."""

from __future__ import annotations

from pathlib import Path

import pytest

from servecast.compiler.catalog import compile_text
from servecast.compiler.load import read_text

SPEC = Path(__file__).parents[2] / "spec"

# Model, spec, parameters. Source: the model's page and config.json under its name on Hugging Face.
PUBLISHED = [
    ("llama-3.1-8b", "llama.llm", 8_030_261_248),  # meta-llama/Llama-3.1-8B, safetensors total
    ("llama-3.1-70b", "llama.llm", 70_553_706_496),  # meta-llama/Llama-3.1-70B
]


@pytest.mark.parametrize(("model", "file", "parameters"), PUBLISHED)
def test_parameters_equal_the_published_count(model: str, file: str, parameters: int) -> None:
    program = compile_text(read_text(SPEC / file), file).model(model)
    assert program.parameters == parameters
