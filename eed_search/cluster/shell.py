"""Reads the shell commands of a cluster file far enough to say which program runs with which options.

It knows assignments before a command, `export`, wrappers such as `sudo` and `nohup`, quotes and
the separators `;`, `&&`, `||`, `|`, `&` and a new line. Substitutions stay text.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

_SEPARATORS = ";&|()"
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_WRAPPERS = {"sudo", "env", "nohup", "exec", "setsid", "nice", "command", "time"}
_PYTHON = re.compile(r"python[0-9.]*")


@dataclass(frozen=True)
class Call:
    """One program that a command line runs.

    Attributes:
        environment: Variables that the line sets for it.
        words: The program and its arguments, without quotes.
        text: The whole line that it stands in.
    """

    environment: dict[str, str]
    words: tuple[str, ...]
    text: str

    def runs(self, program: str, *subcommands: str) -> bool:
        """Say whether this is `program subcommand …`, by any path, or `python -m program`."""
        words = list(self.words)
        if len(words) > 2 and _PYTHON.fullmatch(PurePosixPath(words[0]).name) and words[1] == "-m":
            words = words[2:]
        names = [PurePosixPath(word).name for word in words[:1]] + words[1 : 1 + len(subcommands)]
        return names == [program, *subcommands]

    def options(self, name: str) -> list[str]:
        """Give the values of an option, written `--name value` or `--name=value`; a bare one gives ""."""
        found = []
        for i, word in enumerate(self.words):
            if word.startswith(f"{name}="):
                found.append(word[len(name) + 1 :])
            elif word == name:
                following = self.words[i + 1 : i + 2]
                found.append(following[0] if following and not following[0].startswith("-") else "")
        return found


def calls(commands: Sequence[str]) -> Iterator[Call]:
    """Give every program that the commands run, in order; each command is a shell of its own.

    Raises:
        ValueError: If a command's quotes are not closed; its message is the command.
    """
    for text in commands:
        exported: dict[str, str] = {}
        for words in _split(text):
            own, rest = _leading_assignments(words)
            if rest[:1] == ["export"]:
                exported |= _leading_assignments(rest[1:])[0]
            elif rest:
                yield Call(exported | own, tuple(rest), text)


def _split(text: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(text.replace("\\\n", " ").replace("\n", " ; "), posix=True, punctuation_chars=_SEPARATORS)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    try:
        for word in lexer:
            if word.startswith("#"):
                break
            if set(word) <= set(_SEPARATORS):
                yield words
                words = []
            else:
                words.append(word)
    except ValueError as error:
        raise ValueError(text) from error
    yield words


def _leading_assignments(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Part `A=b sudo C=d program …` into its variables and `program …`."""
    environment: dict[str, str] = {}
    for i, word in enumerate(words):
        if match := _ASSIGNMENT.fullmatch(word):
            environment[match[1]] = match[2]
        elif word not in _WRAPPERS and not (i and word.startswith("-")):
            return environment, list(words[i:])
    return environment, []
