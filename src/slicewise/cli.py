"""The command `slicewise`. Heavy imports live inside the commands, so that --help answers at once."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import slicewise
from slicewise.errors import InputError, SlicewiseError, StoppedError
from slicewise.files import printable

if TYPE_CHECKING:
    from slicewise.run import Run

app = typer.Typer(
    name="slicewise",
    help="Brain MRI slices: is there a tumor, and where? Research software, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration in YAML, such as configs/quick.yaml.")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings, such as sources.lgg.path=FOLDER or seed=1."),
]
OutFolder = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; default: runs/NAME-OF-CONFIG.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")]
Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        envvar="SLICEWISE_MODEL",
        help="Folder of a checkpoint, or of a run; default: the model that comes with slicewise.",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse broken files instead of skipping them.")]


def main() -> None:
    """Run the command; what slicewise refuses is one sentence and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal cannot show
    try:
        app()
    except StoppedError as interruption:
        print(interruption, file=sys.stderr)
        sys.exit(128 + interruption.signal)
    except SlicewiseError as error:
        print("\n".join(map(printable, f"Error: {error}".split("\n"))), file=sys.stderr)  # it may name any file
        sys.exit(2)
    except OSError as error:
        print(printable(f"Error: the operating system refused: {error}."), file=sys.stderr)
        sys.exit(2)


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Show the version.")] = False,
) -> None:
    if version:
        print(slicewise.__version__)
        raise typer.Exit


@app.command()
def info(
    model: Model = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every figure.")] = False
) -> None:
    """Show versions, device and cores, and what the model says of itself."""
    from slicewise.environment import describe_environment
    from slicewise.model.description import PACKAGED, read_description

    environment, description = describe_environment(), read_description(model or PACKAGED)
    if as_json:
        print(json.dumps(environment | {"model": description.summary()}, indent=2))
        return
    for name, value in {**environment, **description.lines()}.items():
        print(f"{name:>24}  {value}")


@app.command()
def demo(out: OutFolder = None, resume: Resume = False) -> None:
    """Walk all the way on a generated cohort: phantom, training, evaluation, report."""
    from importlib.resources import as_file, files

    with as_file(files("slicewise") / "configs" / "demo.yaml") as config:
        _finish(_begin(config, None, out, resume))


@app.command()
def run(
    config: ConfigFile, settings: Settings = None, out: OutFolder = None, resume: Resume = False, strict: Strict = False
) -> None:
    """From raw files to a report: ingest, split, train, evaluate, explain, report."""
    _finish(_begin(config, settings, out, resume), strict=strict)


@app.command()
def leave_one_source_out(
    config: ConfigFile, settings: Settings = None, out: OutFolder = None, resume: Resume = False
) -> None:
    """Train once without each source and test on it: what does the model make of data from elsewhere?"""
    from slicewise.config_file import load_config
    from slicewise.console import Display
    from slicewise.cross_source import leave_one_source_out as leave_out

    folder = out or Path("runs") / f"{config.stem}_leave_one_source_out"
    print(leave_out(load_config(config, settings or ()), folder, Display(), resume=resume))


