"""Whatever stands on the command line, a command does its work or says in one sentence why not.

Every command at toy size, with drawn flags, paths (`~`, relative, in any alphabet or none, a folder for a file, a file
for a folder, where nothing can be written) and tables with columns left out, renamed or packed. Never a traceback,
never a hang, nothing half-written. `make test` tries 200 command lines, the slow run 5,000
(`make test ARGS="-m slow tests/test_fuzz_commands.py"`).
"""

import contextlib
import gzip
import io
import os
import shutil
import signal
import tempfile
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from cxrlib.cli.main import main
from cxrlib.course.runs import RunFolder

SECONDS = 120  # that one command may take before it counts as hanging
QUICK = ["--arch", "mobilenet_v2", "--image_size", "32", "--device", "cpu", "--precision", "fp32",
         "--layout", "contiguous", "--train_subset", "8", "--val_subset", "4", "--batch_size", "4"]  # fmt: skip
RENAMED = {"Image Index": "image_index", "Finding Labels": "FINDING LABELS", "Patient ID": "PatientID",
           "Patient Age": "age", "Patient Gender": "Patient Sex", "View Position": "Projection"}  # fmt: skip
VALUES = {"Patient Gender": ("Male", "f", "", "1"), "View Position": ("pa", "Antero-Posterior", "LL", ""),
          "Patient Age": ("058Y", "414", "", "x"), "Finding Labels": ("No Finding", "mass", "Mass|Broken", ""),
          "Patient ID": ("", "p1", "90001"), "Image Index": ("x.png", "../x.png", "a\x1bb.png")}  # fmt: skip

# what a path may lead to, in the folder of a case; True: something is there
FOLDERS = ("new", "~/new", "deep/er/new", "neü 日本", "bad\udcff", "a file", "a file/x", "/dev/null", "/proc/cxr",
           "nowhere", "", "~nobody-here/x", "n" * 300, "full", "./~odd")  # fmt: skip
FILES = ("t.json", "~/t.json", "gone.json", "full", "a file", "/dev/null", "bad\udcff", "", "~nobody-here/t.json")


def often(usual: str, others: tuple[str, ...]) -> st.SearchStrategy:
    """The usual path three times in four, so that most command lines reach the work."""
    return st.one_of(st.just(usual), st.just(usual), st.just(usual), st.sampled_from(others))


class World:
    """The folder of one case: a home, a working directory, and the tiny data set under links."""

    def __init__(self, folder: Path, nih: Path, model: Path):
        self.home, self.work, self.cache = folder / "home", folder / "work", model.parent / "cache"
        for path in (self.home, self.work / "full"):
            path.mkdir(parents=True)
        for place in (self.home / "nih", self.work / "nih"):
            place.symlink_to(nih)
        for place in (self.home / "m.pth", self.work / "m.pth"):
            place.symlink_to(model)
        for place in (self.home / "t.json", self.work / "t.json"):
            place.symlink_to(model.parent / "results" / "tables" / "thresholds.json")
        (self.work / "a file").write_text("text\n")
        (self.work / "full" / "x.txt").write_text("text\n")
        (self.work / "nowhere").symlink_to("gone")
        image = next(nih.glob("images_001/images/*.png"))
        shutil.copy(image, os.path.join(os.fsencode(self.work / "full"), b"\xff.png"))
        (self.work / "names.txt").write_text(image.name)
        RunFolder(self.work / "run").record("01_eda", seconds=1)

    def files(self) -> dict[str, int]:
        """All files but those that begin with a dot (locks)."""
        found = (Path(folder, name) for folder, _, names in os.walk(self.work.parent) for name in names)
        return {os.fspath(path): path.lstat().st_mtime_ns for path in found if not path.name.startswith(".")}


