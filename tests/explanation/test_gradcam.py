import copy

import numpy as np
import pytest
import torch
from monai.visualize import GradCAM
from torch.nn import functional as F

from slicewise.explanation.gradcam import explain
from slicewise.model.network import MultiTaskNetwork


class ClassifierAlone(torch.nn.Module):
    """The network as MONAI expects one: an image in, class scores out."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images, segment=False).tumor[:, None]


class LinearHead(torch.nn.Module):
    """A weighted sum of one map's means: here HiResCAM and Grad-CAM are the same (Draelos and Carin 2020, section 3)."""

    def __init__(self, channels):
        super().__init__()
        self.weights = torch.nn.Linear(channels, 1)

    def forward(self, maps):
        return self.weights(maps[-2].mean(dim=(2, 3))).squeeze(1)


def make_pixels(seed):
    return np.random.default_rng(seed).normal(size=(256, 256)).astype(np.float16)


def make_image(pixels):
    return torch.from_numpy(pixels.astype(np.float32))[None, None].requires_grad_()


@pytest.fixture(scope="module")
def network(tiny):
    torch.manual_seed(3)
    return MultiTaskNetwork(tiny).eval()


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_monai_where_the_head_is_linear(network, tiny, seed):
    torch.manual_seed(seed)
    linear = copy.deepcopy(network)
    linear.classifier = LinearHead(tiny.widths[-2])
    pixels = make_pixels(seed)
    # MONAI's default post-processing maps a map's largest value to 0 and its smallest to 1.
    cam = GradCAM(
        ClassifierAlone(copy.deepcopy(linear)).eval(),
        target_layers=f"network.encoder.levels.{len(tiny.widths) - 2}",
        postprocessing=lambda heat: heat,
    )
    reference = F.relu(torch.as_tensor(cam(make_image(pixels), class_idx=0)[0, 0])).detach().numpy()
    assert reference.max() > 0
    np.testing.assert_allclose(explain(linear, pixels), reference / reference.max(), atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_gradient_of_a_whole_pass(network, seed):
    pixels, seen = make_pixels(seed), []
    whole = copy.deepcopy(network)

    def keep(module, args, output):
        output.retain_grad()
        seen.append(output)

    whole.encoder.levels[-2].register_forward_hook(keep)
    whole(make_image(pixels), segment=False).tumor.sum().backward()
    reference = F.relu((seen[0].grad * seen[0]).sum(dim=1, keepdim=True)).detach()
    reference = F.interpolate(reference, scale_factor=16, mode="bilinear")[0, 0].numpy()
    assert reference.max() > 0
    np.testing.assert_allclose(explain(network, pixels), reference / reference.max(), atol=1e-4)


class Corner(torch.nn.Module):
    """An encoder that saw something in the upper left corner, in its second deepest map and nowhere else."""

    def forward(self, images):
        features = torch.zeros(len(images), 8, 16, 16)
        features[:, 2, :6, :6] = 1.0
        return [features, *self.deepen(features, below=1)]

    def deepen(self, features, below):
        return [torch.zeros(len(features), 8, 8, 8)]


@pytest.mark.parametrize("pool", ["mean", "amax"])
def test_heat_lies_where_the_evidence_is(tiny, pool):
    network = MultiTaskNetwork(tiny).eval()

    class Head(torch.nn.Module):
        def forward(self, maps):
            return getattr(maps[-2][:, 2], pool)(dim=(1, 2))

    network.encoder, network.classifier = Corner(), Head()
    heat = explain(network, np.zeros((256, 256), np.float16))
    assert heat[16:80, 16:80].min() > 0.5
    assert heat[112:].max() == heat[:, 112:].max() == 0
    assert heat.max() == 1


def test_what_speaks_against_tumor_gives_no_heat(tiny):
    network = MultiTaskNetwork(tiny).eval()

    class Head(torch.nn.Module):
        def forward(self, maps):
            return -maps[-2].mean(dim=(1, 2, 3))

    network.encoder, network.classifier = Corner(), Head()
    assert not explain(network, np.zeros((256, 256), np.float16)).any()


def test_leaves_no_trace_on_the_network(network):
    explain(network, np.zeros((256, 256), np.float16))
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())
    assert not network.training