@app.command()
def phantom(
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the cohort.")],
    patients: Annotated[int, typer.Option(min=1, help="Studies with masks; two in three have a tumor.")] = 36,
    pictures: Annotated[int, typer.Option(min=1, help="Pictures in yes/ and no/.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 20261123,
) -> None:
    """Generate a phantom cohort: a BraTS-named folder of studies and a yes/no folder of pictures."""
    from slicewise.config import PhantomConfig
    from slicewise.sources.phantom import generate_phantom

    generate_phantom(PhantomConfig(patients=patients, pictures=pictures), seed, out)
    print(out)


@app.command()
def audit(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Folders of original data in any layout, stores, or runs.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for audit.html, audit.json and groups.csv.")],
    fail_on: Annotated[
        str, typer.Option("--fail-on", help="Lowest level that ends with exit code 1: error, warning, info or never.")
    ] = "error",
    ignore: Annotated[list[str] | None, typer.Option("--ignore", metavar="RULE", help="Leave a rule out.")] = None,
    write_clean: Annotated[
        bool, typer.Option("--write-clean", help="Also write clean.csv: the files to keep and to leave out, and why.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read files.")] = 2,
) -> None:
    """Look for what makes data unfit to train on: exit code 0 without errors, 1 with, 2 where it could not run."""
    from slicewise.audit.findings import RULES, Severity

    levels = [*(str(level) for level in Severity), "never"]
    if fail_on not in levels:
        raise InputError(f"Expected --fail-on to be one of {', '.join(levels)}, got {fail_on!r}.")
    if unknown := set(ignore or ()) - set(RULES):
        raise InputError(f"Expected --ignore to name a rule, got {sorted(unknown)[0]!r}. The rules are {', '.join(RULES)}.")
    from slicewise.audit.audit import audit as audit_survey
    from slicewise.audit.audit import write_audit
    from slicewise.audit.inputs import survey_paths
    from slicewise.console import Display

    display = Display()
    with display.bar("reading") as progress:
        survey, split = survey_paths(paths, workers=workers, progress=progress)
    display.say("Looking for duplicates, shortcuts and contradictions")
    result = audit_survey(survey, split, ignored=frozenset(ignore or ()))
    write_audit(result, survey, out)
    if write_clean:
        from slicewise.audit.clean import write_clean as write_table

        write_table(result, survey, out / "clean.csv")
    for finding in result.findings:
        print(finding)
    print(f"{result.summary()} Pictures and files are in {out / 'audit.html'}.", file=sys.stderr)
    if any(levels.index(finding.severity) <= levels.index(fail_on) for finding in result.findings if fail_on != "never"):
        sys.exit(1)


@app.command()
def ingest(
    config: ConfigFile, settings: Settings = None, out: OutFolder = None, resume: Resume = False, strict: Strict = False
) -> None:
    """Read and preprocess every slice into the run's store."""
    _begin(config, settings, out, resume).ingest(strict=strict)


@app.command()
def split(run: RunFolder) -> None:
    """Divide the patients into train, val and test."""
    _open(run).split()


@app.command()
def train(
    run: RunFolder,
    settings: Settings = None,
    phase: Annotated[str | None, typer.Option("--phase", help="Train this phase alone.")] = None,
    init_from: Annotated[
        list[Path] | None,
        typer.Option("--init-from", help="Checkpoint to start from in place of random weights; of several, their mean."),
    ] = None,
    resume: Resume = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and the time it would take.")] = False,
    devices: Annotated[int | None, typer.Option("--devices", min=1, help="Processes on this machine, one a device.")] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="Machines; start torchrun on each.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="32-true or bf16-mixed.")] = None,
) -> None:
    """Train the phases that have no checkpoint yet."""
    options = {"devices": devices, "nodes": nodes, "precision": precision}
    changes = [*(settings or ()), *(f"training.{name}={value}" for name, value in options.items() if value is not None)]
    opened = _open(run, changes)
    if dry_run:
        print(opened.plan(only=phase, init_from=init_from or ()))
        return
    from slicewise.training.processes import is_launched, launch

    if not (resume or is_launched()):
        opened.refuse_begun(only=phase)
    training = opened.config.training
    if training.devices > 1 and training.nodes == 1 and not is_launched():
        sys.exit(launch(sys.argv[1:], training.devices))
    opened.train(only=phase, init_from=init_from or ())


@app.command()
def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folder of a run; several are compared.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File for the comparison of several runs, in JSON.")
    ] = None,
) -> None:
    """Predict val and test patients with every model; write cases.parquet and results.json.

    Of several runs, such as seeds of one configuration, those that have no cases yet are evaluated; mean and spread of their
    figures and the paired differences between their models are printed.
    """
    if len(runs) == 1:
        if out is not None:
            raise InputError("Expected several runs to compare with --out, got one.")
        _open(runs[0]).evaluate()
        return
    from slicewise.evaluation.record import Record
    from slicewise.evaluation.seeds import compare_runs, tabulate_runs
    from slicewise.files import write_atomically

    for run in runs:
        opened = _open(run)
        if not (run / "cases.parquet").is_file():
            opened.evaluate()
    comparison = compare_runs({str(run): Record.read(run / "cases.parquet") for run in runs})
    if out is not None:
        write_atomically(out, json.dumps(comparison, indent=2, allow_nan=False))
    print(tabulate_runs(comparison))


