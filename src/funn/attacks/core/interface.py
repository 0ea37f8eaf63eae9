"""The torchattacks interface over pure batched functions, leaving the model as it was found."""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchattacks.attack import Attack

from funn.attacks.core.result import AttackResult

Model = Callable[[Tensor], Tensor]
Protocol = Literal["strict", "foolbox1"]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Attack inside, in eval mode and with frozen parameters; afterwards all is as before.

    That is each sub-module's mode, each parameter's requires_grad and grad, the global random
    state, and inference mode or no_grad around the call, both of which torchattacks alone fails
    under (Lightning's test loop, for one).
    """
    modes = [(module, module.training) for module in model.modules()]
    grads = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        model.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in grads:
            parameter.requires_grad_(requires_grad)


def check_inputs(images: Tensor, labels: Tensor) -> None:
    """Require images (N, C, H, W) in [0, 1] and labels (N,).

    Raises:
        ValueError: otherwise.
    """
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        shapes = f"{tuple(images.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"images must be (N, C, H, W) and labels (N,), not {shapes}")
    # Written so that NaN fails too.
    if len(images) and not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(
            "images must lie in [0, 1]: keep any normalisation inside the model, "
            "or tell the attack by set_normalization_used(mean, std)"
        )


def check_logits(logits: object, count: int) -> None:
    """Require logits (N, K) of K = 2 or more classes, for N images.

    Raises:
        ValueError: for anything else. One logit for two classes has no other class to go to: every
            attack would fail on it, and the classifier seem robust.
    """
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"the model returns a {type(logits).__name__}: return its logits, a tensor (N, classes)"
        )
    if logits.shape == (count, 1):
        raise ValueError(
            "the model returns one logit (N, 1): return one for each class, for two classes "
            "torch.cat((torch.zeros_like(logit), logit), dim=1)"
        )
    if logits.ndim != 2 or len(logits) != count or logits.shape[1] < 2:
        raise ValueError(
            f"the model returns {tuple(logits.shape)} for {count} images: return logits "
            "(N, classes)"
        )


def check_protocol(protocol: str) -> None:
    """Require a known protocol.

    Raises:
        ValueError: for another.
    """
    if protocol not in ("strict", "foolbox1"):
        raise ValueError(f"protocol={protocol} must be strict or foolbox1")


class BatchedAttack(Attack):  # type: ignore[misc]
    """A torchattacks attack over a pure batched function.

    `atk(images, labels)` returns the adversarial images, as torchattacks users expect;
    `atk.run(images, labels)` returns the whole `AttackResult`.

    Args:
        name: the attack's name.
        model: images (N, C, H, W) in [0, 1] to logits (N, classes).

    Attributes:
        images_per_part: how many images an evaluation attacks between two writes of its records.
            Fewer where an attack is slow: a kill costs less, and processes have parts to share.
        batch_size: most images in one forward pass. It changes the speed, and results by rounding
            only.
    """

    images_per_part = 1000

    def __init__(self, name: str, model: nn.Module) -> None:
        super().__init__(name, model)
        self.batch_size = 128
        # Whether the model gets copies of its batches: None until the first pass of a run tells.
        self._copies: bool | None = True

    def get_logits(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Logits (N, K) of images (N, C, H, W), which stay as they are.

        A model that changes its input in place would otherwise change the adversarial images. In
        the first pass of a run it gets a copy; if it wrote into that, it goes on getting copies
        (to give every model a copy of every batch would cost BIM 3 % of its time).

        Raises:
            ValueError: if it returns anything else than logits, or changes some batches only.
        """
        given = inputs if self._copies is False else inputs.clone()
        # A copy's version tells nothing new, and in inference mode, outside of a run, it has none.
        version = None if self._copies else given._version
        logits: Tensor = super().get_logits(given, *args, **kwargs)
        check_logits(logits, len(inputs))
        if self._copies is None:
            self._copies = given._version != version or not given.equal(inputs)
        elif not self._copies and given._version != version:
            raise ValueError(
                "the model changes some of its inputs in place: let its forward begin with "
                "images = images.clone()"
            )
        return logits

    @abstractmethod
    def attack_images(self, model: Model, images: Tensor, labels: Tensor) -> AttackResult:
        """Attack float32 images (N, C, H, W) in [0, 1] with int64 labels (N,)."""

    def run(self, images: Tensor, labels: Tensor) -> AttackResult:
        """Attack images (N, C, H, W) in [0, 1] that have labels (N,).

        Raises:
            ValueError: for other shapes or ranges.
        """
        check_inputs(images, labels)
        self._copies = None
        try:
            with untouched(self.model), self._unit_range():
                return self.attack_images(
                    self.get_logits,
                    images.detach().clone().float().to(self.device),
                    labels.detach().clone().to(self.device),
                )
        finally:
            self._copies = True

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the adversarial images (torchattacks' contract).

        Warns of images that withstood the attack because it had no gradient to go by.
        """
        result = self.run(inputs, labels)
        blind = int((result.blind & ~result.success).sum())
        if blind:
            warnings.warn(
                f"{self.attack} had a gradient of exactly zero, or none that is finite, on {blind} "
                f"of {len(labels)} images and did not fool them: that is no sign of robustness. "
                "Attack the logits before any softmax, or try Square, which needs no gradient",
                stacklevel=2,
            )
        return result.adversarials

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return adversarial images (N, C, H, W), normalised if the inputs are."""
        # torchattacks restores neither modes nor its normalisation flag after an exception.
        with untouched(self.model), self._unit_range(self._normalization_applied):
            adversarials: Tensor = super().__call__(inputs, labels)
            return adversarials

    @contextmanager
    def _unit_range(self, flag: bool | None = False) -> Iterator[None]:
        """Within it `get_logits` normalises (if told to), since images are in [0, 1]."""
        before = self._normalization_applied
        try:
            if before is not None:
                self._set_normalization_applied(flag)
            yield
        finally:
            if before is not None:
                self._set_normalization_applied(before)
