"""Run every benchmark, print one line a figure with its goal, and write runs/bench.json."""

import argparse
import importlib
import json
import pkgutil

import benchmarks
from cxrlib.paths import RUNS


def main() -> None:
    """Each module benchmarks/bench_*.py has benchmark(), which returns {name: {"ratio", "goal", "detail"}}."""
    known = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name.startswith("bench_")]
    parser = argparse.ArgumentParser(prog="make bench", description=benchmarks.__doc__)
    parser.add_argument("names", nargs="*", default=known, help=f"which ones: {', '.join(known)}")
    figures = {}
    for name in parser.parse_args().names:
        for figure, row in importlib.import_module(f"benchmarks.{name}").benchmark().items():
            figures[figure] = row
            print(f"{figure:<40} {row['ratio']:>10.3f}   goal {row['goal']:<8} {row['detail']}", flush=True)
    RUNS.mkdir(exist_ok=True)
    (RUNS / "bench.json").write_text(json.dumps(figures, indent=2))
    print(f"written to {RUNS / 'bench.json'}")


if __name__ == "__main__":
    main()
