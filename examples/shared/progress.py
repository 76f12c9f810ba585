"""How far a training is: a bar on a terminal, a line per epoch where the output goes elsewhere."""

import sys

from tqdm import tqdm


class Progress:
    """Shows the epochs of a training.

    Args:
        name: What is trained, "fold 0" for one.
        epochs: The most that it takes.
        done: How many are done already.
        silent: Show nothing, for all processes but one.
    """

    def __init__(self, name: str, epochs: int, done: int, silent: bool = False) -> None:
        self.name, self.epochs, self.silent = name, epochs, silent
        self.terminal = sys.stdout.isatty() and sys.stderr.isatty()
        self.bar = tqdm(
            total=epochs, initial=done, desc=name, unit="epoch",
            disable=silent or not self.terminal,
        )  # fmt: skip

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, epoch: int, **numbers: float) -> None:
        """Another epoch is done; `numbers` are shown by name."""
        shown = {name: f"{number:.3f}" for name, number in numbers.items()}
        self.bar.set_postfix(shown)
        self.bar.update()
        if not self.silent and not self.terminal:
            words = ", ".join(f"{name} {number}" for name, number in shown.items())
            print(f"{self.name}, epoch {epoch} of {self.epochs}: {words}", flush=True)
