"""DeepFool (Moosavi-Dezfooli et al. 2015; Eq. 2 of the paper), batched, in both protocols."""

from typing import Literal

import torch
from torch import Tensor, nn

from funn.attacks.core.interface import BatchedAttack, Model, Protocol, check_protocol
from funn.attacks.core.norms import DUAL, Norm, check_norm, length, per_image
from funn.attacks.core.result import AttackResult
from funn.attacks.core.state import AttackState, without_direction
from funn.attacks.core.targets import nearest_classes

Push = Literal["distance", "score"]

_OVERSHOOT = {"strict": 0.02, "foolbox1": 0.05}
# Foolbox adds this to norms, so that a zero gradient gives a step of 0 and not NaN.
_TINY = 1e-8
# `strict` adds this to the length of each step, or to |f|. Without it the iterate creeps to the
# boundary from inside and crosses by rounding only. To |f|, and to the length:
_ADDED: dict[Push, tuple[float, float]] = {"distance": (0.0, 1e-4), "score": (1e-4, 0.0)}


class DeepFool(BatchedAttack):
    """DeepFool behind the torchattacks interface.

    Args:
        model: images in [0, 1] to logits.
        norm: "l2" or "linf", the norm that each step minimises.
        steps: most steps.
        overshoot: fraction by which the boundary is overstepped; 0.02 under `strict`, 0.05 under
            `foolbox1` unless given.
        candidates: how many of the classes with the highest logits on the clean image are
            considered, the true one included.
        protocol: "strict", as in the original authors' code and Foolbox 3 (the perturbation is
            accumulated, the overshoot applies to the whole of it, the box is applied last), or
            "foolbox1", the paper's tool (each step is overshot and clipped).
        push: what `strict` adds 1e-4 to: "distance", the length of the step, as in the original
            authors' code and Foolbox 3, or "score", |f|. The longer step needs fewer
            iterations (three quarters as many in L2, half in Linf), and crosses so clearly that
            every success is verified. `foolbox1` adds nothing.

    Attributes:
        stops_at_success: an image's result does not change once it is fooled, so the results of
            fewer steps can be read off those of more.

    Raises:
        ValueError: for a value that is out of range.
    """

    stops_at_success = True

    def __init__(
        self,
        model: nn.Module,
        norm: Norm = "l2",
        steps: int = 50,
        overshoot: float | None = None,
        candidates: int = 10,
        protocol: Protocol = "strict",
        push: Push = "distance",
    ) -> None:
        check_norm(norm)
        check_protocol(protocol)
        if push not in ("distance", "score"):
            raise ValueError(f"push={push} must be distance or score")
        if steps < 0 or candidates < 2:
            raise ValueError("steps must be 0 or more, candidates 2 or more")
        if overshoot is not None and overshoot < 0:
            raise ValueError(f"overshoot={overshoot} must be 0 or more")
        super().__init__("DeepFool", model)
        self.norm: Norm = norm
        self.steps = steps
        self.overshoot = _OVERSHOOT[protocol] if overshoot is None else overshoot
        self.candidates = candidates
        self.protocol: Protocol = protocol
        self.push: Push = push

    def attack_images(self, model: Model, images: Tensor, labels: Tensor) -> AttackResult:
        """Run `deepfool` with this attack's settings."""
        return deepfool(
            model,
            images,
            labels,
            norm=self.norm,
            steps=self.steps,
            overshoot=self.overshoot,
            candidates=self.candidates,
            protocol=self.protocol,
            push=self.push,
            batch_size=self.batch_size,
        )


def deepfool(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    steps: int,
    overshoot: float,
    candidates: int,
    protocol: Protocol,
    push: Push,
    batch_size: int,
) -> AttackResult:
    """Move each image to the nearest boundary of the linearised classifier until it is crossed.

    Each step looks at the current image: f_k = z_k - z_y and its gradient w_k, for the candidate
    classes with z_k < z_y strictly (a tied class has f = 0 and would stop the image for ever).
    It goes to the class with the least |f_k| / |w_k|* (dual norm: 2 for l2, 1 for linf).

    An image stops when it is misclassified; when it can no longer change; when no candidate is
    left (all are tied, or have a gradient that is not finite); or when its logits are not finite
    (a failure, whatever their argmax). Images that go on are packed together, so the cost follows
    the images that are left.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        norm: see `DeepFool`, as the rest.
        steps: see `DeepFool`.
        overshoot: see `DeepFool`.
        candidates: see `DeepFool`.
        protocol: see `DeepFool`.
        push: see `DeepFool`.
        batch_size: most images in one forward pass.

    Returns:
        The result; `step` counts the updates before the first wrong prediction. A failure is
        returned as the clean image: it is no adversarial image of any distance.
    """
    added = _ADDED[push] if protocol == "strict" else (0.0, 0.0)
    scale, accumulated = 1 + overshoot, protocol == "strict"
    trajectory = _Trajectory(model, images, labels, norm, added, scale, accumulated, candidates)
    state = AttackState(images)
    active = torch.arange(len(images), device=images.device)
    for number in range(steps + 1):
        # A pass forward to see who goes on, and then one more with the passes backward of those
        # alone: a step costs as many passes backward as there are candidates.
        active = trajectory.predict(state, active, number, batch_size)
        if number == steps or not len(active):
            break
        state.forwards[active] += 1
        state.backwards[active] += trajectory.targets.shape[1]
        moved = [trajectory.advance(batch, steps - number) for batch in active.split(batch_size)]
        active = active[torch.cat(moved)]
    state.blind = trajectory.blind
    fooled = per_image(state.success)
    state.adversarials = torch.where(fooled, trajectory.current, images)
    return state.result()


