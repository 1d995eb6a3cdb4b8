"""Names and settings: `like` applied, `let` evaluated, formats looked up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from servecast.compiler import syntax as s
from servecast.compiler.formats import FORMATS, FP8_BLOCK, FP16, Format, int4
from servecast.compiler.program import Formats
from servecast.compiler.suggest import did_you_mean
from servecast.compiler.words import OPENING_WORDS, OPTION_WORDS

MAX_VALUE = 10**15  # of any expression; the largest model has 10**13 parameters
MAX_LIKE_DEPTH = 20
INT4_GROUP = 128  # where a spec says int4 alone: AWQ's and GPTQ's usual group
FP8_BLOCK_SIDE = 128
PLAIN_FORMATS = {name: each for name, each in FORMATS.items() if each != FP8_BLOCK}


@dataclass(slots=True)
class Scope:
    """The values that `let` gives to names; evaluated when first used, so their order is free."""

    source: s.SourceText
    bindings: Mapping[str, s.Binding]
    _values: dict[str, int] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)

    def value(self, expr: s.Expr) -> int:
        match expr:
            case s.Number():
                return expr.value
            case s.Name():
                return self._binding(expr)
            case s.Binary():
                return self._combine(expr, self.value(expr.left), self.value(expr.right))

    def positive(self, expr: s.Expr, what: str) -> int:
        value = self.value(expr)
        if value <= 0:
            raise self.source.error(expr.at, f"{what} must be positive, got {value}")
        return value

    def _binding(self, name: s.Name) -> int:
        if name.name in self._values:
            return self._values[name.name]
        binding = self.bindings.get(name.name)
        if binding is None and name.name in OPTION_WORDS:
            raise self.source.error(name.at, f"expected a size, found the word {name.name!r}")
        if binding is None:
            hint = did_you_mean(name.name, self.bindings)
            raise self.source.error(name.at, f"unknown name {name.name!r}{hint}")
        if name.name in self._open:
            chain = " -> ".join([*self._open, name.name])
            raise self.source.error(name.at, f"{name.name!r} is defined by itself: {chain}")
        if len(self._open) >= MAX_LIKE_DEPTH:
            raise self.source.error(
                name.at, f"names refer to names more than {MAX_LIKE_DEPTH} deep"
            )
        self._open.append(name.name)
        self._values[name.name] = self.value(binding.value)
        self._open.pop()
        return self._values[name.name]

    def _combine(self, expr: s.Binary, left: int, right: int) -> int:
        match expr.symbol:
            case "+":
                value = left + right
            case "-":
                value = left - right
            case "*":
                value = left * right
            case _:
                if right == 0 or left % right:
                    message = f"{left} is not a whole multiple of {right}"
                    raise self.source.error(expr.at, message)
                value = left // right
        if abs(value) > MAX_VALUE:
            raise self.source.error(expr.at, f"the value exceeds {MAX_VALUE:,}")
        return value


@dataclass(frozen=True, slots=True)
class Definition:
    """A model with everything its base gave it."""

    name: str
    at: s.Span
    source_name: str
    context: s.Context | None
    format_settings: Mapping[str, s.FormatRef]
    scope: Scope
    blocks: Mapping[str, s.Block]
    body: s.Body


def define(model: s.Model, models: Mapping[str, s.Model], source: s.SourceText) -> Definition:
    """A model's own settings over those of the models it is like."""
    chain = _ancestry(model, models, source)
    settings = [setting for m in chain for setting in m.settings]
    for m in chain:
        _refuse_repeated_settings(m, source)
    sources = [x.text for x in settings if isinstance(x, s.Source)]
    contexts = [x for x in settings if isinstance(x, s.Context)]
    bindings = {x.name: x for x in settings if isinstance(x, s.Binding)}
    return Definition(
        name=model.name,
        at=model.at,
        source_name=sources[-1] if sources else "",
        context=contexts[-1] if contexts else None,
        format_settings={x.role: x.format for x in settings if isinstance(x, s.FormatSetting)},
        scope=Scope(source, bindings),
        blocks={x.name: x for x in settings if isinstance(x, s.Block)},
        body=_body(chain, source),
    )


def _ancestry(model: s.Model, models: Mapping[str, s.Model], source: s.SourceText) -> list[s.Model]:
    """The model and those it is like, oldest first."""
    chain = [model]
    while (base := chain[-1].like) is not None:
        if base not in models:
            hint = did_you_mean(base, models)
            raise source.error(chain[-1].at, f"like {base!r}: no such model in this file{hint}")
        if any(base == m.name for m in chain):
            names = " -> ".join([*(m.name for m in chain), base])
            raise source.error(chain[-1].at, f"{base!r} is like itself: {names}")
        chain.append(models[base])
        if len(chain) > MAX_LIKE_DEPTH:
            raise source.error(model.at, f"like goes more than {MAX_LIKE_DEPTH} models deep")
    return chain[::-1]


