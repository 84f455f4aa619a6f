"""One step, and the angle between the tasks' gradients."""

import dataclasses
import math

import pytest
import torch

from slicewise.data.dataset import Batch
from slicewise.errors import TrainingError
from slicewise.model.network import MultiTaskNetwork
from slicewise.training import step as room
from slicewise.training.losses import Objective
from slicewise.training.phases import plan_phases
from slicewise.training.processes import open_fabric
from slicewise.training.step import Learner, gradient_cosine


@pytest.fixture
def batch():
    torch.manual_seed(1)
    known = torch.ones(4, dtype=torch.bool)
    return Batch(
        images=torch.randn(4, 1, 64, 64),
        masks=(torch.rand(4, 1, 64, 64) > 0.9).float(),
        mask_known=known,
        labels=torch.tensor([0.0, 1.0, 1.0, 0.0]),
        label_known=known,
    )


@pytest.fixture
def parts(small_config):
    """Fabric, network, objective and phase of joint training, without dropout."""
    torch.manual_seed(0)
    network = MultiTaskNetwork(small_config.model.model_copy(update={"dropout": 0.0}))
    phase = next(phase for phase in plan_phases(small_config) if phase.name == "joint")
    return open_fabric(small_config.training), network, Objective(phase.config, small_config.training), phase


def learner_of(parts, settings, **changes):
    fabric, network, objective, phase = parts
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    return Learner(fabric, network, optimizer, objective, phase, settings.model_copy(update=changes))


def encoder(network):
    return torch.cat([weight.detach().flatten() for weight in network.encoder.parameters()])


def test_the_cosine_is_that_of_gradients_taken_one_by_one(parts, batch):
    fabric, network, objective, _ = parts
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    found = gradient_cosine(fabric, network, objective, batch)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    gradients = []
    network.eval()
    for task in ("segmentation", "classification"):
        network.zero_grad()
        getattr(objective(network(batch.images), batch), task).backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in network.encoder.parameters()]))
    expected = gradients[0] @ gradients[1] / (gradients[0].norm() * gradients[1].norm())
    assert found == pytest.approx(expected.item(), abs=1e-4)


def test_there_is_no_cosine_without_two_tasks(parts, batch):
    fabric, network, objective, _ = parts
    unknown = dataclasses.replace(batch, label_known=torch.zeros(4, dtype=torch.bool))
    assert gradient_cosine(fabric, network, objective, unknown) is None
    network.encoder.requires_grad_(False)
    assert gradient_cosine(fabric, network, objective, batch) is None


@pytest.mark.parametrize(("sign", "moves"), [(-1, False), (1, True)])
def test_projection_takes_out_what_the_tasks_disagree_in(parts, batch, small_config, sign, moves):
    """A second task that is the first one, or that turned around, counting half: the plain sum moves either way."""
    pytest.importorskip("torchjd", reason="needs torchjd, of slicewise[pcgrad]")
    fabric, network, objective, phase = parts

    class Twice(torch.nn.Module):
        phase = objective.phase

        def forward(self, logits, whole, teacher=None):
            losses = objective(logits, whole)
            second = sign * losses.segmentation
            return losses._replace(total=losses.segmentation + second / 2, classification=second)

    weights = phase.config.model_copy(update={"classification_weight": 0.5, "segmentation_weight": 1.0})
    changed = (fabric, network, Twice(), dataclasses.replace(phase, config=weights))
    plain = MultiTaskNetwork(small_config.model.model_copy(update={"dropout": 0.0}))
    plain.load_state_dict(network.state_dict())
    before = encoder(network)
    learner_of(changed, small_config.training, balancing="pcgrad").learn(batch)
    learner_of((fabric, plain, *changed[2:]), small_config.training).learn(batch)
    assert not torch.allclose(encoder(plain), before, atol=1e-6)
    assert torch.allclose(encoder(network), before, atol=1e-6) is not moves
    assert torch.allclose(encoder(network), encoder(plain), atol=1e-5) is moves


def test_nothing_is_projected_where_the_encoder_is_frozen(parts, batch, small_config):
    pytest.importorskip("torchjd", reason="needs torchjd, of slicewise[pcgrad]")
    fabric, network, objective, phase = parts
    weights = phase.config.model_copy(update={"encoder_learning_rate": 0.0})
    network.encoder.requires_grad_(False)
    before = encoder(network)
    learner = learner_of(
        (fabric, network, objective, dataclasses.replace(phase, config=weights)), small_config.training, balancing="pcgrad"
    )
    assert all(map(math.isfinite, learner.learn(batch)))
    assert torch.equal(encoder(network), before)


@pytest.mark.parametrize(("precision", "expected"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_the_teacher_is_asked_in_the_precision_of_the_training(small_config, batch, precision, expected):
    training = small_config.training.model_copy(update={"precision": precision})
    phase = next(phase for phase in plan_phases(small_config) if phase.name == "joint")
    phase = dataclasses.replace(phase, config=phase.config.model_copy(update={"distillation_weight": 1.0}))
    network, teacher = MultiTaskNetwork(small_config.model), MultiTaskNetwork(small_config.model)
    masks, probabilities = [], []

    class Overheard(MultiTaskNetwork):
        def forward(self, *args, **options):
            logits = super().forward(*args, **options)
            masks.append(logits.mask)
            return logits

    class Told(Objective):
        def forward(self, logits, whole, teacher=None):
            probabilities.append(teacher)
            return super().forward(logits, whole, teacher)

    teacher.__class__ = Overheard
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    learner = Learner(open_fabric(training), network, optimizer, Told(phase.config, training), phase, training, teacher)
    learner.learn(batch)
    assert [mask.dtype for mask in masks] == [expected]
    assert not masks[0].requires_grad
    assert probabilities[0].dtype == torch.float32
    assert torch.equal(probabilities[0], torch.sigmoid(masks[0].float()))


def test_sums_are_those_of_the_steps_and_a_bad_loss_is_told(parts, batch, small_config):
    learner = learner_of(parts, small_config.training)
    losses = [learner.learn(batch) for _ in range(3)]
    assert learner.sums.tolist() == pytest.approx([sum(column) for column in zip(*losses, strict=True)])
    learner.check_finite(0)
    learner.sums[0] = float("inf")
    with pytest.raises(TrainingError, match="finite loss in phase joint, epoch 5, got inf"):
        learner.check_finite(4)


def test_compilation_without_a_compiler_is_refused(parts, small_config, monkeypatch):
    monkeypatch.setattr(room.shutil, "which", lambda name: None)
    with pytest.raises(TrainingError, match=r"C\+\+ compiler"):
        learner_of(parts, small_config.training, compile=True)


def test_pcgrad_without_its_package_is_refused(parts, small_config, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchjd.aggregation", None)
    with pytest.raises(TrainingError, match=r"slicewise\[pcgrad\]"):
        learner_of(parts, small_config.training, balancing="pcgrad")
