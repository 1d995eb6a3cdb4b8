"""Everything a `.llm` text declares, ready to use: programs, GPUs, services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TypeVar

from servecast.compiler import syntax as s
from servecast.compiler.check import define
from servecast.compiler.declarations import lower_service, lower_sku, lower_slo
from servecast.compiler.errors import UserError
from servecast.compiler.hardware import Sku
from servecast.compiler.lower import lower
from servecast.compiler.parse import parse, parse_slo_target
from servecast.compiler.program import Program
from servecast.compiler.service import Service, Slo
from servecast.compiler.suggest import did_you_mean

MAX_LAYERS_IN_FILE = 10_000  # the largest shipped file has a tenth of that

Named = TypeVar("Named", s.Model, s.SkuDeclaration, s.ServiceDeclaration)


@dataclass(frozen=True, slots=True)
class Spec:
    """A compiled file. The first model is its default."""

    path: str
    models: Mapping[str, Program]
    skus: Mapping[str, Sku]
    services: Mapping[str, Service]
    source: s.SourceText = field(repr=False)

    def model(self, name: str | None = None) -> Program:
        """A model by name, or the file's first.

        Raises:
            UserError: the file has no such model.
        """
        if not self.models:
            message = 'no model is declared, as in model "name" { … }'
            raise self.source.error(s.Span(1, 1, 2), message)
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            hint = did_you_mean(name, self.models)
            known = ", ".join(self.models)
            raise UserError(f"{self.path}: no model {name!r}{hint}; it declares {known}")
        return self.models[name]


def compile_text(text: str, path: str) -> Spec:
    """The declarations of a `.llm` text. ``path`` is only quoted in errors.

    Raises:
        SpecError: the text is wrong somewhere.
    """
    file = parse(text, path)
    models = _by_name(file, [d for d in file.declarations if isinstance(d, s.Model)])
    skus = _by_name(file, [d for d in file.declarations if isinstance(d, s.SkuDeclaration)])
    services = _by_name(file, [d for d in file.declarations if isinstance(d, s.ServiceDeclaration)])
    known_skus = {**skus, **shipped_skus()} if services else skus
    return Spec(
        path,
        _lower_models(models, file.source),
        {name: lower_sku(sku, file.source) for name, sku in skus.items()},
        {n: lower_service(service, file.source, known_skus) for n, service in services.items()},
        file.source,
    )


def _lower_models(models: Mapping[str, s.Model], source: s.SourceText) -> dict[str, Program]:
    """Every model of a file; siblings are short to write, so their layers are limited together."""
    programs: dict[str, Program] = {}
    num_layers = 0
    for name, model in models.items():
        programs[name] = lower(define(model, models, source))
        num_layers += programs[name].num_layers
        if num_layers > MAX_LAYERS_IN_FILE:
            message = f"the models up to here have more than {MAX_LAYERS_IN_FILE:,} layers in all"
            raise source.error(model.at, message)
    return programs


def parse_slo(text: str) -> Slo:
    """A latency target as the command line gives it: ``ttft p90 < 2 s``, ``tbt mean < 50 ms``.

    Raises:
        SpecError: not a target, or an unknown metric, statistic or unit.
    """
    target = parse_slo_target(text, "--slo")
    return lower_slo(target, s.SourceText("--slo", text))


def find_sku(spec: Spec, name: str) -> Sku:
    """A GPU by name: the spec's own first, then the shipped ones.

    Raises:
        UserError: neither declares it.
    """
    known = {**shipped_skus(), **spec.skus}
    if name not in known:
        hint = did_you_mean(name, known)
        raise UserError(f"unknown GPU {name!r}{hint}; known: {', '.join(known)}")
    return known[name]


@cache
def shipped_skus() -> Mapping[str, Sku]:
    """The GPUs that the project declares, by name."""
    text = files("servecast.spec").joinpath("skus.llm").read_text(encoding="utf-8")
    return compile_text(text, "skus.llm").skus


def _by_name(file: s.File, declarations: Sequence[Named]) -> dict[str, Named]:
    named: dict[str, Named] = {}
    for declaration in declarations:
        if declaration.name in named:
            line = named[declaration.name].at.line
            message = f"{declaration.name!r} is already declared on line {line}"
            raise file.source.error(declaration.at, message)
        named[declaration.name] = declaration
    return named
