"""What an attack or a faster form says of a classifier is true of it, however it is built.

A small random classifier of each kind that people build meets every attack: what hides from one who
looks at its layers alone (a hook, a parametrisation, another `forward`, a change in place) must
count as much as in the classifier's own answer.
"""

import functools
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from test_attacks_table import Row, every_attack
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from funn.attacks import BIM, Square
from funn.attacks.pixel.incremental import known_layers
from funn.fast_layers import with_fast_layers
from funn.runtime.convolution import ThinConv2d
from funn.runtime.linear import DenseProduct

# The images of the attacks' table, for which its budgets are.
SHAPE, CLASSES = (1, 8, 8), 4
# Nearer to a tie rounding may decide.
NEAR = 1e-4

Kind = Callable[[], nn.Module]
KINDS: dict[str, Kind] = {}


def kind(make: Kind) -> Kind:
    KINDS[make.__name__] = make
    return make


def sharp(layer: nn.Module) -> nn.Module:
    """A layer by whose like a small change of an image may change its class."""
    with torch.no_grad():
        layer.weight -= layer.weight.mean(tuple(range(1, layer.weight.ndim)), keepdim=True)
        layer.weight *= 4
    return layer


def layers(relu: Callable[[], nn.Module] = nn.ReLU) -> list[nn.Module]:
    """Of the shape for which single pixels and convolutions have faster ways."""
    return [
        sharp(nn.Conv2d(1, 4, 3, stride=2, padding=1)),
        relu(),
        sharp(nn.Conv2d(4, 5, 3, padding=1)),
        relu(),
        nn.Flatten(),
        sharp(nn.Linear(80, 16)),
        relu(),
        sharp(nn.Linear(16, CLASSES)),
    ]


def normalised(x: Tensor) -> Tensor:
    return (x - 0.5) / 0.25


class Normalising(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(normalised(x))


class InPlace(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.5).div_(0.25))


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(1 - x)


