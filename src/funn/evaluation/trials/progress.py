"""A progress bar that moves with every batch of an attack, not only when a part is written."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from tqdm import tqdm


@contextmanager
def progress_bar(attack: Any, total: int, label: str) -> Iterator[tqdm]:
    """A bar of images, beside which the number of images passed forward grows batch by batch.

    Images are done when their part is: an attack works on all of a part at once. Nothing is shown,
    and the attack is left alone, where stderr is no terminal.

    Args:
        attack: any attack with torchattacks' interface.
        total: how many images there are.
        label: the bar's text.

    Yields:
        The bar, to be moved by each part's number of images.
    """
    # miniters=0: a batch that finishes no image is shown too.
    hidden = not sys.stderr.isatty()
    with tqdm(total=total, desc=label, unit="image", miniters=0, disable=hidden) as bar:
        if hidden:
            yield bar
            return
        passed = 0

        def show(count: int) -> None:
            nonlocal passed
            passed += count
            bar.set_postfix_str(f"{passed:,} passed forward", refresh=False)
            bar.update(0)

        with batches_told(attack, show):
            yield bar


@contextmanager
def batches_told(attack: Any, tell: Callable[[int], None]) -> Iterator[None]:
    """Inside, tell the number of images in each forward pass of an attack.

    Of one that wraps others (torchattacks' MultiAttack) only its own passes are told.

    It stands before the attack's `get_logits`, not on the model: attacks on single pixels compute
    with the layers of a model without hooks alone.

    Args:
        attack: any attack with torchattacks' interface.
        tell: called with the number of images before each pass.
    """
    get_logits = attack.get_logits

    def told(inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        tell(len(inputs))
        logits: Tensor = get_logits(inputs, *args, **kwargs)
        return logits

    vars(attack)["get_logits"] = told
    try:
        yield
    finally:
        del vars(attack)["get_logits"]
