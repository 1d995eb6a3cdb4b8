"""From a checked model to its program: rows followed, blocks expanded, layers found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from servecast.compiler import syntax as s
from servecast.compiler.check import Definition, check_blocks, model_formats
from servecast.compiler.experts import lower_routed
from servecast.compiler.flow import Context, Flow, add_site, expect_whole, join, read_options
from servecast.compiler.ir import Add, Embedding, Sample, SequenceOperator
from servecast.compiler.layers import Chunk, find_layers
from servecast.compiler.operators import OPERATORS
from servecast.compiler.program import Program, Site, Split

MAX_CHUNKS = 4_000  # blocks and repeats expanded; the deepest models have a few hundred
MAX_BLOCK_DEPTH = 20


def lower(definition: Definition) -> Program:
    """The program of a model.

    Raises:
        SpecError: a name, width, split or structure is wrong; the message says where.
    """
    context = Context(definition, model_formats(definition))
    source = context.source
    check_blocks(definition)
    if definition.context is None:
        raise source.error(definition.at, "the model does not give its context, as in context 8192")
    statements = definition.body
    repeats = [i for i, x in enumerate(statements) if isinstance(x, s.Repeat)]
    if not repeats:
        raise source.error(definition.at, "the model has no repeat { … }, so it has no layers")
    walk = _Walk(context)
    first, last = repeats[0], repeats[-1]
    prologue = walk.chunks(statements[:first])
    body = walk.chunks(statements[first : last + 1])
    hidden = walk.row(statements[first].at).width
    epilogue = walk.chunks(statements[last + 1 :])
    before, layers, after = find_layers(prologue, body, epilogue)
    if not any(_caches(site) for run in layers for site in run.sites):
        message = "the repeats hold no attention, so there are no layers to cache and cut"
        raise source.error(statements[first].at, message)
    _check_head(context, [*prologue, *body], epilogue)
    return Program(
        definition.name,
        source.path,
        definition.source_name,
        context.positive(definition.context.tokens, "context"),
        hidden,
        context.formats,
        before,
        layers,
        after,
    )


def _caches(site: Site) -> bool:
    return isinstance(site.op, SequenceOperator) and site.op.kv_bytes_per_token > 0


def _check_head(context: Context, before: list[Chunk], epilogue: list[Chunk]) -> None:
    """One head, and nothing after it."""
    at, source = context.definition.at, context.source
    sites = [site for chunk in epilogue for site in chunk]
    if any(isinstance(site.op, Sample) for chunk in before for site in chunk):
        raise source.error(at, "the head (at last_token) stands before or in the repeats")
    heads = [i for i, site in enumerate(sites) if isinstance(site.op, Sample)]
    if not heads:
        message = (
            "the model has no head, as in linear hidden -> vocab  split columns  at last_token"
        )
        raise source.error(at, message)
    if heads[0] != len(sites) - 1:
        line = sites[heads[0]].line
        raise source.error(
            at, f"the head on line {line} ends a model, and more operators follow it"
        )


@dataclass(slots=True)
class _Walk:
    """Follows the row from the embedding to the head."""

    context: Context
    flow: Flow | None = None
    open_blocks: list[str] = field(default_factory=list)
    expansions: int = 0

    def row(self, at: s.Span) -> Flow:
        if self.flow is None:
            raise self.context.source.error(
                at, "an embedding comes first, as in embedding vocab -> hidden"
            )
        return self.flow

    def chunks(self, statements: s.Body) -> list[Chunk]:
        """Statements outside residuals, in order, repeats and blocks expanded."""
        chunks: list[Chunk] = []
        for statement in statements:
            match statement:
                case s.Repeat():
                    chunks += self._close() + self._repeat(statement)
                case s.BlockCall():
                    chunks += self._block_chunks(statement)
                case s.Residual():
                    chunks += self._close()
                    self.statement(statement, self.row(statement.at))
                    chunks += self._close()
                case s.Operation(keyword="embedding"):
                    self._embedding(statement)
                case _:
                    self.statement(statement, self.row(statement.at))
            self._limit(len(chunks), statement.at)
        return chunks + self._close()

    def _close(self) -> list[Chunk]:
        """The sites since the last chunk as a chunk, their sum joined."""
        if self.flow is None or not self.flow.sites:
            return []
        join(self.flow, self.context.formats)
        chunk = tuple(self.flow.sites)
        self.flow.sites, self.flow.since_split = [], 0
        return [chunk]

    def _limit(self, chunks: int, at: s.Span) -> None:
        if chunks > MAX_CHUNKS:
            message = f"the model expands to more than {MAX_CHUNKS:,} groups of operators"
            raise self.context.source.error(at, message)

    def _repeat(self, repeat: s.Repeat) -> list[Chunk]:
        source, count = self.context.source, self.context.positive(repeat.count, "repeat")
        if repeat.body is None:
            raise source.error(repeat.at, "repeat needs a { body } here")
        row = self.row(repeat.at)
        width = row.width
        chunks = self.chunks(repeat.body)
        if row.width != width:
            message = f"a repeat takes {width:,} numbers a row and puts out {row.width:,}"
            raise source.error(repeat.at, message)
        expect_whole(self.context, row, repeat.at, "the end of a repeat")
        self._limit(len(chunks) * count, repeat.at)
        return chunks * count

    def _embedding(self, op: s.Operation) -> None:
        if self.flow is not None:
            raise self.context.source.error(op.at, "a second embedding; the row is already there")
        options = read_options(self.context, "embedding", op.options, ("weights",))
        vocab, width = (self.context.positive(arg, "size") for arg in op.args)
        weights = options.format("weights", self.context.formats.wide)
        self.flow = Flow(width, op.at.line)
        table = Embedding(vocab, width, weights)
        add_site(self.flow, Site("embed_tokens", table, Split.ROWS, line=op.at.line))
        self.flow.partial = True

    def _block(self, call: s.BlockCall) -> s.Body:
        blocks, source = self.context.definition.blocks, self.context.source
        if call.name in self.open_blocks or len(self.open_blocks) >= MAX_BLOCK_DEPTH:
            chain = " -> ".join([*self.open_blocks, call.name])
            raise source.error(call.at, f"block {call.name!r} contains itself: {chain}")
        self.expansions += 1
        self._limit(self.expansions, call.at)
        return blocks[call.name].body

    def _block_chunks(self, call: s.BlockCall) -> list[Chunk]:
        body = self._block(call)
        self.open_blocks.append(call.name)
        chunks = self.chunks(body)
        self.open_blocks.pop()
        return chunks

    def body(self, statements: s.Body, flow: Flow) -> None:
        for statement in statements:
            self.statement(statement, flow)

    def statement(self, statement: s.Statement, flow: Flow) -> None:
        """One statement on a row. A partial sum is joined before anything reads it."""
        self._limit(len(flow.sites), statement.at)
        join(flow, self.context.formats)
        match statement:
            case s.Operation(keyword="embedding") | s.Repeat():
                word = "repeat" if isinstance(statement, s.Repeat) else "embedding"
                message = f"{word} cannot stand inside a residual, parallel or experts"
                raise self.context.source.error(statement.at, message)
            case s.Operation():
                OPERATORS[statement.keyword](self.context, flow, statement)
            case s.Residual():
                self._residual(statement, flow)
            case s.Parallel():
                self._sum(flow, [partial(self.body, body) for body in statement.bodies], statement)
            case s.ExpertsOperation():
                branches = [partial(self._routed, statement)]
                if statement.always:
                    branches.append(partial(self.body, statement.always))
                self._sum(flow, branches, statement)
            case s.BlockCall():
                body = self._block(statement)
                self.open_blocks.append(statement.name)
                self.body(body, flow)
                self.open_blocks.pop()

    def _routed(self, op: s.ExpertsOperation, flow: Flow) -> None:
        lower_routed(self.context, flow, op)

    def _residual(self, residual: s.Residual, flow: Flow) -> None:
        expect_whole(self.context, flow, residual.at, "residual")
        branch = flow.branch()
        self.body(residual.body, branch)
        self._expect_same(flow, branch, residual.at, "the residual")
        join(branch, self.context.formats)
        flow.sites += branch.sites
        flow.line = residual.at.line
        add = Add(flow.width, self.context.formats.wide)
        flow.sites.append(Site("residual_add", add, line=residual.at.line))

    def _sum(
        self,
        flow: Flow,
        branches: Sequence[Callable[[Flow], None]],
        op: s.Parallel | s.ExpertsOperation,
    ) -> None:
        """Runs bodies on one row and adds what they put out; shares of sums are added before they meet."""
        word = "parallel" if isinstance(op, s.Parallel) else "experts"
        expect_whole(self.context, flow, op.at, word)
        rows: list[Flow] = []
        for branch in branches:
            row = flow.branch()
            branch(row)
            if rows:
                self._expect_same(rows[0], row, op.at, word)
            rows.append(row)
        all_partial = all(row.partial for row in rows)
        for i, row in enumerate(rows):
            if not all_partial:
                join(row, self.context.formats)
            flow.sites += row.sites
            if i:
                add = Add(row.width, self.context.formats.wide)
                flow.sites.append(Site("branch_add", add, line=op.at.line))
        flow.width, flow.partial, flow.line = rows[0].width, all_partial, rows[0].line

    def _expect_same(self, one: Flow, other: Flow, at: s.Span, what: str) -> None:
        expect_whole(self.context, other, at, what)
        if one.width != other.width:
            message = (
                f"{what} adds {other.width:,} numbers a row (line {other.line}) "
                f"to {one.width:,} (line {one.line})"
            )
            raise self.context.source.error(at, message)
