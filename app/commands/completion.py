"""The command `completion`: what a shell needs to complete commands, options and names of models."""

from __future__ import annotations

import os

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

PROGRAM = "llama-smart-proxy"
VARIABLE = "_LLAMA_SMART_PROXY_COMPLETE"


class ColonTolerantBash(BashComplete):
    """For bash `:` separates words, and only what follows the last one is replaced. Names of models have colons."""

    source_template = BashComplete.source_template.replace(
        'COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD', 'COMP_WORDS="${COMP_LINE:0:COMP_POINT}"'
    )

    def source(self) -> str:
        return str(self.source_template % self.source_vars())  # without a check of the shell that runs just now

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)[1:]
        return (words, "") if line[-1:].isspace() else (words[:-1], words[-1] if words else "")

    def format_completion(self, item: CompletionItem) -> str:
        _, incomplete = self.get_completion_args()
        return f"{item.type},{str(item.value)[incomplete.rfind(':') + 1 :]}"


add_completion_class(ColonTolerantBash)
SHELLS: dict[str, type[ShellComplete]] = {"bash": ColonTolerantBash, "zsh": ZshComplete, "fish": FishComplete}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL: bash, zsh or fish.

    Commands, options and names of models are completed; the names come from the running service, if it answers within
    a second. Install it once, and open a new shell:

    \b
    bash  llama-smart-proxy completion bash > ~/.local/share/bash-completion/completions/llama-smart-proxy
    zsh   llama-smart-proxy completion zsh > "${fpath[1]}/_llama-smart-proxy"
    fish  llama-smart-proxy completion fish > ~/.config/fish/completions/llama-smart-proxy.fish

    bash needs the package bash-completion for that; without it, put this into ~/.bashrc:

    \b
    eval "$(llama-smart-proxy completion bash)"
    """
    root = context.find_root().command
    click.echo(SHELLS[shell](root, {}, PROGRAM, VARIABLE).source())
