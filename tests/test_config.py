from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slicewise.config import (
    AugmentationConfig,
    Config,
    EvaluationConfig,
    ModelConfig,
    PhantomConfig,
    PhaseConfig,
    PhasesConfig,
    SourceConfig,
    SplitConfig,
    TrainingConfig,
)
from slicewise.config_file import load_config, save_config
from slicewise.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted([*(ROOT / "configs").glob("*.yaml"), *(ROOT / "src/slicewise/configs").glob("*.yaml")])


@pytest.fixture
def written(tmp_path):
    """Write YAML and load it."""

    def load(text, *overrides):
        file = tmp_path / "config.yaml"
        file.write_text(text, encoding="utf-8")
        return load_config(file, overrides)

    return load


def leaves(tree, above=()):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*above, key))
    else:
        yield above, tree


def test_recipes_are_found():
    assert {file.stem for file in RECIPES} >= {"quick", "baseline", "production", "demo"}


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_loads_and_every_value_in_it_counts(file):
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    names = list(tree.get("sources", {}))
    config = load_config(file, [f"sources.{name}.path=/data/{name}" for name in names])
    assert [str(config.sources[name].path) for name in names] == [f"/data/{name}" for name in names]
    loaded = dict(leaves(config.model_dump(mode="json")))
    for key, value in leaves(tree):
        assert loaded[key] == value, key


rates = st.floats(0, 1e3)
fractions = st.floats(0, 1)
phases = st.builds(
    PhaseConfig,
    epochs=st.integers(1, 10**6),
    encoder_learning_rate=st.floats(1e-12, 1),
    decoder_learning_rate=rates,
    segmentation_weight=st.floats(1e-12, 1),
    classification_weight=rates,
)
common = {
    "name": st.text(st.characters(codec="utf-8"), max_size=20),
    "seed": st.integers(0, 2**63 - 1),
    "workers": st.integers(1, 64),
    "split": st.builds(SplitConfig, train=st.floats(0.01, 0.5), val=st.floats(1e-6, 0.49)),
    "model": st.lists(st.tuples(st.integers(1, 512), st.integers(0, 8)), min_size=3, max_size=6).flatmap(
        lambda levels: st.builds(
            ModelConfig,
            widths=st.just([width for width, _ in levels]),
            blocks=st.just([depth for _, depth in levels]),
            dropout=st.floats(0, 0.99),
        )
    ),
    "augmentation": st.builds(AugmentationConfig, noise=rates, shift=fractions),
    "training": st.builds(
        TrainingConfig,
        epoch_slices=st.none() | st.integers(1, 10**9),
        precision=st.sampled_from(["32-true", "bf16-mixed"]),
        weight_decay=rates,
        single_task=st.booleans(),
    ),
    "phases": st.builds(
        PhasesConfig,
        segmentation=phases.map(lambda phase: phase.model_copy(update={"classification_weight": 0.0})),
        joint=phases,
    ),
    "evaluation": st.builds(EvaluationConfig, sensitivity=st.floats(1e-300, 1)),
}
sources = st.builds(
    SourceConfig,
    layout=st.sampled_from(["brats", "lgg", "brisc", "labelled_folders"]),
    path=st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(Path),
    sequences=st.lists(st.sampled_from(["t1", "t1ce", "t2", "flair"]), max_size=4, unique=True),
    year=st.sampled_from([None, 2020, 2021, 2023, 2024]),
    classification=st.booleans(),
)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=10)
configs = st.builds(Config, sources=st.dictionaries(names, sources, min_size=1, max_size=3), **common) | st.builds(
    Config, phantom=st.builds(PhantomConfig, patients=st.integers(1, 999)), **common
)