def _refuse_repeated_settings(model: s.Model, source: s.SourceText) -> None:
    seen: dict[tuple[str, str], s.Span] = {}
    for setting in model.settings:
        match setting:
            case s.Source():
                key = ("source", "")
            case s.Context():
                key = ("context", "")
            case s.FormatSetting():
                key = (setting.role, "")
            case s.Binding():
                key = ("let", setting.name)
            case s.Block():
                key = ("block", setting.name)
        if key in seen:
            what = " ".join(filter(None, key))
            raise source.error(setting.at, f"{what} is already given on line {seen[key].line}")
        seen[key] = setting.at


def _body(chain: list[s.Model], source: s.SourceText) -> s.Body:
    """The oldest model's operators, with the repeat counts that its siblings give."""
    body = chain[0].body
    for repeat in body:
        if isinstance(repeat, s.Repeat) and repeat.body is None:
            raise source.error(
                repeat.at, "repeat needs a { body } here; only a `like` model omits it"
            )
    for sibling in chain[1:]:
        body = _with_counts(body, sibling, source)
    return body


def _with_counts(body: s.Body, sibling: s.Model, source: s.SourceText) -> s.Body:
    counts: list[s.Expr] = []
    for statement in sibling.body:
        if not isinstance(statement, s.Repeat) or statement.body is not None:
            message = (
                f"{sibling.name!r} is like {sibling.like!r} and takes its operators; "
                "change settings, let, block, or repeat counts"
            )
            raise source.error(statement.at, message)
        counts.append(statement.count)
    if not counts:
        return body
    repeats = sum(isinstance(statement, s.Repeat) for statement in body)
    if len(counts) != repeats:
        message = f"repeat counts given: {len(counts)}; repeats in {sibling.like!r}: {repeats}"
        raise source.error(sibling.body[0].at, message)
    left = iter(counts)
    return tuple(s.Repeat(next(left), x.body, x.at) if isinstance(x, s.Repeat) else x for x in body)


def check_blocks(definition: Definition) -> None:
    """Refuses names that are no block, before widths are followed past them.

    Raises:
        SpecError: an unknown operator or block.
    """
    open_bodies = [definition.body, *(block.body for block in definition.blocks.values())]
    while open_bodies:
        for statement in open_bodies.pop(0):
            open_bodies += _bodies(statement)
            if isinstance(statement, s.BlockCall) and statement.name not in definition.blocks:
                known = [*definition.blocks, *OPENING_WORDS, *OPTION_WORDS]
                hint = did_you_mean(statement.name, known)
                operators = "" if hint else f"; operators: {', '.join(OPENING_WORDS)}"
                message = f"unknown operator or block {statement.name!r}{hint}{operators}"
                raise definition.scope.source.error(statement.at, message)


def _bodies(statement: s.Statement) -> list[s.Body]:
    match statement:
        case s.Residual() | s.Repeat():
            return [] if statement.body is None else [statement.body]
        case s.Parallel():
            return list(statement.bodies)
        case s.ExpertsOperation():
            return [statement.body, statement.always]
        case _:
            return []


def find_format(ref: s.FormatRef, source: s.SourceText) -> Format:
    """The number format that a spec names."""
    size = ref.block if ref.block is not None else ref.group
    if size is not None and size < 1:
        raise source.error(ref.at, f"{ref.name}: a scale covers at least 1 weight, got {size}")
    match ref:
        case s.FormatRef("int4", None, _):
            return int4(ref.group or INT4_GROUP)
        case s.FormatRef("fp8", int(block), None):
            name = FP8_BLOCK.name if block == FP8_BLOCK_SIDE else f"{FP8_BLOCK.name}{block}"
            return Format(name, 8, scale_bits=32, scale_elements=block**2, block_side=block)
        case s.FormatRef(name, None, None) if name in PLAIN_FORMATS:
            return PLAIN_FORMATS[name]
        case s.FormatRef(name) if name in (*PLAIN_FORMATS, "int4"):
            message = (
                f"{name} takes no block or group here; fp8 per block 128 and int4 group 128 do"
            )
            raise source.error(ref.at, message)
    hint = did_you_mean(ref.name, [*PLAIN_FORMATS, "int4"])
    known = ", ".join([*PLAIN_FORMATS, "fp8 per block 128", "int4 group 128"])
    raise source.error(ref.at, f"unknown format {ref.name!r}{hint}; known: {known}")


def model_formats(definition: Definition) -> Formats:
    """The formats of a model; what is not said follows from the activations."""
    settings = definition.format_settings
    source = definition.scope.source
    found = {role: find_format(ref, source) for role, ref in settings.items()}
    plain = Formats()
    weights = found.get("weights", plain.weights)
    activations = found.get("activations", FP16 if weights == FP16 else plain.activations)
    wide = activations if activations.bits >= 16 else plain.wide
    return Formats(
        weights=weights,
        activations=activations,
        kv_cache=found.get("kv_cache", wide),
        communication=found.get("communication", wide),
        wide=wide,
    )