@st.composite
def tables(draw) -> dict:
    """What is done to the CSV."""
    values = [(name, value) for name in VALUES for value in VALUES[name]]
    return {
        "rows": draw(st.sampled_from((63, 63, 63, 1, 0))),
        "drop": draw(st.lists(st.sampled_from(sorted(RENAMED)), max_size=2)),
        "rename": draw(st.lists(st.sampled_from(sorted(RENAMED)), max_size=3)),
        "values": draw(st.lists(st.sampled_from(values), max_size=2)),
        "how": draw(st.sampled_from(("csv", "csv", "csv", "csv.gz", "csv.zip", "semicolons", "utf-16", "text.gz"))),
    }  # fmt: skip


@st.composite
def lines(draw) -> tuple[list[str], dict | None]:
    """A command line, and what is done to its table."""

    def pick(*values):
        return draw(st.sampled_from(values))

    roots = often("nih", ("~/nih", "full", "gone", "a file", "", "~nobody-here/x", "bad\udcff"))
    weights = often("m.pth", ("~/m.pth", "full", "a file", "gone.pth", "none", "imagnet", "", "bad\udcff.pth"))
    films = ("gone.png", "*.png", "full/*", "~/nih/images_001/images/00090001_0*", "a file", "", "[")
    table = draw(st.one_of(st.none(), tables()))
    data = [f"--img_root={draw(roots)}"] + ["--csv_path=mine"] * (table is not None)
    out = draw(often("new", FOLDERS))
    number = pick("0", "1", "2", "-1", "x", "1e9", "", "nan", "9" * 40)
    test = [f"--weights={draw(weights)}", f"--out={out}", f"--subset={pick('6', '6', '6', number)}"]
    command = pick("train", "eval", "gradcam", "predict", "preprocess", "doctor", "gather", "phantom", "report",
                   "figures", "compare", "run", "download", "external")  # fmt: skip
    match command:
        case "train":
            start = pick("none", "none", "none", "m.pth", "~/m.pth", "gone.pth", "xrv-nih", "")
            given = [*data, *QUICK, f"--run_dir={out}", f"--weights={start}", f"--epochs={pick('1', '1', number)}"]
            given.append(f"--split={pick('official', 'patient', 'image', 'x')}")
        case "compare":  # whose work would take too long
            given = [*data, *QUICK[2:], f"--run_dir={out}", f"--budget={pick('steps=0', 'x', 'minutes=-1')}"]
        case "eval" | "gradcam":
            given = [*data, *test, f"--thresholds={draw(often('', FILES))}"]
            given += ["--replicates=3", "--audit"] if command == "eval" else ["--samples=1"]
        case "external":
            command, there = "eval", draw(often("nih", FOLDERS))
            given = [*test, f"--external={there}", f"--here={draw(often('', FILES))}"]
        case "predict":
            given = [draw(often("full", films)), f"--out={out}", f"--weights={draw(weights)}", "--force"]
            given += pick([], ["--no_page"], ["--json"])
        case "preprocess":
            given = [*data, f"--image_size={pick('32', '32', number)}"]
        case "doctor":
            report = draw(often("d.json", FILES[2:]))
            given = [*data, f"--json={report}", *pick([], ["--deep"])]
        case "gather":
            given = [draw(roots), draw(often("names.txt", FILES)), out, *data[1:]]
        case "phantom":
            given = [out, "--n_patients", pick("1", number), "--size", "64", "--workers", "1"]
        case "report" | "figures":
            given = [draw(often("run", FOLDERS)), *[out] * (command == "figures")]
        case "run":
            name = pick("run_dir", "seed", "archs", "weights", "epochs", "lr", "nonsense", "csv_path")
            given = ["--dry-run", f"--profile={draw(often('quick', FILES))}", f"--data={draw(roots)}"]
            given += ["-p", name, pick(number, *FOLDERS)]
        case "download":
            given = [pick("", "x", "sampl", "bad\udcff")]
    if command in ("train", "eval", "gradcam", "preprocess"):
        cache = draw(often("CACHE", ("a file", "/proc/cxr", "~/cache", "nowhere", "bad\udcff")))
        given.append(f"--cache_dir={cache}")
    given += pick([], [], [], [], [], ["--nonsense"], ["stray\x1b"], ["--seed", number])
    return [command, *given], table


