"""The `fusedsplit` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from fusedsplit import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(prog="fusedsplit", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (summary, add_arguments, _) in _COMMANDS.items():
        add_arguments(commands.add_parser(name, help=summary, description=summary))
    args = parser.parse_args(argv)
    return _COMMANDS[args.command][2](args)


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def _info(args: argparse.Namespace) -> int:
    from fusedsplit.tools.info import info

    print(info())
    return 0


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--random", type=int, default=24, metavar="N", help="random specs to check (default: 24)")
    parser.add_argument("--seed", type=int, default=0, help="of the random specs, weights and inputs")
    parser.add_argument("--backends", nargs="+", metavar="NAME", help="default: every one that can run")


def _check(args: argparse.Namespace) -> int:
    from fusedsplit.tools.suite import run

    return run(args.random, args.seed, args.backends)


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    from fusedsplit.bench import add_arguments

    add_arguments(parser)


def _bench(args: argparse.Namespace) -> int:
    from fusedsplit.bench import main as bench

    return bench(args)


def _explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a .keras file, of a fused model or a plain one")
    _unsafe_argument(parser)


def _unsafe_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--unsafe", action="store_true", help="load Lambdas too, which runs Python code that the file holds"
    )


def _explain(args: argparse.Namespace) -> int:
    from fusedsplit.tools.files import explain_file

    return _on_files("explain", lambda: explain_file(args.model, args.unsafe))


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a .keras file, of a fused model or a plain one")
    parser.add_argument("target", help="the .keras file to write, of the other kind; or a .fs file, a predictor's")
    parser.add_argument("--no-fold", action="store_true", help="of a .fs file: keep the bits of the model's own steps")
    parser.add_argument("--force", action="store_true", help="overwrite the target if it exists")
    _unsafe_argument(parser)


def _convert(args: argparse.Namespace) -> int:
    from fusedsplit.tools.files import convert

    return _on_files("convert", lambda: convert(args.source, args.target, args.unsafe, args.force, not args.no_fold))


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a predictor's file, as `fusedsplit convert` or fs.Predictor.save writes it")
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help=".npy files: one for each input, then one to write for each output"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="at most so many (default: as many as there are)")
    parser.add_argument("--force", action="store_true", help="overwrite outputs that exist")


def _predict(args: argparse.Namespace) -> int:
    from fusedsplit.native.library import NativeError
    from fusedsplit.tools.predict_files import predict_files

    try:
        print(predict_files(args.model, args.files, threads=args.threads, force=args.force))
    except (ValueError, OSError, NativeError) as error:
        print(f"fusedsplit predict: {error}", file=sys.stderr)
        return 2
    return 0


def _on_files(command: str, run: Callable[[], str]) -> int:
    """Prints what `run` gives, or why a file cannot be read or written."""
    from fusedsplit.tools.files import FileError

    try:
        print(run())
    except (FileError, OSError) as error:
        print(f"fusedsplit {command}: {error}", file=sys.stderr)
        return 2
    return 0


_Command = tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]
_COMMANDS: dict[str, _Command] = {
    "info": ("versions, ISA, threads, and which backends are usable", _no_arguments, _info),
    "check": ("compare every backend with a float64 reference", _check_arguments, _check),
    "bench": (
        "equivalence, training on real data, and the comparison with Lambda + tf.split",
        _bench_arguments,
        _bench,
    ),
    "explain": ("what of a model in a file is fused, or would be, and why not the rest", _explain_arguments, _explain),
    "convert": (
        "write the fused form of a plain model's file, or the plain form of a fused one's, or a predictor's file",
        _convert_arguments,
        _convert,
    ),
    "predict": (
        "predict from .npy files into .npy files, larger than memory if need be",
        _predict_arguments,
        _predict,
    ),
}

if __name__ == "__main__":
    sys.exit(main())