class Padded(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(normalised(x)).roll(1, dims=3)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.flip(-1) * 2


class Reads(nn.Module):
    """Takes the shape of its maps from its layers, as many models do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = sharp(nn.Conv2d(1, 4, 3, stride=2, padding=1))
        self.linear = sharp(nn.Linear(64, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[2] // self.conv.stride[0]
        maps = torch.relu(self.conv(x)).view(-1, self.conv.out_channels * side**2)
        return self.linear(maps[:, : self.linear.in_features])


@kind
def plain() -> nn.Module:
    return nn.Sequential(*layers())


@kind
def sequential_with_another_forward() -> nn.Module:
    return Normalising(*layers())


@kind
def nested_sequential_with_another_forward() -> nn.Module:
    parts = layers()
    return nn.Sequential(Normalising(*parts[:4]), nn.Sequential(*parts[4:]))


@kind
def linear_with_another_forward() -> nn.Module:
    return nn.Sequential(*layers()[:5], sharp(Scaled(80, CLASSES)))


@kind
def convolution_with_another_forward() -> nn.Module:
    return nn.Sequential(sharp(Padded(1, 4, 3, stride=2, padding=1)), *layers()[1:])


@kind
def pre_hook_on_a_layer() -> nn.Module:
    model = plain()
    model[0].register_forward_pre_hook(lambda module, inputs: (normalised(inputs[0]),))
    return model


@kind
def hook_on_a_layer() -> nn.Module:
    model = plain()
    model[5].register_forward_hook(lambda module, inputs, output: 1 - output)
    return model


@kind
def hook_on_an_activation() -> nn.Module:
    model = plain()
    model[1].register_forward_hook(lambda module, inputs, output: output.clamp(max=0.3))
    return model


@kind
def pre_hook_on_a_container() -> nn.Module:
    parts = layers()
    model = nn.Sequential(nn.Sequential(*parts[:4]), *parts[4:])
    model[0].register_forward_pre_hook(lambda module, inputs: (normalised(inputs[0]),))
    return model


@kind
def hook_on_a_container() -> nn.Module:
    parts = layers()
    model = nn.Sequential(nn.Sequential(*parts[:4]), *parts[4:])
    model[0].register_forward_hook(lambda module, inputs, output: output.flip(3) - 0.2)
    return model


@kind
def pre_hook_on_the_model() -> nn.Module:
    model = plain()
    model.register_forward_pre_hook(lambda module, inputs: (normalised(inputs[0]),))
    return model


@kind
def hook_on_the_model() -> nn.Module:
    model = plain()
    model.register_forward_hook(lambda module, inputs, output: output.roll(1, dims=1) * 3)
    return model


@kind
def parametrised() -> nn.Module:
    model = plain()
    parametrize.register_parametrization(model[0], "weight", Doubled())
    parametrize.register_parametrization(model[5], "weight", Doubled())
    return model


def with_each(change: Callable[[nn.Module], Any]) -> nn.Module:
    model = plain()
    for layer in model:
        if hasattr(layer, "weight"):
            change(layer)
    return model


@kind
def weight_norm() -> nn.Module:
    return with_each(parametrizations.weight_norm)


@kind
def weight_norm_by_hooks() -> nn.Module:
    with warnings.catch_warnings(action="ignore"):  # torch's own advice to take the other
        return with_each(torch.nn.utils.weight_norm)


@kind
def spectral_norm() -> nn.Module:
    return with_each(parametrizations.spectral_norm)


@kind
def spectral_norm_by_hooks() -> nn.Module:
    with warnings.catch_warnings(action="ignore"):
        return with_each(torch.nn.utils.spectral_norm)


@kind
def pruned() -> nn.Module:
    return with_each(lambda layer: prune.l1_unstructured(layer, "weight", 0.5))


@kind
def forward_replaced_on_layers() -> nn.Module:
    model = plain()
    model[0].forward = types.MethodType(
        lambda self, x: F.conv2d(normalised(x), self.weight, None, self.stride, self.padding),
        model[0],
    )
    model[5].forward = types.MethodType(lambda self, x: F.linear(1 - x, self.weight), model[5])
    return model


@kind
def forward_replaced_on_the_model() -> nn.Module:
    model = plain()
    model.forward = types.MethodType(
        lambda self, x: nn.Sequential.forward(self, normalised(x)), model
    )
    return model


@kind
def input_changed_in_place() -> nn.Module:
    return InPlace(*layers())


@kind
def activations_in_place() -> nn.Module:
    return Normalising(*layers(lambda: nn.ReLU(inplace=True)))


@kind
def reads_its_layers() -> nn.Module:
    return Reads()


@kind
def activation_used_twice() -> nn.Module:
    relu = nn.ReLU()
    return nn.Sequential(*layers(lambda: relu))


@kind
def dense_layer_used_twice() -> nn.Module:
    shared = sharp(nn.Linear(16, 16))
    parts = layers()
    return nn.Sequential(*parts[:7], shared, nn.ReLU(), shared, nn.ReLU(), parts[7])


@kind
def flattened_in_part() -> nn.Module:
    convolutions = layers()[:4]
    return nn.Sequential(
        *convolutions,
        nn.Flatten(1, 2),
        sharp(nn.Linear(4, 3)),
        nn.Flatten(),
        sharp(nn.Linear(60, CLASSES)),
    )


class Box(nn.Module):
    """Calls a model, and hides how it is built."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def made(name: str) -> nn.Module:
    """A classifier of a kind, after a step of training: the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = KINDS[name]().train()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * parameter.std() * torch.randn(parameter.shape)
        for _ in range(3):
            model(torch.rand(4, *SHAPE))
    return model.eval()


@functools.cache
def target(name: str, count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A classifier, images of high contrast and its predictions; of the first another class."""
    model = made(name)
    draw = torch.Generator().manual_seed(3)
    images = torch.rand(count, *SHAPE, generator=draw).round() * 0.9 + 0.05
    labels = model(images.clone()).argmax(1)
    labels[:1] = (labels[:1] + 1) % CLASSES
    return model, images, labels


def attacked(row: Row, model: nn.Module, images: Tensor, labels: Tensor) -> Any:
    """What an attack finds in a few steps."""
    attack = row.make(model)
    for name, most in (("steps", 3), ("queries", 8), ("targets", 1)):
        if hasattr(attack, name):
            setattr(attack, name, min(getattr(attack, name), most))
    if isinstance(model, Box):  # whose encoder is that of what it hides
        model.__dict__["encoder"] = next(model.model.children())
    return attack.run(images, labels)


def margins(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    logits = model(images.clone()).detach()
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return logits.gather(1, labels[:, None])[:, 0] - others.amax(1)


def state(model: nn.Module) -> dict[str, Any]:
    """All that an attack could leave changed of each part, but for the values."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return {
        name: (
            type(part),
            part.training,
            "forward" in vars(part),
            [list(getattr(part, each)) for each in hooks],
            [(key, value.requires_grad, value.grad) for key, value in part.named_parameters()],
        )
        for name, part in model.named_modules()
    }


def copied(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in values.items()}


def assert_same_values(values: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert values.keys() == others.keys()
    assert all(torch.equal(value, others[key]) for key, value in values.items())


every_kind = pytest.mark.parametrize("name", KINDS)


@every_kind
@every_attack
def test_what_an_attack_claims_is_true_of_the_model_itself(row: Row, name: str) -> None:
    """And is what it finds where nothing shows how the model is built."""
    itself, images, labels = target(name, 3 if row.gradients else 6)
    model, _, _ = target(name, 0)
    before = images.clone(), state(model), copied(model.state_dict())
    result = attacked(row, model, images, labels)
    assert torch.equal(images, before[0])
    assert ((result.adversarials >= 0) & (result.adversarials <= 1)).all()
    size = (result.adversarials - images).flatten(1).norm(p=row.norm, dim=1)
    assert (size <= row.budget + 1e-5).all()
    assert (margins(itself, result.adversarials, labels)[result.success] < NEAR).all()
    assert state(model) == before[1]
    assert_same_values(model.state_dict(), before[2])
    assert torch.equal(model(images.clone()), itself(images.clone()))

    hidden = attacked(row, Box(itself), images, labels)
    sure = (result.closest > NEAR) & (hidden.closest > NEAR)
    assert torch.equal(result.success[sure], hidden.success[sure])
    torch.testing.assert_close(
        result.adversarials[sure], hidden.adversarials[sure], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", ["input_changed_in_place", "activations_in_place"])
@every_attack
def test_what_a_model_does_in_place_changes_nothing(row: Row, name: str) -> None:
    twin, images, labels = target("sequential_with_another_forward", 6)
    result, same = (attacked(row, model, images, labels) for model in (made(name), twin))
    assert torch.equal(result.success, same.success)
    torch.testing.assert_close(result.adversarials, same.adversarials, atol=1e-5, rtol=0)


class BehindAutogradsBack(nn.Sequential):
    """Writes into its input's memory without telling autograd."""

    def forward(self, images: Tensor) -> Tensor:
        images.data.sub_(0.5)
        return super().forward(images)


def test_a_model_that_hides_its_writing_gets_copies() -> None:
    images = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(4))
    model = BehindAutogradsBack(*layers()).eval()
    labels = model(images.clone()).argmax(1)
    result = BIM(model, eps=0.1).run(images, labels)
    assert ((result.adversarials - images).abs() <= 0.1 + 1e-6).all()


def test_a_model_that_writes_into_some_batches_only_is_refused() -> None:
    class Sometimes(nn.Sequential):
        calls = 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            with torch.no_grad():
                return super().forward(images.sub_(0.5) if self.calls > 1 else images)

    images = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(4))
    model = Sometimes(*layers()).eval()
    labels = nn.Sequential(*model)(images).argmax(1)
    with pytest.raises(ValueError, match="in place: let its forward begin with"):
        Square(model, eps=0.1, queries=5).run(images, labels)


