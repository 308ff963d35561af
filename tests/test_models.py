"""The networks against the authors': counts, places of strides and shortcuts, first weights."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from swa_bench.models import MODELS, build_model
from swa_bench.models.pyramidnet import PyramidBlock
from swa_bench.models.shakeshake import Shake, ShakeBlock, Shortcut
from swa_bench.models.wide_resnet import WideBlock


def shake_stage(inputs: int, width: int) -> int:
    """Four blocks of two branches, each of two convolutions and batch norms, and a shortcut."""
    first = 2 * (9 * inputs * width + 9 * width**2 + 4 * width) + inputs * width + 2 * width
    return first + 3 * 2 * (2 * 9 * width**2 + 4 * width)


# Widths of the 90 bottlenecks of PyramidNet-272, in exact fractions, and the channels before each.
PYRAMID = [round(Fraction(16) + Fraction(200 * k, 90)) for k in range(1, 91)]
PYRAMID_INPUTS = [16, *(4 * width for width in PYRAMID[:-1])]
PYRAMID_WEIGHTS = 27 * 16 + sum(
    inputs * w + 9 * w**2 + 4 * w**2 for inputs, w in zip(PYRAMID_INPUTS, PYRAMID, strict=True)
)
PYRAMID_NORMS = 2 * (16 + sum(PYRAMID_INPUTS) + 6 * sum(PYRAMID) + 4 * PYRAMID[-1])

PARAMETERS = {
    ("vgg16", 10): 15_245_130,
    ("vgg16", 100): 15_291_300,
    ("vgg16_bn", 10): 15_253_578,
    ("vgg16_bn", 100): 15_299_748,
    ("preresnet110", 10): 1_146_842,
    ("preresnet110", 100): 1_169_972,
    ("preresnet164", 10): 1_703_258,
    ("preresnet164", 100): 1_726_388,
    ("wrn28_10", 10): 36_489_290,
    ("wrn28_10", 100): 36_546_980,
    # As published for the net of arXiv 1605.07146 (36.5 M).
    ("wrn28_10_standard", 10): 36_479_194,
    ("wrn28_10_standard", 100): 36_536_884,
    # Worked out layer by layer: VGG19 adds one 3x3 convolution of 256, 512, 512 to VGG16.
    ("vgg19", 10): 15_245_130 + (9 * 256 * 256 + 256) + 2 * (9 * 512 * 512 + 512),
    # 5,504 outputs of convolutions, two batch-norm parameters each.
    ("vgg19_bn", 10): 15_245_130 + (9 * 256 + 1) * 256 + 2 * (9 * 512 + 1) * 512 + 2 * 5_504,
    ("shakeshake26_2x64d", 10): 27 * 16
    + 2 * 16
    + shake_stage(16, 64)
    + shake_stage(64, 128)
    + shake_stage(128, 256)
    + 257 * 10,
    ("pyramidnet272_a200", 10): PYRAMID_WEIGHTS + PYRAMID_NORMS + 865 * 10,
    ("pyramidnet272_a200", 100): PYRAMID_WEIGHTS + PYRAMID_NORMS + 865 * 100,
    # Basic blocks, n = 3: convolutions, shortcuts, batch norms, the linear layer.
    ("preresnet20", 10): sum(
        (
            9 * 3 * 16 + 6 * 9 * 16 * 16,
            9 * 16 * 32 + 5 * 9 * 32 * 32 + 16 * 32,
            9 * 32 * 64 + 5 * 9 * 64 * 64 + 32 * 64,
            2 * (6 * 16 + 16 + 5 * 32 + 32 + 5 * 64 + 64),
            65 * 10,
        )
    ),
}
# Forward multiply-adds times 2; a stride in another place would change them.
GFLOP = {"vgg16": 0.627, "preresnet110": 0.335, "preresnet164": 0.495, "wrn28_10": 11.9}
GFLOP |= {"shakeshake26_2x64d": 3.37, "pyramidnet272_a200": 8.98}


@pytest.mark.parametrize(("name", "classes"), PARAMETERS)
def test_number_of_parameters(name: str, classes: int) -> None:
    with torch.device("meta"):
        model = build_model(name, classes)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name, classes]


@pytest.mark.parametrize("name", GFLOP)
def test_forward_operations_of_an_image(name: str) -> None:
    with torch.device("meta"):
        model, image = build_model(name, 10), torch.empty(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        model(image)
    assert counter.get_total_flops() / 1e9 == pytest.approx(GFLOP[name], rel=5e-3)


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_every_parameter_is_used(name: str) -> None:
    with torch.device("meta"):
        model, images = build_model(name, 7), torch.empty(2, 3, 32, 32)
    logits = model(images)
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ValueError, match=r"resnet50.*vgg16, vgg16_bn.*wrn28_10"):
        build_model("resnet50", 10)


def modules(name: str, kind: type) -> list:
    with torch.device("meta"):
        return [m for m in build_model(name, 10).modules() if isinstance(m, kind)]


def test_vgg16_has_no_batch_norm_and_five_pools() -> None:
    assert modules("vgg16", nn.BatchNorm2d) == []
    assert len(modules("vgg16_bn", nn.BatchNorm2d)) == 13
    assert len(modules("vgg16", nn.MaxPool2d)) == 5
    assert len(modules("vgg16", nn.Dropout)) == 2
    assert all(conv.bias is not None for conv in modules("vgg16", nn.Conv2d))
    assert len(modules("vgg19", nn.Conv2d)) == 16


@pytest.mark.parametrize(("name", "blocks"), [("preresnet110", 12), ("preresnet164", 18)])
def test_preresnet_depth_and_biases(name: str, blocks: int) -> None:
    convolutions = modules(name, nn.Conv2d)
    three_by_three = [c for c in convolutions if c.kernel_size == (3, 3)]
    assert len(three_by_three) == 3 * blocks + 1
    assert len(convolutions) == 9 * blocks + 1 + 3  # three shortcuts
    assert all(conv.bias is None for conv in convolutions)
    # Two strides of 2 on the 3x3, two on the shortcuts, none on another 1x1.
    strided = [c for c in convolutions if c.stride == (2, 2)]
    assert sorted(c.kernel_size for c in strided) == [(1, 1), (1, 1), (3, 3), (3, 3)]


@pytest.mark.parametrize("name", ["preresnet20", "preresnet110", "wrn28_10"])
def test_shortcut_reads_the_raw_input(name: str) -> None:
    """With its convolutions at zero a block is its shortcut, of the input before batch norm."""
    torch.manual_seed(0)
    with torch.device("meta"):
        block = build_model(name, 10).stages[1][0]
    block = block.to_empty(device="cpu").eval()
    for layer in block.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
            layer.reset_running_stats()
    inputs = block.bn1.num_features
    with torch.no_grad():
        for name_, parameter in block.named_parameters():
            if "conv" in name_:
                parameter.zero_()
        nn.init.normal_(block.shortcut.weight)
        if block.shortcut.bias is not None:
            nn.init.normal_(block.shortcut.bias)
        x = torch.randn(2, inputs, 8, 8)
        expected = torch.einsum(
            "oi,nihw->nohw", block.shortcut.weight[:, :, 0, 0], x[..., ::2, ::2]
        )
        if block.shortcut.bias is not None:
            expected += block.shortcut.bias[:, None, None]
        torch.testing.assert_close(block(x.clone()), expected, rtol=1e-4, atol=1e-4)


def test_wrn_quirks() -> None:
    convolutions = modules("wrn28_10", nn.Conv2d)
    assert len(convolutions) == 1 + 3 * 4 * 2 + 3
    assert all(conv.bias is not None for conv in convolutions)
    *inner, last = modules("wrn28_10", nn.BatchNorm2d)
    assert last.momentum == 0.9
    assert {layer.momentum for layer in inner} == {0.1}
    with torch.device("meta"):
        block = build_model("wrn28_10", 10).stages[1][0]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize(
    "name", ["vgg16", "preresnet110", "shakeshake26_2x64d", "pyramidnet272_a200"]
)
def test_convolutions_start_normal_with_fan_out(name: str) -> None:
    torch.manual_seed(0)
    for layer in build_model(name, 10).modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 2_000:
            k, out = layer.kernel_size[0], layer.out_channels
            assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (k * k * out)), rel=0.1)
            # A normal distribution exceeds two standard deviations in 4.6 % of the draws.
            beyond = (layer.weight.abs() > 2 * layer.weight.std()).float().mean().item()
            assert beyond == pytest.approx(0.0455, abs=0.02)
            assert layer.bias is None or not layer.bias.any()


def test_standard_wrn_has_none_of_the_quirks() -> None:
    assert all(conv.bias is None for conv in modules("wrn28_10_standard", nn.Conv2d))
    assert {bn.momentum for bn in modules("wrn28_10_standard", nn.BatchNorm2d)} == {0.1}
    block = WideBlock(160, 320, stride=2, standard=True).eval()
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    nn.init.ones_(block.shortcut.weight)
    nn.init.ones_(block.bn1.bias)  # of zero scale: every activation is 1, whatever the input
    out = block(torch.randn(1, 160, 4, 4))
    assert torch.equal(out, torch.full((1, 320, 2, 2), 160.0))


def test_linear_layers_and_wrn_keep_torchs_own_start() -> None:
    """Uniform within 1 / sqrt(fan in), biases too: torch's default for both kinds of layer."""
    torch.manual_seed(0)
    layers = [m for m in build_model("vgg16", 10).modules() if isinstance(m, nn.Linear)]
    layers += [m for m in build_model("wrn28_10", 10).modules() if isinstance(m, nn.Conv2d)]
    for layer in layers:
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert layer.bias is not None and layer.bias.any()
        for tensor in (layer.weight, layer.bias):
            assert tensor.abs().max().item() <= bound * (1 + 1e-6)
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_published_size_of_pyramidnet() -> None:
    """26.0 million: its convolutions and the linear layer for 10 classes."""
    assert PYRAMID_WEIGHTS + 865 * 10 == 25_999_978
    norms = modules("pyramidnet272_a200", nn.BatchNorm2d)
    assert sum(2 * norm.num_features for norm in norms) == PYRAMID_NORMS


