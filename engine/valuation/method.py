"""How lots are used up: the five methods.

What belongs here: their names and numbers. What does not: what they do (see `exact`, and the kernel of the same).
"""

from __future__ import annotations

from enum import Enum

from engine.errors import ConfigError


class Method(Enum):
    """Which lot a disposal takes first; equal prices of HIFO and LOFO go by age, the older one first."""

    FIFO = "fifo"
    LIFO = "lifo"
    HIFO = "hifo"
    """The dearest, by the price that a lot was acquired at."""
    LOFO = "lofo"
    """The cheapest."""
    AVERAGE = "average"
    """One lot, whose cost is the average of all that is held."""

    @property
    def number(self) -> int:
        """As kernels know it."""
        return list(Method).index(self)

    @classmethod
    def parse(cls, text: str) -> Method:
        """Read a name.

        Raises:
            ConfigError: there is no such method.
        """
        try:
            return cls(text.lower())
        except ValueError:
            raise ConfigError(f"{text!r} is no lot method", rule=f"one of {', '.join(m.value for m in cls)}") from None