def assert_fast_copy(model: nn.Module, fast: nn.Module) -> None:
    """It has the model's logits and gradients, and what other code reads of the model's layers."""
    # As many images as it takes for dense layers to go their own way.
    draw = torch.Generator().manual_seed(4)
    images = torch.rand(2000, *SHAPE, generator=draw)
    for ours, theirs in zip(passes(fast, images), passes(model, images), strict=True):
        apart = (ours - theirs).flatten(1).norm(dim=1)
        assert (apart <= 1e-4 * theirs.flatten(1).norm(dim=1) + 1e-6).float().mean() > 0.99
    shared = dict(model.named_parameters())
    assert {name: value.shape for name, value in fast.named_parameters()} == {
        name: value.shape for name, value in shared.items()
    }
    assert fast.state_dict().keys() == model.state_dict().keys()
    assert not any(value is shared[name] for name, value in fast.named_parameters())
    for name, part in model.named_modules():
        for read in ("out_channels", "in_features", "stride", "padding", "kernel_size"):
            if hasattr(part, read):
                assert getattr(fast.get_submodule(name), read) == getattr(part, read)
    with torch.no_grad():  # what the copy is trained to do is nothing of the model's
        before = model(images[:9].clone())
        for parameter in fast.parameters():
            parameter.zero_()
        assert torch.equal(model(images[:9].clone()), before)


def passes(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradients of the images of a mixture of them."""
    start = images.clone().requires_grad_()
    logits = model(start.clone())
    mixture = torch.randn(CLASSES, generator=torch.Generator().manual_seed(5))
    return logits.detach(), torch.autograd.grad((logits * mixture).sum(), start)[0]


@every_kind
def test_the_copy_with_fast_layers_is_the_model(name: str) -> None:
    model = made(name)
    assert_fast_copy(model, with_fast_layers(model))


@every_kind
def test_the_copy_with_fast_layers_is_the_model_where_both_are_compared(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = made(name)
    assert_fast_copy(model, with_fast_layers(model, torch.rand(4, *SHAPE)))
    assert not caplog.records


def test_only_layers_with_nothing_around_them_go_the_faster_ways() -> None:
    known = {name for name in KINDS if known_layers(made(name)) is not None}
    assert known == {"plain", "activation_used_twice", "dense_layer_used_twice"}
    fast = with_fast_layers(made("plain"))
    assert (type(fast[0]), type(fast[5])) == (ThinConv2d, DenseProduct)