def test_shake_weighs_by_alpha_and_its_gradients_by_beta() -> None:
    """Two images, with weights of their own; in float64 by hand."""
    torch.manual_seed(0)
    one, other = (torch.randn(2, 3, 4, 4, dtype=torch.float64).requires_grad_() for _ in range(2))
    alpha, beta = (torch.tensor(pair).double().view(2, 1, 1, 1) for pair in ((0.2, 1), (0.75, 0)))
    mixed = Shake.apply(one, other, alpha, beta)
    torch.testing.assert_close(mixed[0], 0.2 * one[0] + 0.8 * other[0])
    torch.testing.assert_close(mixed[1], one[1])
    gradient = torch.randn_like(mixed)
    mixed.backward(gradient)
    assert one.grad is not None and other.grad is not None
    torch.testing.assert_close(one.grad[0], 0.75 * gradient[0])
    torch.testing.assert_close(other.grad[0], 0.25 * gradient[0])
    assert not one.grad[1].any() and torch.equal(other.grad[1], gradient[1])


class Constant(nn.Module):
    """A branch that gives one number, and keeps the mean gradient of each image."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.gradients = torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.value.expand_as(x).clone()
        out.register_hook(lambda gradient: setattr(self, "gradients", gradient.mean((1, 2, 3))))
        return out


def test_every_image_and_pass_of_a_block_draws_alpha_and_beta() -> None:
    """Of branches that give 1 and 0, the mix is alpha, and of a sum, the gradient is beta."""
    torch.manual_seed(0)
    block = ShakeBlock(4, 4, stride=1)
    block.branch1, block.branch2 = Constant(1.0), Constant(0.0)
    alphas, betas = [], []
    for _ in range(2):
        out = block(torch.zeros(500, 4, 2, 2))
        out.sum().backward()
        assert torch.equal(out, out[:, :1, :1, :1].expand_as(out))
        alphas.append(out[:, 0, 0, 0].detach())
        betas.append(block.branch1.gradients)
        torch.testing.assert_close(betas[-1] + block.branch2.gradients, torch.ones(500))
    drawn = torch.stack(alphas + betas)
    assert 0 <= drawn.min() < 0.01 and 0.99 < drawn.max() < 1
    # Uniform: mean 1/2, standard deviation 0.289; four columns without correlation.
    assert drawn.mean(1).tolist() == pytest.approx([0.5] * 4, abs=0.05)
    assert drawn.std(1).tolist() == pytest.approx([12**-0.5] * 4, abs=0.03)
    assert torch.corrcoef(drawn).fill_diagonal_(0).abs().max() < 0.15
    state = torch.get_rng_state()
    x = torch.randn(3, 4, 2, 2)
    assert torch.equal(block.eval()(x), x + 0.5)
    torch.set_rng_state(state)
    assert torch.equal(torch.randn(3, 4, 2, 2), x)  # evaluation drew nothing


def test_shake_shortcut_sees_every_other_pixel_and_its_upper_left_neighbour() -> None:
    shortcut = Shortcut(1, 2, stride=2).eval()
    nn.init.ones_(shortcut.conv1.weight)
    nn.init.ones_(shortcut.conv2.weight)
    shortcut.bn.eps = 0.0
    pixels = torch.arange(16.0).view(1, 1, 4, 4)
    assert shortcut(pixels).tolist() == [[[[0, 2], [8, 10]], [[0, 0], [0, 5]]]]


@pytest.mark.parametrize("stride", [1, 2])
def test_pyramid_shortcut_averages_and_adds_zeros(stride: int) -> None:
    """With the last batch norm at zero a block is its shortcut."""
    block = PyramidBlock(5, 2, stride).eval()
    nn.init.zeros_(block.bn4.weight)
    x = torch.randn(2, 5, 8, 8)
    expected = x if stride == 1 else x.view(2, 5, 4, 2, 4, 2).mean((3, 5))
    out = block(x)
    torch.testing.assert_close(out[:, :5], expected)
    assert out.shape[1] == 8 and not out[:, 5:].any()
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (stride, stride))


@pytest.mark.parametrize("name", ["shakeshake26_2x64d", "pyramidnet272_a200"])
def test_linear_layers_of_the_networks_from_lua_start_without_bias(name: str) -> None:
    last = build_model(name, 10).fc
    assert not last.bias.any()
    assert 0.9 < last.weight.abs().max() * math.sqrt(last.in_features) <= 1
    assert all(conv.bias is None for conv in modules(name, nn.Conv2d))
