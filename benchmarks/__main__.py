"""Run every benchmark, print one line a figure with its goal, and write runs/bench.json."""

import argparse
import importlib
import json
import pkgutil

import benchmarks
from cxrlib.core.paths import RUNS, written_whole


def main() -> None:
    """Each module benchmarks/bench_*.py has benchmark(), which returns {name: {"ratio", "goal", "detail"}}."""
    known = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name.startswith("bench_")]
    parser = argparse.ArgumentParser(prog="make bench", description=benchmarks.__doc__)
    parser.add_argument("names", nargs="*", default=known, help=f"which ones: {', '.join(known)}")
    names, out = parser.parse_args().names, RUNS / "bench.json"
    # where only some are measured, the others' figures stay
    figures = json.loads(out.read_text(encoding="utf-8")) if out.is_file() and names != known else {}
    for name in names:
        for figure, row in importlib.import_module(f"benchmarks.{name}").benchmark().items():
            figures[figure] = row
            print(f"{figure:<40} {row['ratio']:>10.3f}   goal {row['goal']:<8} {row['detail']}", flush=True)
        with written_whole(out) as beside:
            beside.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