@settings(deadline=None, max_examples=60)
@given(config=configs)
# Words that YAML 1.1, 1.2 or a reader of lines could take for something else.
@example(config=Config(name="1e-3", phantom=PhantomConfig()))
@example(config=Config(name="no", phantom=PhantomConfig()))
@example(config=Config(name="a\x85b\r\n\u2028 ", phantom=PhantomConfig()))
@example(config=Config(sources={"null": SourceConfig(layout="lgg", path=Path("1e5"))}))
def test_what_is_saved_loads_equal(config, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "saved.yaml"
    save_config(config, file)
    assert load_config(file) == config


def test_a_partial_section_keeps_its_siblings(written):
    config = written("phantom: {slices: 6}\nphases: {joint: {epochs: 4}}\ntraining: {batch_size: 2}")
    assert config.phases.joint == PhasesConfig().joint.model_copy(update={"epochs": 4})
    assert config.phases.segmentation == PhasesConfig().segmentation
    assert config.phantom == PhantomConfig(slices=6)
    assert config.training == TrainingConfig(batch_size=2)


@pytest.mark.parametrize(
    ("text", "wrong", "known"),
    [
        ("phantom: {}\ntraining: {batchsize: 4}", "training.batchsize", "batch_size"),
        ("phantom: {}\nphases: {joint: {epoch: 4}}", "phases.joint.epoch", "encoder_learning_rate"),
        ("phantom: {}\nphases: {warmup: {epochs: 4}}", "phases.warmup", "segmentation, classification, joint"),
        ("phantom: {patient: 4}", "phantom.patient", "patients, pictures, slices"),
        ("phantom: {}\ntrainings: {}", "trainings", "training"),
        ("sources: {lgg: {layout: lgg, pth: here}}", "sources.lgg.pth", "layout, path, sequences"),
    ],
)
def test_a_misspelt_key_is_named_with_the_known_ones(written, text, wrong, known):
    with pytest.raises(ConfigError) as caught:
        written(text)
    assert repr(wrong) in str(caught.value)
    assert known in str(caught.value)


def test_every_problem_is_told_at_once_with_what_came(written):
    with pytest.raises(ConfigError) as caught:
        written("phantom: {}\ntraining: {batch_size: 0, tumor_fraction: 1.5}\nseed: -1")
    for part in ("training.batch_size", "got 0", "training.tumor_fraction", "got 1.5", "seed", "got -1"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("2E2", 200.0), ("+1.5e+1", 15.0), (".5", 0.5), ("1.", 1.0), ("0", 0.0), ("7", 7.0)]
)
def test_numbers_are_yaml_1_2(written, text, value):
    for config in (
        written(f"phantom: {{}}\ntraining: {{weight_decay: {text}}}"),
        written("phantom: {}", f"training.weight_decay={text}"),
    ):
        assert config.training.weight_decay == value


@pytest.mark.parametrize("word", ["no", "yes", "on", "Off", "n"])
def test_words_stay_words(written, word):
    assert written(f"name: {word}\nphantom: {{}}").name == word
    assert written("phantom: {}", f"name={word}").name == word
    assert list(written(f"sources: {{{word}: {{layout: lgg}}}}").sources) == [word]


def test_truth_is_spelt_true_and_false(written):
    config = written("sources: {a: {layout: lgg, segmentation: false}, b: {layout: lgg, segmentation: True}}")
    assert (config.sources["a"].segmentation, config.sources["b"].segmentation) == (False, True)


def test_overrides_reach_down_and_the_last_one_wins(written):
    config = written(
        "phantom: {}\nphases: {joint: {epochs: 9}}",
        "phases.joint.epochs=3",
        "phases.joint.encoder_learning_rate=5e-5",
        "model.widths=[2, 4, 8]",
        "model.blocks=[0, 1, 1]",
        "phases.joint.epochs=2",
    )
    assert config.phases.joint == PhasesConfig().joint.model_copy(update={"epochs": 2, "encoder_learning_rate": 5e-5})
    assert config.model.widths == (2, 4, 8)


def test_null_removes_a_source(written):
    two = "sources: {lgg: {layout: lgg}, yes_no: {layout: labelled_folders}}"
    assert list(written(two, "sources.lgg=null").sources) == ["yes_no"]
    assert written(two, "sources=null", "phantom.patients=5").phantom == PhantomConfig(patients=5)
    assert list(written("phantom: {}", "phantom=null", "sources.lgg.layout=lgg").sources) == ["lgg"]