@app.command()
def explain(run: RunFolder) -> None:
    """Draw Grad-CAM pictures of test slices."""
    _open(run).explain()


@app.command()
def report(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Folder of a run that was evaluated.")] = None,
    table: Annotated[
        Path | None, typer.Option("--from", metavar="TABLE", help="Table of cases (CSV or Parquet), of any system.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for what is written; with --from alone.")] = None,
) -> None:
    """Write the self-contained report.html and results.json, from a run or from a table of cases alone."""
    if (run is None) == (table is None):
        raise InputError("Expected the folder of a run, or --from with a table of cases; got both or neither.")
    if table is None:
        if out is not None:
            raise InputError(f"Expected --out with --from alone, got {out}: the report of a run goes into its folder.")
        print(_open(Path(str(run))).report())
        return
    if out is None:
        raise InputError("Expected --out with the folder for the report, got none.")
    from slicewise.report.document import write_report

    print(write_report(table, out))


@app.command()
def publish(
    run: RunFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the model.")],
    note: Annotated[str, typer.Option("--note", help="For the card: how the model was made, beyond the run.")] = "",
    left_out: Annotated[
        Path | None, typer.Option("--left-out", help="For the card: leave_one_source_out.md of the same configuration.")
    ] = None,
) -> None:
    """Gather what users of a run's joint model need: weights, test figures, card, and an engine for CPUs."""
    from slicewise.publication import publish as gather

    parity = gather(run, out, note, left_out)
    print(out)
    print(
        f"On slices of the run the engine differs from the weights by at most {parity.probability:.1e} in probability; "
        f"masks agree at Dice {parity.dice:.4f} or better.",
        file=sys.stderr,
    )


@app.command()
def export(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or of one of its checkpoints.")],
) -> None:
    """Write a model as ONNX beside its weights: what `predict` then runs on a CPU, without torch."""
    from slicewise.inference.export import export as export_checkpoint

    folder, parity = export_checkpoint(model)
    print(folder)
    print(
        f"Beside its weights: probabilities differ by at most {parity.probability:.1e}, masks agree at Dice "
        f"{parity.dice:.4f} or better, on slices of noise.",
        file=sys.stderr,
    )


@app.command()
def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="Pictures, NIfTI, DICOM and zip files, folders of them, or patterns."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; what is finished in it is kept.")],
    model: Model = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="png, nifti, dicom-seg or dicom-sr; repeatable; default: by the kind of input."),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Draw Grad-CAM of the most probable slice.")] = False,
    tta: Annotated[bool, typer.Option("--tta", help="Average over six views of each slice.")] = False,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="Say how sure the model is.")] = False,
    statistics: Annotated[bool, typer.Option("--statistics", help="Measure lesions and intensities.")] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Show the most probable slice in the terminal.")] = False,
    segment: Annotated[bool, typer.Option("--segment/--no-segment", help="Find the mask, or the probability alone.")] = True,
    smallest_mm3: Annotated[
        float, typer.Option("--smallest-mm3", min=0, help="Leave out parts of a volume's mask below this.")
    ] = 0.0,
    abstain_on: Annotated[
        list[str] | None,
        typer.Option("--abstain-on", metavar="RULE", help="Give no answer where the gatekeeper has this concern."),
    ] = None,
    allow_burned_in: Annotated[
        bool, typer.Option("--allow-burned-in", help="Take DICOM images with text in their pixels, such as a name.")
    ] = False,
    engine: Annotated[str, typer.Option("--engine", help="auto, cpu, torch, or ray for a cluster.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="Of torch, such as cuda.")] = "cpu",
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Of ray; default: one a core.")] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=0.1, max=86_400, help="Longest decoding of one input.")
    ] = 10.0,
) -> None:
    """Predict pictures and scans: masks, probabilities and what is to be doubted, for each input."""
    from slicewise.batch.batch import Options
    from slicewise.batch.command import choices, predict_inputs
    from slicewise.model.description import PACKAGED

    options = Options(
        formats=choices("--format", formats),
        explain=explain,
        tta=tta,
        uncertainty=uncertainty,
        statistics=statistics,
        segment=segment,
        smallest_mm3=smallest_mm3,
        abstain_on=choices("--abstain-on", abstain_on),
        timeout_s=timeout_s,
        allow_burned_in=allow_burned_in,
    )
    from slicewise.console import Display

    run = predict_inputs(
        inputs,
        model or PACKAGED,
        out,
        options,
        engine=engine,
        device=device,
        workers=workers,
        preview=preview,
        display=Display(),
    )
    for line in run.lines:
        print(line)
    print(f"Masks, pictures and results.json are in {out}.", file=sys.stderr)
    if run.refusals:
        raise InputError(f"Refused {len(run.refusals)} of {run.inputs} inputs: {' '.join(run.refusals)}")


