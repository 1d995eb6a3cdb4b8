"""``servecast completion``: what makes a shell complete commands, options and their values."""

from __future__ import annotations

import click

from servecast.compiler.output_options import json_option, result_alone_option

SHELLS = ("bash", "fish", "zsh")


@click.command("completion", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("shell", type=click.Choice(SHELLS))
@json_option
@result_alone_option
def completion_command(shell: str, as_json: bool) -> None:
    """Print the script that makes SHELL complete Servecast's commands and options.

    \b
    servecast completion bash >> ~/.bashrc
    servecast completion zsh >> ~/.zshrc
    servecast completion fish > ~/.config/fish/completions/servecast.fish
    """
    import json

    from click.shell_completion import get_completion_class

    maker = get_completion_class(shell)
    assert maker is not None
    whole = click.get_current_context().find_root().command
    script = maker(whole, {}, "servecast", "_SERVECAST_COMPLETE").source()
    click.echo(json.dumps({"shell": shell, "script": script}) if as_json else script)
