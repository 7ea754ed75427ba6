"""`prefopt completion`: a script with which a shell completes commands, options and their values, from their tables.

The script holds all of it, so that completing starts no Python.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from shlex import quote
from typing import Any

from .command import Command
from .commands import all_commands

ABOUT = "Print a script that lets a shell complete commands, options and the values of those that have a list."
EXAMPLE = """\
  bash:  prefopt completion bash > ~/.local/share/bash-completion/completions/prefopt
  zsh:   prefopt completion zsh > ~/.prefopt-completion; echo 'source ~/.prefopt-completion' >> ~/.zshrc
  fish:  prefopt completion fish > ~/.config/fish/completions/prefopt.fish
"""
Options = Mapping[str, Sequence[str]]
"""Flag -> the values that it may have; none where there is no list."""
_OFF = re.compile(r"--\[no_\](\w+)")

BASH = """\
# Completion of prefopt's commands, options and values; written by `prefopt completion`.
_prefopt() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words="" plain=""
  local command=${{COMP_WORDS[1]}}
  case "$command" in
    {tools}) [ "$COMP_CWORD" -gt 2 ] && command="$command ${{COMP_WORDS[2]}}" ;;
  esac
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands}"
  else
    case "$command:$before" in
{values}
      *) case "$command" in
{options}
        esac
        [[ $word == -* || -z $word$plain ]] || words=$plain ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _prefopt prefopt
"""


def main(command: Command, prog: str, argv: Sequence[str]) -> int:
    """Parse, gather, print; returns the exit code."""
    args = _parser(prog).parse_args(list(argv))
    table = {" ".join(words): options for words, options in tables()}
    script = {"bash": bash, "zsh": zsh, "fish": fish}[args.shell](table)
    print(script, end="")
    return 0


def tables() -> Iterator[tuple[tuple[str, ...], Options]]:
    """Every command, with the second word of those that have one, and its options."""
    for name, command in all_commands().items():
        if command.tools:
            yield (name,), {}
            for tool, path in command.tools.items():
                yield (name, tool), _parsed(import_module(path)._parser())
            continue
        module: Any = import_module(command.module)
        if hasattr(module, "help_page"):
            yield (name,), _paged(module.help_page(command, f"prefopt {name}", whole=True))
        else:
            yield (name,), _parsed(module._parser(f"prefopt {name}"))


def _paged(page: Any) -> Options:
    """The options of a help page."""
    options: dict[str, Sequence[str]] = {}
    for section in page.sections:
        for entry in section.entries:
            choices = entry.metavar.strip("{}").split(",") if entry.metavar.startswith("{") else ()
            if off := _OFF.fullmatch(entry.flag):
                options |= {f"--{off[1]}": ("true", "false"), f"--no_{off[1]}": ()}
            else:
                options[entry.flag] = choices if entry.metavar else ("true", "false")
    for general in ("--help", "--help-all"):
        options[general] = ()
    return options


def _parsed(parser: argparse.ArgumentParser) -> Options:
    """The options of a parser, and the words that may stand without one."""
    return {
        flag: tuple(map(str, action.choices or ()))
        for action in parser._actions
        for flag in (action.option_strings[-1:] or ([""] if action.choices else []))
    }


def bash(table: Mapping[str, Options]) -> str:
    """The script for bash."""
    tools: dict[str, list[str]] = {name.split()[0]: [] for name in table if " " in name}
    for name in table:
        if " " in name:
            tools[name.split()[0]].append(name.split()[1])
    options, values = [], []
    for name, flags in table.items():
        plain = " ".join([*tools.get(name, ()), *flags.get("", ())])
        options.append(f'          "{name}") words="{" ".join(filter(None, flags))}" plain="{plain}" ;;')
        for flag, choices in flags.items():
            if flag and choices:
                values.append(f'      "{name}:{flag}") words="{" ".join(choices)}" ;;')
    first = dict.fromkeys(name.split()[0] for name in table)
    commands = " ".join([*first, "--help", "--version"])
    return BASH.format(
        commands=commands, tools="|".join(tools) or "''", values="\n".join(values), options="\n".join(options)
    )


def zsh(table: Mapping[str, Options]) -> str:
    """The script for zsh, which reads bash's."""
    return f"autoload -U +X compinit && compinit -u\nautoload -U +X bashcompinit && bashcompinit\n{bash(table)}"


def fish(table: Mapping[str, Options]) -> str:
    """The script for fish."""
    lines = ["# Completion of prefopt's commands, options and values; written by `prefopt completion`."]
    summaries = {name: command.summary for name, command in all_commands().items()}
    for name, flags in table.items():
        *parents, word = name.split()
        seen = f"__fish_seen_subcommand_from {parents[0]}" if parents else "__fish_use_subcommand"
        about = f" -d {quote(summaries[word])}" if not parents else ""
        lines.append(f"complete -c prefopt -n {quote(seen)} -a {word}{about}")
        inside = " ; and ".join(f"__fish_seen_subcommand_from {each}" for each in name.split())
        for flag, choices in flags.items():
            given = f" -x -a {quote(' '.join(choices))}" if choices else ""
            named = f" -l {flag.removeprefix('--')}" if flag else ""
            lines.append(f"complete -c prefopt -n {quote(inside)}{named}{given}")
    return "\n".join(lines) + "\n"


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=ABOUT, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="which shell the script is for")
    return parser
