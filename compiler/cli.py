"""Command line of the compiler: reads files, calls one function, prints. No logic lives here."""

from __future__ import annotations

import json
from pathlib import Path

import click

from servecast.compiler.output_options import json_option, quiet_option, result_alone_option

EMITS = ("plan", "ir", "kernels", "json")


@click.command("compile")
@click.argument("spec", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", help="Model of the file; its first where not given.")
@click.option("--tp", type=int, default=1, show_default=True, help="Tensor-parallel degree.")
@click.option("--pp", type=int, default=1, show_default=True, help="Pipeline stages.")
@click.option(
    "--ep", type=int, default=1, show_default=True, help="Groups that experts are dealt to."
)
@click.option("--dp", type=int, default=1, show_default=True, help="Data-parallel attention ranks.")
@click.option(
    "--sequence-parallel", is_flag=True, help="Norms run on each rank's share of the rows."
)
@click.option("--emit", type=click.Choice(EMITS), default="plan", show_default=True)
@click.option(
    "--all-degrees", is_flag=True, help="With --emit kernels: every tp, dp and ep of up to 8 ranks."
)
@click.option("--all-models", is_flag=True, help="With --emit kernels: every model of the file.")
@click.option("--explain", metavar="OPERATOR", help="Say what one operator is, does and costs.")
@click.option("--sku", help="GPU whose memory is planned, as h100-sxm.")
@click.option(
    "--utilisation",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.9,
    show_default=True,
    help="Share of the GPU's memory that the engine may use.",
)
@click.option("--max-num-batched-tokens", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--max-num-seqs", type=click.IntRange(1), default=256, show_default=True)
@click.option(
    "--sequence-tokens", type=click.IntRange(1), help="Length at which windows are counted."
)
@click.option("--kv-blocks", type=click.IntRange(1), help="KV blocks that an engine logged.")
@click.option("--json", "as_json", is_flag=True, help="The same as --emit json.")
@result_alone_option
def compile_command(  # noqa: PLR0913  # one option each
    spec: Path,
    model: str | None,
    tp: int,
    pp: int,
    ep: int,
    dp: int,
    sequence_parallel: bool,
    emit: str,
    all_degrees: bool,
    all_models: bool,
    explain: str | None,
    sku: str | None,
    utilisation: float,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    sequence_tokens: int | None,
    kv_blocks: int | None,
    as_json: bool,
) -> None:
    """Compile SPEC, a .llm file, and print what each GPU of one replica runs.

    \b
    servecast compile spec/llama.llm --model llama-3.1-70b --tp 4 --pp 2
    servecast compile spec/mixtral.llm --emit json
    """
    from servecast.compiler.emit import EmitRequest, MemoryRequest
    from servecast.compiler.emit import emit as emit_text
    from servecast.compiler.load import load_spec
    from servecast.compiler.sharded import Parallelism

    if sku is None and (sequence_tokens or kv_blocks):
        raise click.UsageError("--sequence-tokens and --kv-blocks need --sku")
    if emit != "kernels" and (all_degrees or all_models):
        raise click.UsageError("--all-degrees and --all-models need --emit kernels")
    if as_json:
        if emit not in ("plan", "json") or explain is not None:
            raise click.UsageError("--json is --emit json; it goes with no other and not --explain")
        emit = "json"
    memory = None
    if sku is not None:
        limits = (utilisation, max_num_batched_tokens, max_num_seqs, sequence_tokens, kv_blocks)
        memory = MemoryRequest(sku, *limits)
    parallelism = Parallelism(tp, pp, ep, dp, sequence_parallel)
    request = EmitRequest(model, parallelism, emit, explain, memory, all_degrees, all_models)
    click.echo(emit_text(load_spec(spec), request), nl=False)


@click.command("fmt")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--check", is_flag=True, help="Write nothing; fail where a file would change.")
@json_option
@quiet_option
def fmt_command(files: tuple[Path, ...], check: bool, as_json: bool, quiet: bool) -> None:
    """Rewrite .llm FILES in their one canonical form, comments kept.

    \b
    servecast fmt spec/*.llm
    servecast fmt --check spec/llama.llm
    """
    from servecast.compiler.errors import UserError
    from servecast.compiler.fmt import format_source
    from servecast.compiler.load import read_text, write_text

    texts = {path: read_text(path) for path in files}
    formatted = {path: format_source(text, str(path)) for path, text in texts.items()}
    changed = [path for path in files if texts[path] != formatted[path]]
    if check and changed:
        raise UserError(f"not in canonical form: {', '.join(map(str, changed))}")
    for path in changed:
        write_text(path, formatted[path])
        if not (quiet or as_json):
            click.echo(f"{path}: rewritten", err=True)
    if as_json:
        click.echo(json.dumps({"rewritten": [str(path) for path in changed]}))


@click.command("import")
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="The model's name; the folder's where not given.")
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="File to write."
)
@json_option
@result_alone_option
def import_command(config: Path, name: str | None, output: Path | None, as_json: bool) -> None:
    """Write a spec from CONFIG, a Hugging Face config.json.

    \b
    servecast import config.json --name our-model -o our-model.llm
    """
    from servecast.compiler.hf_families import read_config
    from servecast.compiler.load import read_json, write_text
    from servecast.compiler.spec_writer import model_name, write_spec

    values = read_json(config)
    source = str(values.get("_name_or_path") or "")
    chosen = name or model_name(source, config.resolve().parent.name)
    text = write_spec(chosen, source, read_config(values, str(config)))
    if output is not None:
        write_text(output, text)
    if as_json:
        written = None if output is None else str(output)
        click.echo(json.dumps({"model": chosen, "output": written, "spec": text}))
    elif output is None:
        click.echo(text, nl=False)


@click.command("diff")
@click.argument("before")
@click.argument("after")
@json_option
@result_alone_option
def diff_command(before: str, after: str, as_json: bool) -> None:
    """What changed in operators and memory from BEFORE to AFTER, each FILE or FILE:MODEL.

    \b
    servecast diff spec/llama.llm:llama-2-7b spec/llama.llm:llama-3.1-8b
    """
    from servecast.compiler.diff import diff_programs
    from servecast.compiler.load import load_model

    text = diff_programs(load_model(before), load_model(after))
    if as_json:
        click.echo(json.dumps({"before": before, "after": after, "lines": text.splitlines()}))
    else:
        click.echo(text, nl=False)