def write_table(path: Path, original: Path, changes: dict) -> None:
    """`original` with columns left out or renamed, values spelled otherwise, or packed."""
    table = pd.read_csv(original, dtype=str, index_col=False).iloc[: changes["rows"], :11]
    for name, value in changes["values"]:
        table.loc[table.index % 9 == 4, name] = value
    table = table.drop(columns=changes["drop"]).rename(columns={name: RENAMED[name] for name in changes["rename"]})
    how = changes["how"]
    text = table.to_csv(index=False, sep=";" if how == "semicolons" else ",")
    content = text.encode("utf-16" if how == "utf-16" else "utf-8")
    if how == "csv.zip":
        table.to_csv(path, index=False, compression={"method": "zip", "archive_name": "Data_Entry_2017.csv"})
    else:
        path.write_bytes(gzip.compress(content) if how.endswith("gz") else content)


def tried(line: list[str], table: dict | None, nih: Path, model: Path) -> int:
    """Run a command line in a world of its own, and look at what it said and left."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as here:
        world = World(Path(folder), nih, model)
        here.enter_context(contextlib.chdir(world.work))
        here.enter_context(patch.dict(os.environ, {"HOME": str(world.home), "TQDM_DISABLE": "1"}))
        here.enter_context(patch("cxrlib.course.report.page._BROWSERS", ()))
        if table is not None:
            write_table(world.work / "mine", nih / "Data_Entry_2017.csv", table)
        line = [word.replace("CACHE", str(world.cache)) for word in line]
        before, out, err = world.files(), io.StringIO(), io.StringIO()
        here.enter_context(contextlib.redirect_stdout(out))
        here.enter_context(contextlib.redirect_stderr(err))
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(AssertionError("it hangs")))
        signal.alarm(SECONDS)
        try:
            code = main(line)
        except SystemExit as stop:  # argparse
            code = stop.code
        finally:
            signal.alarm(0)
        said, after = err.getvalue(), world.files()
        assert code in (0, 1, 2), (line, said)
        assert "Traceback" not in said + out.getvalue()
        assert not [path for path in after if path.endswith(".tmp")], "half-written"
        assert not (world.work / "~").exists()
        named = {str(world.work / word.removeprefix("--json=")) for word in line if word.startswith("--json=")}
        named = named if code != 2 else set()
        changed = {path for path, time in before.items() if after.get(path) != time} - named  # written over, as asked
        assert not changed, "what was there is changed"
        if code == 2:
            last = said.strip("\n").rsplit("\n", 1)[-1]
            assert last.startswith(f"cxr {line[0]}: "), said
            assert last.isprintable(), last
            cached = str(world.home / "cache")
            assert [path for path in after if path not in before and not path.startswith(cached)] == [], (line, last)
        return code


def fuzz(count: int, nih: Path, model: Path, **how) -> dict[int, int]:
    """How many of `count` command lines ended with each code."""
    codes: dict[int, int] = {}

    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck), **how)
    @given(lines())
    def every(case) -> None:
        code = tried(*case, nih, model)
        codes[code] = codes.get(code, 0) + 1

    every()
    return codes


@pytest.fixture(scope="module")
def nih(_tiny_original) -> Path:
    return _tiny_original


def test_two_hundred_command_lines(nih, tiny_model):
    codes = fuzz(200, nih, tiny_model, derandomize=True)
    assert codes[0] >= 20, "most must not be refused at the door, or nothing is shown"
    assert codes[2] >= 20


@pytest.mark.parametrize("command", [["train", *QUICK[:2]], ["compare", "--archs=mobilenet_v2"]])
def test_a_training_without_validation_is_refused_before_anything_is_decoded(command, nih, tiny_model):
    one_row = {"rows": 1, "drop": [], "rename": [], "values": [], "how": "csv"}
    line = [*command, "--img_root=nih", "--csv_path=mine", *QUICK[2:], "--run_dir=new", "--weights=none"]
    assert tried([*line, "--cache_dir=pixels"], one_row, nih, tiny_model) == 2


@pytest.mark.slow
def test_five_thousand_command_lines(nih, tiny_model):
    fuzz(5000, nih, tiny_model)
