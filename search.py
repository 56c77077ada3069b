"""Search your own pictures of people with a sentence.

python search.py crop --source camera.mp4 photos/ --out CROPS
python search.py index --images DIR --checkpoint best.pth --index OUT
python search.py query "a man with a red backpack" --index OUT
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from gallery import Gallery
from gallery.command_line import add_narrowing_options, filter_of, print_answer, print_forgotten, print_report
from gallery.footage.command_line import add_crop_options, crop_as_told, told
from gallery.indexing.commands import add_images, build_index
from gallery.indexing.removal import forget_before, remove_images
from gallery.indexing.request import IndexingRequest
from gallery.search.calibrate import calibrate
from gallery.search.calibration import OrderCalibration, calibration_path
from gallery.search.filters import parse_time
from gallery.service.audit import AuditLog
from utils.distributed import shutdown, start
from utils.errors import UserError
from utils.files import save_json
from utils.log import one_line_errors, set_up_logging
from utils.pretrained import find_weights

SOURCE_HELP = "pictures, videos, folders of them, globs such as 'cams/*.mp4'"
CONFIG_HELP = "its configuration, where the checkpoint does not hold it"


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_arguments(arguments)
    args.run(args)


def run_crop(args: argparse.Namespace) -> None:
    set_up_logging()
    _print_crops(args, args.out)


def run_index(args: argparse.Namespace) -> None:
    process = start()
    set_up_logging(is_main=process.is_main)
    if args.source:
        if process.world_size > 1:
            raise UserError("one process crops: run `search.py crop` first, then `index --images CROPS` under torchrun")
        args.images = args.crops or _beside(args.index)
        _print_crops(args, args.images)
    request = IndexingRequest(
        images=args.images,
        checkpoint=find_weights(args.checkpoint),
        index=args.index,
        config=args.config,
        paths=None if args.list is None else _lines(args.list),
        tokens=args.tokens,
        engine_url=args.engine,
        prune=args.prune,
    )
    report = build_index(request, process)
    if process.is_main:
        print_report(report, args.index)
        if report.left_out:
            line = f"left out, as removed or forgotten before: {report.left_out} images; `search.py add` takes them in"
            Console(highlight=False, soft_wrap=True).print(line)
    shutdown()


def run_add(args: argparse.Namespace) -> None:
    process = start()
    set_up_logging(is_main=process.is_main)
    checkpoint = None if args.checkpoint is None else find_weights(args.checkpoint)
    report = add_images(args.index, args.paths, process, checkpoint)
    if process.is_main:
        print_report(report, args.index)
    shutdown()


def run_remove(args: argparse.Namespace) -> None:
    set_up_logging()
    count = remove_images(args.index, args.paths)
    done = f"{count} images removed; `search.py add` takes them in again" if args.paths else "nothing removed is left"
    Console().print(done, highlight=False)


def run_forget(args: argparse.Namespace) -> None:
    set_up_logging()
    forgotten = forget_before(args.index, parse_time(args.before, "--before"), crops=args.crops)
    print_forgotten(forgotten, args.index)


def run_query(args: argparse.Namespace) -> None:
    if (args.sentence is None) == (args.queries is None):
        raise UserError('give one sentence, e.g. query "a man with a red backpack", or many by --queries FILE')
    set_up_logging(is_main=False)  # show only warnings
    sentences = [args.sentence] if args.queries is None else _lines(args.queries)
    if args.save and len(sentences) != 1:
        raise UserError("--save draws the answer to one sentence")
    with ExitStack() as stack:
        where = filter_of(args)
        audit = AuditLog(args.audit_log)
        gallery = Gallery.open(args.index, checkpoint=args.checkpoint, engine=args.engine)
        stack.callback(gallery.close)
        for sentence in sentences:
            answer = gallery.query(sentence, top=args.top, fast=args.fast, where=where, group=args.group)
            shown = [hit.image_id for hit in answer.hits]
            asked = {"query": sentence, **where.described()}
            audit.write("command line", "search", mode=answer.mode, **asked, shown=shown)
            print_answer(answer, gallery, args)
            if args.save:
                from gallery.grid import save_grid  # matplotlib takes a while to load

                save_grid(answer, args.save)


def run_calibrate(args: argparse.Namespace) -> None:
    process = start()
    set_up_logging(is_main=process.is_main)
    checkpoint = find_weights(args.checkpoint)
    calibration = calibrate(checkpoint, args.config, args.root, process)
    if process.is_main:
        path = calibration_path(checkpoint)
        save_json(path, asdict(calibration))
        console = Console()
        for name, order in (("fast", calibration.fast), ("exact", calibration.exact)):
            console.print(f"{name}: {_described(order)}", highlight=False)
        console.print(f"written: {path}; `search.py index` copies it into an index", highlight=False, soft_wrap=True)
    shutdown()


def run_serve(args: argparse.Namespace) -> None:
    from gallery.service.server import serve  # FastAPI takes a while to load

    set_up_logging()
    with closing(Gallery.open(args.index, checkpoint=args.checkpoint, engine=args.engine)) as gallery:
        serve(
            gallery,
            host=args.host,
            port=args.port,
            token=args.token,
            audit_log=args.audit_log,
            trusted_proxy=args.trusted_proxy,
            blur_others=args.blur_others,
        )


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    crop = commands.add_parser("crop", help="cut people out of pictures and videos")
    index = commands.add_parser("index", help="make an index of a folder, or bring it up to date")
    add = commands.add_parser("add", help="add images or folders below the folder that was indexed")
    remove = commands.add_parser("remove", help="remove images or folders; they stay out until they are added")
    forget = commands.add_parser("forget", help="remove the images that are older than a date")
    query = commands.add_parser("query", help="find people")
    serve = commands.add_parser("serve", help="a search page and a JSON API")
    calibrate_command = commands.add_parser("calibrate", help="learn on val when nothing matches")

    _add_crop_command(crop)
    _add_index_options(index)
    _add_paths(add, remove)
    _add_forget_options(forget)
    _add_query_options(query)
    _add_serve_options(serve)
    for command in (index, add, remove, forget, query, serve):
        command.add_argument("--index", type=Path, required=True, metavar="OUT", help="folder of the index")
    add.add_argument("--checkpoint", metavar="PATH", help="where the model is now, if it was moved")
    for command in (query, serve):
        command.add_argument("--checkpoint", type=Path, metavar="PATH", help="where the model is now, if it was moved")
        command.add_argument("--audit-log", type=Path, metavar="FILE", help="append every query and its hits to FILE")
    for command in (index, query, serve):
        command.add_argument("--engine", metavar="URL", help="Milvus server that holds the vectors (default: FAISS)")
    _add_calibrate_options(calibrate_command)
    return parser.parse_args(arguments)


def _add_crop_command(crop: argparse.ArgumentParser) -> None:
    crop.set_defaults(run=run_crop)
    crop.add_argument("--source", nargs="+", required=True, metavar="PATH", help=SOURCE_HELP)
    crop.add_argument("--out", type=Path, required=True, metavar="CROPS", help="folder for the crops and their table")
    add_crop_options(crop)


def _add_index_options(index: argparse.ArgumentParser) -> None:
    index.set_defaults(run=run_index)
    pictures = index.add_mutually_exclusive_group(required=True)
    pictures.add_argument("--images", type=Path, metavar="DIR", help="jpg, jpeg, png, webp; also nested")
    pictures.add_argument("--source", nargs="+", metavar="PATH", help=f"crop people first: {SOURCE_HELP}")
    index.add_argument("--crops", type=Path, metavar="CROPS", help="folder for them (default: OUT-crops, beside OUT)")
    index.add_argument("--checkpoint", required=True, metavar="PATH", help="best.pth of a run, say")
    index.add_argument("--config", type=Path, help=CONFIG_HELP)
    index.add_argument("--list", type=Path, metavar="FILE", help="only these images: one path per line, below DIR")
    index.add_argument(
        "--tokens",
        choices=("auto", "yes", "no"),
        default="auto",
        help="keep the images' tokens: much faster exact queries for much disk space (auto: if they fit well)",
    )
    index.add_argument(
        "--prune", action="store_true", help="also if most images are not found any more, or DIR is another folder"
    )
    add_crop_options(index)


def _add_paths(add: argparse.ArgumentParser, remove: argparse.ArgumentParser) -> None:
    add.set_defaults(run=run_add)
    remove.set_defaults(run=run_remove)
    path_help = "relative to the indexed folder, or absolute"
    add.add_argument("paths", nargs="+", metavar="PATH", help=path_help)
    remove.add_argument("paths", nargs="*", metavar="PATH", help=f"{path_help}; none: erase what `index` took out")


def _add_query_options(query: argparse.ArgumentParser) -> None:
    query.set_defaults(run=run_query)
    query.add_argument("sentence", nargs="?")
    query.add_argument("--queries", type=Path, metavar="FILE", help="many sentences, one per line")
    query.add_argument("--top", type=int, default=20, metavar="N", help="results to show (default: 20)")
    query.add_argument("--fast", action="store_true", help="by similarity alone, without the matching head")
    query.add_argument("--save", type=Path, metavar="FILE.png", help="draw the images found")
    query.add_argument("--json", action="store_true", help="one JSON object per sentence and line")
    add_narrowing_options(query)


def _add_forget_options(forget: argparse.ArgumentParser) -> None:
    forget.set_defaults(run=run_forget)
    forget.add_argument("--before", required=True, metavar="TIME", help="e.g. 2026-11-20 (the camera's local time)")
    forget.add_argument("--crops", action="store_true", help="also delete the files of these crops")


def _add_serve_options(serve: argparse.ArgumentParser) -> None:
    serve.set_defaults(run=run_serve)
    serve.add_argument("--host", default="127.0.0.1", help="default: this machine alone; others need --token")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument(
        "--token",
        default=os.environ.get("SEARCH_TOKEN"),
        help="what users of the page must know (default: $SEARCH_TOKEN, which no list of processes shows)",
    )
    serve.add_argument(
        "--trusted-proxy", metavar="ADDRESS", help="of a reverse proxy whose X-Forwarded-For is to be believed"
    )
    serve.add_argument("--blur-others", action="store_true", help="of a full frame show one person only, and no video")


def _add_calibrate_options(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=run_calibrate)
    command.add_argument("--checkpoint", required=True, metavar="PATH")
    command.add_argument("--config", type=Path, help=CONFIG_HELP)
    command.add_argument("--root", type=Path, help="folder of its data set, if not where it was in training")


def _print_crops(args: argparse.Namespace, out: Path) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for line in told(crop_as_told(args, out), out):
        console.print(line, markup=False)


def _beside(index: Path) -> Path:
    """The folder for the crops of an index. Raises: UserError if the index has no name, such as "."."""
    if index.name in ("", ".."):
        raise UserError(f"--index {index} has no name that its crops could have as well: give --crops too")
    return index.with_name(f"{index.name}-crops")


def _described(order: OrderCalibration | None) -> str:
    if order is None:
        return "none, as eval.rerank_top_k is 0"
    return f"AUC {order.auc:.3f}, balanced accuracy {order.balanced_accuracy:.1%} on held-out people (chance: 0.5, 50%)"


def _lines(path: Path) -> list[str]:
    """The non-empty lines of a text file, stripped. Raises: UserError if there are none."""
    lines: Iterator[str] = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    kept = [line for line in lines if line]
    if not kept:
        raise UserError(f"{path} holds no line")
    return kept


if __name__ == "__main__":
    sys.exit(one_line_errors(main)())
