import pytest
import torch

from slicewise.config import ModelConfig
from slicewise.model.network import PARTS, MultiTaskNetwork, average


@pytest.fixture(scope="module")
def network(tiny):
    torch.manual_seed(0)
    return MultiTaskNetwork(tiny).eval()


def test_default_size_is_about_two_million_and_below_the_limit():
    count = sum(weight.numel() for weight in MultiTaskNetwork(ModelConfig()).parameters())
    assert 1_900_000 < count <= 2_500_000


def test_parts_hold_every_weight_once(network):
    by_part = [id(weight) for weight in network.part_parameters(PARTS)]
    assert sorted(by_part) == sorted(id(weight) for weight in network.parameters())
    assert network.count_parameters() == sum(network.count_parameters((part,)) for part in PARTS)


@pytest.mark.parametrize("size", [(256, 256), (64, 96)])
def test_logits_have_the_size_of_the_input(network, size):
    logits = network(torch.randn(3, 1, *size))
    assert logits.mask.shape == (3, 1, *size)
    assert logits.tumor.shape == (3,)


def test_switches_leave_a_head_out_and_change_nothing_else(network):
    images = torch.randn(2, 1, 64, 64)
    both = network(images)
    only_mask, only_tumor = network(images, classify=False), network(images, segment=False)
    assert only_mask.tumor is None
    assert only_tumor.mask is None
    assert torch.equal(only_mask.mask, both.mask)
    assert torch.equal(only_tumor.tumor, both.tumor)


def test_decoder_does_not_run_when_only_classifying(network, monkeypatch):
    def refuse(_):
        raise AssertionError("the decoder ran")

    monkeypatch.setattr(network.decoder, "forward", refuse)
    network(torch.randn(1, 1, 64, 64), segment=False)


def test_every_weight_gets_a_gradient(tiny):
    network = MultiTaskNetwork(tiny).train()
    logits = network(torch.randn(4, 1, 64, 64))
    (logits.mask.square().mean() + logits.tumor.square().mean()).backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert without == []


def test_a_shift_by_the_coarsest_stride_shifts_the_mask(network):
    """Fold and unfold must agree on which pixel is which: a moved input gives the moved output."""
    images = torch.zeros(1, 1, 256, 256)
    images[..., 96:128, 96:160] = 3.0
    moved = torch.roll(images, shifts=(32, 64), dims=(2, 3))
    with torch.inference_mode():
        first, second = network(images, classify=False).mask, network(moved, classify=False).mask
    back = torch.roll(second, shifts=(-32, -64), dims=(2, 3))
    assert torch.allclose(first[..., 64:160, 64:160], back[..., 64:160, 64:160], atol=1e-4)


def test_folding_batch_norm_changes_nothing_but_the_last_bits(tiny):
    torch.manual_seed(1)
    network = MultiTaskNetwork(tiny).train()
    images = torch.randn(4, 1, 64, 64)
    for _ in range(3):  # statistics that are not the initial 0 and 1
        network(2 * images + 1)
    network.eval()
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = network.folded()
    with torch.inference_mode():
        for before, after in zip(network(images), folded(images), strict=True):
            torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())


def test_the_average_of_networks_has_the_mean_of_every_weight(tiny):
    torch.manual_seed(0)
    networks = [MultiTaskNetwork(tiny) for _ in range(3)]
    for network in networks:
        network.train()(torch.randn(2, 1, 64, 64))  # statistics of their own
    mean = average(networks).state_dict()
    for name, tensor in mean.items():
        parts = [network.state_dict()[name] for network in networks]
        assert tensor.dtype == parts[0].dtype
        assert torch.allclose(tensor.double(), sum(part.double() for part in parts) / 3, atol=1e-6), name
    assert not any(torch.equal(mean[name], networks[0].state_dict()[name]) for name in mean if name.endswith("conv.weight"))
