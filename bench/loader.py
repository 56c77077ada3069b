"""Training batches per second: the image cache against pictures decoded item by item.

    python -m bench.loader [--sizes 224 384x128] [--workers 0 2] [--root DIR] [--needed IMAGES_PER_SECOND]

images/s counts training samples, as the training log does: a picture in two views, each flipped or not, and two
captions. A picture comes again for every caption of it. The ways, all through the project's train loader:

- PIL: PilSet below, the straightforward way, with uint8 pixels like ours. The ratios refer to it.
- PIL twice: the same, but the whole transform for each view, float and normalised, as RaSa's published code has it.
- files: ours with dataset.cache=false.
- cache, first: ours with it, after the system dropped the cache file from its memory (but for one batch's pages).
- cache: the same from the system's memory.

Processes run already when the clock starts. All take turns and the shortest of --repeats passes counts, but "first" has
one. Every process works with one thread and keeps freed memory, as in training, so 0 workers give the rate of a core.
Pictures are JPEG files, drawn (the benchmarks' are about 128x64 to 400x150) or from --root, where nothing is written.
Pixels are compared before any flip, in 1/255.
"""

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from transformers import BertTokenizer

from bench.timing import seconds_of, take_turns
from dataset.batches import Tokens, TrainBatch
from dataset.captions import clean_caption
from dataset.images import open_images
from dataset.loaders import TrainLoader, build_train_loader
from dataset.person_search import load_train_set
from dataset.records import Record, parse_record, read_json_list, read_records
from dataset.synthetic import generate
from dataset.tokenizer import load_tokenizer
from utils.allocator import keep_freed_memory
from utils.log import one_line_errors, set_up_logging

MAX_WORDS = 90
IMAGES_PER_PERSON, CAPTIONS_PER_IMAGE = 4, 2
WAYS = ("PIL", "PIL twice", "files", "cache, first", "cache")
Size = tuple[int, int]  # height and width in px


class Data(NamedTuple):
    """A folder with imgs/ that may be written to, and the records of the pictures in the order of the person ids."""

    folder: Path
    records: list[Record]
    tokenizer: BertTokenizer

    def paths(self) -> list[Path]:
        return [self.folder / "imgs" / record.file_path for record in self.records]


