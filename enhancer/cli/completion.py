"""Shell completion for a command, made from its argument parser."""

from __future__ import annotations

import argparse
from typing import Any

SHELLS = ("bash", "zsh")

_SCRIPT = """\
{prefix}_{name}_complete() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" words=""
  case "${{COMP_WORDS[COMP_CWORD-1]}}" in
{cases}
    *) [[ "$current" == -* ]] && words="{options}" ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _{name}_complete {prog}
"""


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """A script for ``eval`` that completes options and their choices; everything else completes to files.

    Args:
        parser: Of the command.
        shell: One of :data:`SHELLS`.
    """
    actions = [action for action in parser._actions if action.option_strings]
    cases = [
        f'    {"|".join(action.option_strings)}) words="{" ".join(map(str, action.choices))}" ;;'
        for action in actions
        if action.choices
    ]
    return _SCRIPT.format(
        prefix="autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "",
        name=parser.prog.replace("-", "_"),
        prog=parser.prog,
        cases="\n".join(cases),
        options=" ".join(option for action in actions for option in action.option_strings),
    )


class PrintCompletion(argparse.Action):
    """Prints the script for the shell that is named and exits."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, choices=SHELLS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any) -> None:
        print(completion_script(parser, arguments[1]), end="")
        parser.exit()
