import copy

import numpy as np
import pytest
import torch
from monai.visualize import GradCAM

from slicewise.explanation.gradcam import explain
from slicewise.model.network import MultiTaskUNet


class ClassifierAlone(torch.nn.Module):
    """The network as MONAI expects one: an image in, class scores out."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images, segment=False).tumor[:, None]


@pytest.fixture(scope="module")
def network(tiny):
    torch.manual_seed(3)
    return MultiTaskUNet(tiny).eval()


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_monai(network, seed):
    pixels = np.random.default_rng(seed).normal(size=(256, 256)).astype(np.float16)
    image = torch.from_numpy(pixels.astype(np.float32))[None, None].requires_grad_()
    deepest = f"network.encoder.levels.{len(network.encoder.levels) - 1}"
    # MONAI's default post-processing maps a map's largest value to 0 and its smallest to 1.
    cam = GradCAM(ClassifierAlone(copy.deepcopy(network)).eval(), target_layers=deepest, postprocessing=lambda heat: heat)
    reference = cam(image, class_idx=0)[0, 0]
    reference = torch.nn.functional.relu(torch.as_tensor(reference)).detach().numpy()
    heat = explain(network, pixels)
    assert heat.shape == (256, 256)
    if reference.max() > 0:
        np.testing.assert_allclose(heat, reference / reference.max(), atol=1e-4)
    else:
        assert not heat.any()


def test_heat_lies_where_the_evidence_is(tiny):
    """A head that looks at one channel of a map which is lit in one corner: the heat is there and nowhere else."""
    torch.manual_seed(0)
    network = MultiTaskUNet(tiny).eval()

    class Corner(torch.nn.Module):
        def forward(self, images):
            features = torch.zeros(len(images), 8, 8, 8)
            features[:, 2, :3, :3] = 1.0
            return [features]

    class Head(torch.nn.Module):
        def forward(self, maps):
            return maps[-1][:, 2].mean(dim=(1, 2))

    network.encoder, network.classifier = Corner(), Head()
    heat = explain(network, np.zeros((256, 256), np.float16))
    assert heat[:80, :80].min() > 0.5
    assert heat[128:].max() == heat[:, 128:].max() == 0
    assert heat.max() == 1


def test_nothing_that_speaks_for_tumor_gives_no_heat(tiny):
    class Against(torch.nn.Module):
        def forward(self, maps):
            return -maps[-1].clamp_min(0).mean(dim=(1, 2, 3))

    class Constant(torch.nn.Module):
        def forward(self, images):
            return [torch.ones(len(images), 8, 8, 8)]

    blind = MultiTaskUNet(tiny).eval()
    blind.encoder, blind.classifier = Constant(), Against()
    assert not explain(blind, np.zeros((256, 256), np.float16)).any()


def test_leaves_no_trace_on_the_network(network):
    explain(network, np.zeros((256, 256), np.float16))
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())
    assert not network.training
