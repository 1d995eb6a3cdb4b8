"""A model in another precision: a sibling of it in the language's own words."""

from __future__ import annotations

from dataclasses import replace

from servecast.compiler.catalog import Spec, compile_text
from servecast.compiler.errors import UserError
from servecast.compiler.program import Program
from servecast.compiler.suggest import did_you_mean
from servecast.simulator.search.space import DECLARED

PRECISIONS = {
    DECLARED: "",
    "bf16": "weights bf16 activations bf16 kv_cache bf16",
    "fp16": "weights fp16 activations fp16 kv_cache fp16",
    "fp8": "weights fp8 activations fp8",
    "fp8-kv": "weights fp8 activations fp8 kv_cache fp8",
    "int4": "weights int4 activations bf16",
    "nvfp4": "weights nvfp4 activations nvfp4",
    "mxfp4": "weights mxfp4 activations bf16",
}
"""What a checkpoint of each name holds; the rest stays as the spec declares it."""


def at_precision(spec: Spec, model: str | None, precision: str) -> Program:
    """The model of ``spec`` with linear layers, their inputs and the cache in other formats.

    Raises:
        UserError: an unknown precision or model.
    """
    if precision not in PRECISIONS:
        hint = did_you_mean(precision, PRECISIONS)
        raise UserError(f"no precision {precision!r}{hint}; there are {', '.join(PRECISIONS)}")
    declared = spec.model(model)
    if precision == DECLARED:
        return declared
    sibling = f'\nmodel "{_NAME}" like "{declared.model}" {{ {PRECISIONS[precision]} }}\n'
    program = compile_text(spec.source.text + sibling, spec.path).models[_NAME]
    return replace(program, model=declared.model, source=declared.source)


_NAME = "the same in another precision"
