from pathlib import Path

from slicewise.config import GateConfig
from slicewise.config_file import load_config
from slicewise.training.phases import next_attempt, plan_phases

CONFIG = load_config(Path(__file__).parents[2] / "configs" / "smoke.yaml")


def test_three_phases_then_the_single_task_models():
    assert [phase.name for phase in plan_phases(CONFIG)] == [
        "segmentation",
        "classification",
        "joint",
        "segmentation_only",
        "classification_only",
    ]
    without = CONFIG.model_copy(update={"training": CONFIG.training.model_copy(update={"single_task": False})})
    assert [phase.name for phase in plan_phases(without)] == ["segmentation", "classification", "joint"]


def test_what_each_phase_trains_and_starts_from():
    plan = {phase.name: (set(phase.trained_parts), phase.starts_from) for phase in plan_phases(CONFIG)}
    assert plan == {
        "segmentation": ({"encoder", "decoder"}, None),
        "classification": ({"classifier"}, "segmentation"),
        "joint": ({"encoder", "decoder", "classifier"}, "classification"),
        "segmentation_only": ({"encoder", "decoder"}, "segmentation"),
        "classification_only": ({"encoder", "classifier"}, None),
    }


def test_joint_moves_the_encoder_slower_than_the_heads():
    rates = next(phase for phase in plan_phases(CONFIG) if phase.name == "joint").trained_parts
    assert rates["encoder"] < rates["decoder"]
    assert rates["encoder"] < rates["classifier"]


def test_no_two_phases_share_a_folder_or_a_stream_of_random_numbers():
    phases = plan_phases(CONFIG)
    assert len({phase.folder for phase in phases}) == len({phase.number for phase in phases}) == len(phases)


def test_single_task_models_are_trained_for_as_many_epochs():
    phases = {phase.name: phase.config for phase in plan_phases(CONFIG)}
    assert phases["segmentation_only"].epochs == phases["joint"].epochs
    assert phases["classification_only"].epochs == phases["segmentation"].epochs + phases["joint"].epochs
    assert phases["segmentation_only"].classification_weight == 0
    assert phases["classification_only"].segmentation_weight == 0


def test_single_task_models_are_trained_for_as_long_as_a_further_attempt():
    planned, phases = ({phase.name: phase.config for phase in plan_phases(CONFIG, epochs)} for epochs in (None, 7))
    assert phases["segmentation_only"].epochs == 7
    assert phases["classification_only"].epochs == planned["segmentation"].epochs + 7
    assert all(phases[name] == planned[name] for name in ("segmentation", "classification", "joint"))


def test_a_further_attempt_classifies_less_distills_and_takes_longer():
    joint = next(phase for phase in plan_phases(CONFIG) if phase.name == "joint")
    gate = GateConfig(weight_factor=0.5, length_factor=1.5, distillation_weight=2.0)
    second = next_attempt(joint, gate)
    third = next_attempt(second, gate)
    weights = [phase.config.classification_weight for phase in (joint, second, third)]
    assert weights == [weights[0], weights[0] / 2, weights[0] / 4]
    assert [phase.config.distillation_weight for phase in (joint, second, third)] == [0, 2, 2]
    assert [phase.config.epochs for phase in (joint, second, third)] == [1, 2, 2]
    assert [phase.attempt for phase in (joint, second, third)] == [1, 2, 3]
    assert second.folder == joint.folder