class PilSet(Dataset[TrainBatch]):
    """What the cache replaces: every item opens its picture, resizes it, flips it twice and tokenises its captions."""

    def __init__(self, data: Data, size: Size, *, twice: bool = False) -> None:
        records = zip(data.paths(), data.records, strict=True)
        self.pairs = [(path, text, record.person_id) for path, record in records for text in record.captions]
        self.tokenizer = data.tokenizer
        resize, flip = v2.Resize(size, interpolation=v2.InterpolationMode.BICUBIC), v2.RandomHorizontalFlip()
        normalised = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
        self.once = v2.Identity() if twice else resize
        self.per_view = v2.Compose([resize, flip, *normalised] if twice else [flip, v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, place: tuple[int, int]) -> TrainBatch:
        path, text, person_id = self.pairs[place[1]]
        image = self.picture(path)
        views = self.per_view(image), self.per_view(image)
        return TrainBatch(*views, self.tokens(text), self.tokens(text), torch.tensor(person_id), torch.tensor(0))

    def picture(self, path: Path) -> Image.Image:
        return self.once(Image.open(path).convert("RGB"))

    def tokens(self, text: str) -> Tokens:
        pieces = self.tokenizer(clean_caption(text, MAX_WORDS), truncation=True, max_length=MAX_WORDS)
        input_ids = torch.tensor(pieces["input_ids"])
        return Tokens(input_ids, torch.ones_like(input_ids), torch.zeros_like(input_ids))


@one_line_errors
def main() -> None:
    args = parse_arguments()
    set_up_logging()  # the cache tells what it costs on disk before it is built
    keep_freed_memory()
    torch.set_num_threads(1)
    columns = ["px", "workers", "way", "images/s", "times PIL"] + ["times needed"] * bool(args.needed)
    table = Table(*columns, title=f"{os.cpu_count()} CPUs, batches of {args.batch_size}", title_justify="left")
    notes = []
    with tempfile.TemporaryDirectory() as name:
        data = read_data(args, Path(name))
        for size in args.sizes:
            notes.append(build_cache(data, size, max(args.workers)))
            for workers in args.workers:
                rates = measure(data, size, workers, args)
                for way in WAYS:
                    ratios = [rates[way] / other for other in (rates["PIL"], args.needed) if other]
                    cells = [f"{rates[way]:,.0f}", *(f"{ratio:.2f}" for ratio in ratios)]
                    table.add_row("x".join(map(str, size)), str(workers), way, *cells)
            table.add_section()
    Console(highlight=False, soft_wrap=True).print(table, *notes, sep="\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = partial(parser.add_argument, help="default: %(default)s")
    text = "of the model's input in px, one number for squares or HEIGHTxWIDTH (default: 224 384x128)"
    add("--sizes", type=size_of, nargs="+", default=[(224, 224), (384, 128)], metavar="PX", help=text)
    text = "loader processes, 0 = this one (default: 0)"
    add("--workers", type=int, nargs="+", default=[0], metavar="N", help=text)
    text = "rate at which a training step takes samples (images/s in its log), to compare with"
    add("--needed", type=float, metavar="IMAGES_PER_SECOND", help=text)
    add("--root", type=Path, help="take pictures of the train split of this prepared benchmark instead of drawing them")
    add("--pictures", type=int, default=512, metavar="N")
    text = "height and largest width in px of drawn pictures; widths vary from three quarters of it (default: 256x128)"
    add("--picture-size", type=size_of, default=(256, 128), metavar="HxW", help=text)
    add("--batch-size", type=int, default=64, metavar="B")
    text = "share of an epoch that the ways with PIL are measured on (default: %(default)s)"
    add("--share", type=float, default=0.25, help=text)
    add("--repeats", type=int, default=3, metavar="N", help="passes of each way (default: %(default)s)")
    return parser.parse_args()


def size_of(text: str) -> Size:
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def read_data(args: argparse.Namespace, folder: Path) -> Data:
    """Draw pictures in the folder, or link to those of --root, whose own cache thus stays as it is."""
    if args.root:
        records = read_records(args.root, "train")
        (folder / "imgs").symlink_to((args.root / "imgs").resolve())
        records = records[:: max(1, len(records) // args.pictures)][: args.pictures]
    else:
        people = {"train": -(-args.pictures // IMAGES_PER_PERSON)}
        counts = {"images_per_person": IMAGES_PER_PERSON, "captions_per_image": CAPTIONS_PER_IMAGE}
        generate(folder, benchmark="CUHK-PEDES", people=people, **counts, seed=0, size_px=args.picture_size, workers=1)
        records = [parse_record(entry, "file_path") for entry in read_json_list(folder / "reid_raw.json")]
    records = sorted(records, key=lambda record: record.person_id)
    return Data(folder, records, load_tokenizer("bert-base-uncased"))


def build_cache(data: Data, size: Size, workers: int) -> str:
    """Build it; returns what it took, and how far its pixels are from Pillow's."""
    cache_dir, paths, plain = data.folder / "cache", data.paths(), PilSet(data, size)
    begin = time.perf_counter()
    images, _ = open_images(paths, size, cache_dir=cache_dir, split="train", on_bad_image="error", workers=workers)
    seconds = time.perf_counter() - begin
    own = (v2.functional.pil_to_tensor(plain.picture(path)) for path in paths)
    differences = torch.stack([(image.int() - other.int()).abs().byte() for image, other in zip(images, own)])
    largest, mean = int(differences.max()), int(differences.sum()) / differences.numel()
    jpeg, cache = sum(path.stat().st_size for path in paths), images.path.stat().st_size
    return (
        f"cache {size[0]}x{size[1]}: {len(paths)} pictures, {jpeg / 1e6:.1f} MB as files and {cache / 1e6:.1f} MB in "
        f"the cache, made in {seconds:.2f} s; differs from PIL by {largest} at most, {mean:.4f} in the mean"
    )


def measure(data: Data, size: Size, workers: int, args: argparse.Namespace) -> dict[str, float]:
    """Samples per second of each way."""
    settings = {"tokenizer": data.tokenizer, "image_size": size, "max_words": MAX_WORDS, "workers": workers}
    ours = partial(load_train_set, data.folder, data.records, **settings, weak_positive_probability=0.1)
    load = partial(ours, on_bad_image="error", seed=0)
    build = partial(build_train_loader, batch_size=args.batch_size, workers=workers, seed=0)
    cached_set = load(cache=True)
    cached = build(cached_set)
    whole = len(cached.batches)
    run(cached, 1)  # starts the processes
    forget(cached_set.images.path)
    seconds = {"cache, first": seconds_of(partial(run, cached, whole), "cpu")}
    plain, twice = build(PilSet(data, size)), build(PilSet(data, size, twice=True))
    loaders = {"PIL": plain, "PIL twice": twice, "files": build(load(cache=False)), "cache": cached}
    batches = {way: max(1, round(args.share * whole)) if way.startswith("PIL") else whole for way in WAYS}
    runs = {way: partial(run, loader, batches[way]) for way, loader in loaders.items()}
    seconds |= take_turns(runs, args.repeats, "cpu")
    return {way: batches[way] * args.batch_size / seconds[way] for way in WAYS}


def run(loader: TrainLoader, batches: int) -> None:
    """The last batches of an epoch."""
    loader.sampler.set_position(0, len(loader.sampler) - batches)
    for _ in loader.batches:
        pass


def forget(path: Path) -> None:
    """Drop from the system's memory what it holds of a file, except pages that a process has mapped."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    raise SystemExit(main())