@pytest.mark.parametrize("override", ["seed", "=1", ""])
def test_an_override_needs_key_and_value(written, override):
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        written("phantom: {}", override)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mapping"),
        ("- a\n- b", "mapping"),
        ("a: [", "YAML"),
        ("name: nothing else", "sources or phantom"),
        ("phantom: {}\nsources: {a: {layout: lgg}}", "sources or phantom"),
        ("phantom: {}\nsplit: {train: 0.9, val: 0.1}", "room for test"),
        ("phantom: {}\nphases: {classification: {classifier_learning_rate: 0}}", "learning rate above 0"),
        ("phantom: {}\nphases: {joint: {segmentation_weight: 0, classification_weight: 0}}", "above 0"),
        ("sources: {a: {layout: dicom}}", "sources.a.layout"),
        ("phantom: {}\ntraining: {weight_decay: .nan}", "weight_decay"),
        ("phantom: {}\nphases: {joint: {encoder_learning_rate: .inf}}", "encoder_learning_rate"),
        ("sources: [lgg]", "sources by name"),
        ("sources: lgg", "sources by name"),
        ("phantom: {sequences: []}", "phantom.sequences"),
        ("phantom: {sequences: [t1, flair, t1]}", "named once"),
        ("sources: {a: {layout: lgg, sequences: [t1, t1]}}", "named once"),
        ("phantom: {}\nseed: 9223372036854775808", "seed"),
        ("phantom: {}\nmodel: {widths: [4, 4, 4, 4, 4, 4, 4]}", "widths"),
        ("phantom: {}\nmodel: {widths: [4, 4, 4]}", "3 levels"),
    ],
)
def test_the_impossible_is_refused(written, text, message):
    with pytest.raises(ConfigError, match=message):
        written(text)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for file in (tmp_path / "nothing.yaml", tmp_path):
        with pytest.raises(ConfigError, match=str(file)):
            load_config(file)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(ConfigError, match="binary"):
        load_config(binary)


def test_values_are_frozen():
    config = Config(phantom=PhantomConfig())
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {batch_size: 6, devices: 4}", "multiple of devices × nodes"),
        ("training: {balancing: pcgrad, batch_size: 4, devices: 2}", "pcgrad needs devices=1"),
        ("training: {balancing: pcgrad, precision: bf16-mixed}", "pcgrad needs devices=1"),
        ("training: {balancing: pcgrad, compile: true}", "compile=false"),
        ("model: {deep_supervision: 4}", "at most 2"),
        ("phases: {segmentation: {encoder_learning_rate: 0}}", "single_task needs"),
        ("phases: {joint: {segmentation_weight: 0}}", "joint.segmentation_weight must be above 0"),
        ("training: {single_task: false}\nphases: {joint: {segmentation_weight: 0}}", "must be above 0"),
        ("phases: {classification: {classifier_learning_rate: 0}}", "classifier, encoder"),
        ("gate: {confidence: 0.4}", "confidence"),
        (
            "phases: {segmentation: {classification_weight: 0.3}}",
            "phases.segmentation.classification_weight must be 0, got 0.3",
        ),
        ("phases: {classification: {segmentation_weight: 2}}", "phases.classification.segmentation_weight must be 0, got 2"),
        ("phases: {classification: {distillation_weight: 1}}", "phases.classification.distillation_weight must be 0, got 1"),
        (
            "phases: {segmentation: {distillation_weight: 1}}",
            "segmentation.distillation_weight above 0 needs training.teacher",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(written, text, message):
    with pytest.raises(ConfigError, match=message):
        written(f"phantom: {{}}\n{text}")
    written("phantom: {}\ntraining: {single_task: false}\nphases: {segmentation: {encoder_learning_rate: 0}}")
    written("phantom: {}\ntraining: {teacher: checkpoint}\nphases: {segmentation: {distillation_weight: 1}}")


def test_a_loss_reaches_its_parts_alone():
    both = {"encoder_learning_rate": 1, "decoder_learning_rate": 1, "classifier_learning_rate": 1}
    assert PhaseConfig(**both, segmentation_weight=1).reached_parts == {"encoder", "decoder"}
    assert PhaseConfig(**both, classification_weight=1).reached_parts == {"encoder", "classifier"}
    assert PhaseConfig(**both, classification_weight=1, segmentation_weight=1).reached_parts == {
        "encoder",
        "decoder",
        "classifier",
    }
