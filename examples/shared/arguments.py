"""What a command line is made of: errors in one line, defaults in the help, kinds of numbers."""

import argparse
from typing import Any, NoReturn

from .errors import InputError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise, where argparse would print its usage first."""
        raise InputError(f"{message} (see --help)")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the epilog and shows the defaults that mean something."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        named = action.default is None or action.default is False or "default" in text
        if named or action.default == argparse.SUPPRESS:
            return text
        default = action.default
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else default
        return f"{text} (default: {shown})"


def _number(convert: type, wanted: str, accept: Any) -> Any:
    def parse(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not accept(value):
            raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
        return value

    return parse


positive = _number(int, "a whole number from 1", lambda n: n >= 1)
nonnegative = _number(int, "a whole number from 0", lambda n: n >= 0)
positive_float = _number(float, "a number above 0", lambda x: 0 < x < float("inf"))
nonnegative_float = _number(float, "a number from 0", lambda x: 0 <= x < float("inf"))
fraction = _number(float, "a number between 0 and 1", lambda x: 0 < x < 1)
probability = _number(float, "a number from 0, below 1", lambda x: 0 <= x < 1)
