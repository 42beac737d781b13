"""Completions in the languages of bash, zsh and fish, from a table of commands and options.

A word after `filestoraged` that begins with a dash is an option of `serve`, as for the program itself. Values of other
kinds than files, directories and fixed words are not completed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple


class Words:
    """What a value can be: fixed words, files, directories, or anything (NONE)."""

    FILES: ClassVar[Words]
    DIRECTORIES: ClassVar[Words]
    NONE: ClassVar[Words]

    def __init__(self, values: Sequence[str] = ()) -> None:
        self.values = values


Words.FILES, Words.DIRECTORIES, Words.NONE = Words(), Words(), Words()


class Option(NamedTuple):
    # Without its dashes.
    name: str
    help: str
    # The placeholder of the value; None for a switch.
    value: str | None
    words: Words
    repeatable: bool


class CommandSyntax(NamedTuple):
    name: str
    help: str
    options: Sequence[Option]
    arguments: Sequence[Words]


def write_bash(commands: Sequence[CommandSyntax]) -> str:
    """bash >= 4; the package bash-completion is not needed."""
    return _BASH % {
        "names": " ".join(command.name for command in commands),
        "commands": "".join(map(_bash_command, commands)),
    }


def _bash_command(command: CommandSyntax) -> str:
    valued = [option for option in command.options if option.value is not None]
    branches = "".join(f"                --{each.name}) {_bash_words(each.words)} ;;\n" for each in valued)
    options = " ".join(f"--{each.name}" for each in command.options)
    # Which argument the word is cannot be known without all options before it: all words of all arguments are offered.
    arguments = [_bash_words(each) for each in command.arguments if each is not Words.NONE]
    rest = "; ".join(arguments) or ":"
    return f"""        {command.name})
            case $previous in
{branches}                *) case $word in -*) _filestoraged_words "{options}" ;; *) {rest} ;; esac ;;
            esac ;;
"""


def _bash_words(words: Words) -> str:
    if words is Words.FILES:
        return "_filestoraged_paths -f"
    if words is Words.DIRECTORIES:
        return "_filestoraged_paths -d"
    return f'_filestoraged_words "{" ".join(words.values)}"' if words.values else ":"


_BASH = """# Completion of filestoraged for bash, made by `filestoraged completion bash`.

_filestoraged_words() {
    mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$1" -- "$word")
}

_filestoraged_paths() {
    compopt -o filenames
    mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen "$1" -- "$word")
}

_filestoraged() {
    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} command=serve
    COMPREPLY=()
    # bash takes the = of --store=DIR for a word of its own.
    if [ "$word" = = ]; then
        word=
    elif [ "$previous" = = ]; then
        previous=${COMP_WORDS[COMP_CWORD-2]}
    fi
    case ${COMP_WORDS[1]} in
        -*) ;;
        *) if [ "$COMP_CWORD" = 1 ]; then _filestoraged_words "%(names)s"; return; fi; command=${COMP_WORDS[1]} ;;
    esac
    case $command in
%(commands)s    esac
}

complete -F _filestoraged filestoraged
"""


def write_zsh(commands: Sequence[CommandSyntax]) -> str:
    """For a file of $fpath; `eval` defines the same function."""
    return _ZSH % {
        "names": "".join(f"    {_quote(_zsh_escape(each.name) + ':' + each.help)}\n" for each in commands),
        "commands": "".join(map(_zsh_command, commands)),
    }


def _zsh_command(command: CommandSyntax) -> str:
    specs = [_zsh_option(option) for option in command.options]
    specs += [f":value:{_zsh_words(words)}" for words in command.arguments]
    lines = "".join(f" \\\n        {_quote(spec)}" for spec in specs)
    return f"    {command.name})\n      _arguments{lines} ;;\n"


def _zsh_option(option: Option) -> str:
    repeated = "*" if option.repeatable else ""
    help_ = f"[{_zsh_escape(option.help)}]"
    if option.value is None:
        return f"{repeated}--{option.name}{help_}"
    # = : the value may be the next word or follow after =.
    return f"{repeated}--{option.name}={help_}:{_zsh_escape(option.value)}:{_zsh_words(option.words)}"


def _zsh_words(words: Words) -> str:
    if words is Words.FILES:
        return "_files"
    if words is Words.DIRECTORIES:
        return "_files -/"
    # A space: the value is not completed.
    return f"({' '.join(words.values)})" if words.values else " "


def _zsh_escape(text: str) -> str:
    return "".join("\\" + each if each in "\\[]:" else each for each in text)


_ZSH = """#compdef filestoraged
# Completion of filestoraged for zsh, made by `filestoraged completion zsh`.

_filestoraged() {
  local command=serve
  local -a commands=(
%(names)s  )
  if [[ $words[2] != -* ]]; then
    if (( CURRENT == 2 )); then
      _describe command commands
      return
    fi
    command=$words[2]
    shift words
    (( CURRENT-- ))
  fi
  case $command in
%(commands)s  esac
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _filestoraged "$@"
else
  compdef _filestoraged filestoraged
fi
"""


def write_fish(commands: Sequence[CommandSyntax]) -> str:
    names = (
        f"complete -c filestoraged -n __filestoraged_is_first -a {each.name} -d {_fish_quote(each.help)}\n"
        for each in commands
    )
    return _FISH + "".join(names) + "".join(map(_fish_command, commands))


def _fish_command(command: CommandSyntax) -> str:
    condition = f"complete -c filestoraged -n '__filestoraged_is {command.name}'"
    options = [
        f"{condition} -l {option.name}{_fish_value(option)} -d {_fish_quote(option.help)}\n"
        for option in command.options
    ]
    arguments = [f"{condition}{_fish_words(words)}\n" for words in command.arguments if words is not Words.NONE]
    return "\n" + "".join(options + arguments)


def _fish_value(option: Option) -> str:
    if option.value is None:
        return ""
    # -x: a value is required, and files are not offered.
    return (" -r" if option.words is Words.FILES else " -x") + _fish_words(option.words)


def _fish_words(words: Words) -> str:
    if words is Words.FILES:
        return " -F"
    if words is Words.DIRECTORIES:
        return " -a '(__fish_complete_directories)'"
    return f" -a {_fish_quote(' '.join(words.values))}" if words.values else ""


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_FISH = """# Completion of filestoraged for fish, made by `filestoraged completion fish`.

function __filestoraged_is_first
    test (count (commandline -opc)) -eq 1
end

# An option as the first word is one of serve.
function __filestoraged_is
    set -l words (commandline -opc) (commandline -ct)
    if string match -q -- '-*' $words[2]
        test $argv[1] = serve
    else
        test "$words[2]" = $argv[1]
    end
end

complete -c filestoraged -f
"""


def _quote(text: str) -> str:
    """For zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


SHELLS: Mapping[str, Callable[[Sequence[CommandSyntax]], str]] = {
    "bash": write_bash,
    "zsh": write_zsh,
    "fish": write_fish,
}