class _Trajectory:
    """Where the images are: their current values and, under `strict`, the perturbation in all.

    Attributes:
        blind: bool (N,), which had a gradient of zero towards every candidate class.
    """

    def __init__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        norm: Norm,
        added: tuple[float, float],
        scale: float,
        accumulated: bool,
        candidates: int,
    ) -> None:
        self.model = model
        self.clean = images
        self.labels = labels
        self.current = images.clone()
        self.total = torch.zeros_like(images) if accumulated else None
        self.norm: Norm = norm
        self.added = added
        self.scale = scale
        self.candidates = candidates
        # (N, R), of each image the classes with the highest clean logits beside the label.
        self.targets = labels.new_zeros(len(labels), 0)
        self.blind = torch.zeros_like(labels, dtype=torch.bool)

    @torch.no_grad()
    def predict(self, state: AttackState, active: Tensor, number: int, batch_size: int) -> Tensor:
        """Predict images (M,) after so many steps.

        Returns:
            Indices of those that are still predicted right.
        """
        kept = [active[:0]]
        for batch in active.split(batch_size) if len(active) else ():
            logits = self.model(self.current[batch])
            kept.append(batch[state.update(batch, logits, self.labels[batch], number)])
            if number == 0:
                self._consider(batch, logits)
        return torch.cat(kept)

    def _consider(self, batch: Tensor, logits: Tensor) -> None:
        """Choose the candidate classes of some images (B,) by their clean logits (B, K)."""
        best = nearest_classes(logits, self.labels[batch], self.candidates - 1)
        if self.targets.shape[1] != best.shape[1]:
            self.targets = best.new_zeros(len(self.labels), best.shape[1])
        self.targets[batch] = best

    def advance(self, batch: Tensor, steps_left: int) -> Tensor:
        """Take one step with some images (B,).

        Returns:
            bool (B,), whether each image can still change: a step that changes nothing would be
            repeated as it is.
        """
        differences, gradients = _linearise(
            self.model, self.current[batch], self.labels[batch], self.targets[batch]
        )
        self.blind[batch[without_direction(gradients)]] = True
        steps, stuck = _nearest(differences, gradients, self.norm, self.added)
        changing = ~stuck
        changing[~stuck] = self._move(batch[~stuck], steps[~stuck], steps_left)
        return changing

    def _move(self, batch: Tensor, steps: Tensor, steps_left: int) -> Tensor:
        before = self.current[batch]
        if self.total is None:
            after = (before + self.scale * steps).clamp(0, 1)
            changing = (after != before).flatten(1).any(1)
        else:
            self.total[batch] += steps
            after = self._at(batch, self.total[batch])
            # The total can grow unseen (in clipped pixels, or below rounding) and show later.
            last = self._at(batch, self.total[batch] + (steps_left - 1) * steps)
            changing = ((after != before) | (last != before)).flatten(1).any(1)
        self.current[batch] = after
        return changing

    def _at(self, batch: Tensor, total: Tensor) -> Tensor:
        return (self.clean[batch] + self.scale * total).clamp(0, 1)


def _linearise(model: Model, x: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return f (N, R) and w (N, R, C, H, W) of z_target - z_label at x."""
    logits = model(x.requires_grad_())
    differences = logits.gather(1, targets) - logits.gather(1, labels[:, None])
    count = targets.shape[1]
    gradients = [
        torch.autograd.grad(differences[:, k].sum(), x, retain_graph=k + 1 < count)[0]
        for k in range(count)
    ]
    return differences.detach(), torch.stack(gradients, dim=1)


def _nearest(
    differences: Tensor, gradients: Tensor, norm: Norm, added: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """The step (N, C, H, W) to each image's nearest linearised boundary; bool (N,), if none is.

    A tied class, f = 0, is no candidate: its boundary is where the image already stands.
    """
    dual = length(gradients.flatten(0, 1), DUAL[norm]).view_as(differences) + _TINY
    usable = (differences < 0) & dual.isfinite()
    distances = (differences.abs() + added[0]) / dual + added[1]
    distances = torch.where(usable, distances, torch.inf)
    distance, nearest = distances.min(dim=1)
    rows = torch.arange(len(nearest), device=nearest.device)
    w, size = gradients[rows, nearest], dual[rows, nearest]
    direction = w / per_image(size) if norm == "l2" else w.sign()
    return per_image(distance) * direction, ~usable.any(1)
