"""The masked controls: a classifier with its gradients hidden on purpose, which must be flagged."""

from torch import Tensor, nn


class Saturated(nn.Module):
    """A control that the checks must flag: a classifier whose softmax rounds to 0 and 1."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes), ten thousand times as large."""
        logits: Tensor = 1e4 * self.model(x)
        return logits


class Quantised(nn.Module):
    """A control that the checks must flag: a classifier of images rounded to nine grey values."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes), which have no gradient in x."""
        logits: Tensor = self.model((8 * x).round() / 8)
        return logits


# By the name that results give them: how to make one of a classifier, and what it is in words.
CONTROLS: dict[str, tuple[type[Saturated] | type[Quantised], str]] = {
    "saturated": (Saturated, "the same classifier with saturated logits, 10,000 times as large"),
    "quantised": (Quantised, "the same classifier on rounded inputs, of nine grey values"),
}