@app.command()
def serve(
    model: Model = None,
    host: Annotated[
        str, typer.Option("--host", help="Address; another than this machine's needs SLICEWISE_API_KEYS.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one, which is logged.")] = 8000,
    state: Annotated[
        Path | None, typer.Option("--state", help="Folder of the studies, which then survive a restart.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that predict; default: one a core, 4 at most.")
    ] = None,
    queue: Annotated[int | None, typer.Option("--queue", min=1, help="Slices that may be in the house at once.")] = None,
    limits: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="NAME=VALUE", help="Another limit; docs/serving.md lists them."),
    ] = None,
) -> None:
    """Answer over HTTP: slices, batches and studies. SIGTERM finishes what was accepted."""
    import os

    from slicewise.model.description import PACKAGED
    from slicewise.service.server import serve as serve_forever
    from slicewise.service.settings import ServiceSettings

    given = {
        "model": model or PACKAGED,
        "host": host,
        "port": port,
        "state": state,
        "workers": workers,
        "queue": queue,
    }
    serve_forever(ServiceSettings.of(given, limits or (), os.environ))


@app.command()
def ui(
    models: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            "-m",
            help="Folder of a checkpoint, or of a run; repeat it to compare. Default: SLICEWISE_MODEL, or the model that "
            "comes with slicewise.",
        ),
    ] = None,
    services: Annotated[
        list[str] | None,
        typer.Option(
            "--service",
            metavar="URL",
            help="A service that runs already, instead of one of its own; its key is taken from SLICEWISE_API_KEYS.",
        ),
    ] = None,
    runs: Annotated[
        list[Path] | None, typer.Option("--run", metavar="RUN", help="Folder of a run whose report is shown; repeatable.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address of the pages, which ask for no password: see docs/reading-room.md.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Of the pages.")] = 8501,
    public_names: Annotated[
        list[str] | None,
        typer.Option("--public-name", metavar="NAME", help="Host name under which a proxy passes the pages on; repeatable."),
    ] = None,
) -> None:
    """Open the reading room in a browser: slices and studies, batches, two models side by side, the model, reports."""
    import os

    from slicewise.model.description import PACKAGED
    from slicewise.ui.launch import open_reading_room

    usual = [] if services else [Path(os.environ.get("SLICEWISE_MODEL") or PACKAGED)]
    open_reading_room(models or usual, services or (), runs or (), host=host, port=port, public_names=public_names or ())


def _begin(config_file: Path, settings: list[str] | None, out: Path | None, resume: bool) -> Run:
    from slicewise.config_file import load_config

    config = load_config(config_file, settings or ())
    from slicewise.console import Display
    from slicewise.run import Run

    return Run.begin(out or Path("runs") / config_file.stem, config, Display(), resume=resume)


def _open(folder: Path, settings: Sequence[str] = ()) -> Run:
    from slicewise.console import Display
    from slicewise.run import Run

    return Run.open(folder, Display(), settings)


def _finish(run: Run, strict: bool = False) -> None:
    print(run.all_steps(strict=strict))
