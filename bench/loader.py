"""Training batches per second: the image cache against pictures decoded item by item.

    python -m bench.loader [--sizes 224 384x128] [--workers 0 2] [--root DIR] [--needed IMAGES_PER_SECOND]

images/s counts training samples as the training log does: a picture in two views, each flipped or not, and two
captions. A picture with several captions makes several samples. These ways all use the project's train loader:

- PIL: PilSet below, the straightforward way, with uint8 pixels like ours. The ratios refer to it.
- PIL twice: the same with the whole transform for each view, float and normalised, as in RaSa's published code.
- files: ours with dataset.cache=false.
- cache, first: ours with the cache, after the system dropped its file from memory (all but one batch's pages).
- cache: the same with the file in the system's memory.

The clock starts once the loader processes run. The ways take turns, and the shortest of --repeats passes counts (of
"first" there is one). As in training, every process keeps freed memory. Each has one thread, so that 0 workers give the
rate of a core. Pictures are JPEG files: drawn ones (the benchmarks' have about 128x64 to 400x150 px), or those of
--root, where nothing is written. Pixels are compared before any flip, in units of 1/255.
"""

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor
from transformers import BertTokenizer

from bench.rows import Rows
from bench.timing import seconds_of, take_turns
from dataset.batches import TrainBatch
from dataset.captions import clean_caption
from dataset.images import CachedImages, open_images
from dataset.loaders import TrainLoader, build_train_loader
from dataset.records import Record, parse_record, read_json_list, read_records
from dataset.sets import TrainSet, load_train_set
from dataset.synthpedes.generate import generate
from dataset.texts import Texts
from dataset.tokenizer import load_tokenizer
from training.allocator import keep_freed_memory
from utils.log import one_line_errors, set_up_logging

MAX_WORDS = 90
WAYS = ("PIL", "PIL twice", "files", "cache, first", "cache")
Size = tuple[int, int]  # height and width in px


def size_of(text: str) -> Size:
    height, _, width = text.partition("x")
    return int(height), int(width or height)


class Data(NamedTuple):
    """A folder with imgs/ that may be written to, and the records of its pictures in the order of the person ids."""

    folder: Path
    records: list[Record]
    tokenizer: BertTokenizer

    def paths(self) -> list[Path]:
        return [self.folder / "imgs" / record.file_path for record in self.records]


class PilSet(Dataset[TrainBatch]):
    """What the cache replaces: every item opens its picture, resizes it, flips it twice and tokenizes its captions."""

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

    def tokens(self, text: str) -> Texts:
        pieces = self.tokenizer(clean_caption(text, MAX_WORDS), truncation=True, max_length=MAX_WORDS)
        input_ids = torch.tensor(pieces["input_ids"])
        return Texts(input_ids, torch.ones_like(input_ids), torch.zeros_like(input_ids))


@one_line_errors
def main() -> None:
    args = parse_arguments()
    set_up_logging()  # the cache tells what it costs on disk before it is built
    keep_freed_memory()
    torch.set_num_threads(1)
    values = ["images/s", "times PIL"] + ["times needed"] * bool(args.needed)
    title = f"samples, {args.batch_size} a batch, {os.cpu_count()} CPUs"
    with tempfile.TemporaryDirectory() as name:
        data = read_data(args, Path(name))
        for size in args.sizes:
            print(build_cache(data, size, max(args.workers)), flush=True)
            rows = Rows({"px": 7, "workers": 2, "way": 12}, values, title=title)
            for workers in args.workers:
                rates = measure(data, size, workers, args)
                for way in WAYS:
                    ratios = [f"{rates[way] / other:.2f}" for other in (rates["PIL"], args.needed) if other]
                    rows.add(f"{size[0]}x{size[1]}", str(workers), way, f"{rates[way]:,.0f}", *ratios)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    text = "of the model's input in px, SIDE or HEIGHTxWIDTH (default: 224 384x128)"
    add("--sizes", type=size_of, nargs="+", default=[(224, 224), (384, 128)], metavar="PX", help=text)
    add("--workers", type=int, nargs="+", default=[0], metavar="N", help="loader processes, 0 = none (default: 0)")
    add("--needed", type=float, metavar="IMAGES_PER_SECOND", help="what a training step takes, to compare with")
    add("--root", type=Path, help="take pictures of the train split of this prepared benchmark instead of drawing them")
    add("--pictures", type=int, default=512, metavar="N", help="how many (default: %(default)s)")
    add("--picture-size", type=size_of, default=(256, 128), metavar="HxW", help="of drawn ones (default: 256x128)")
    add("--batch-size", type=int, default=64, metavar="B", help="samples (default: %(default)s)")
    add("--share", type=float, default=0.25, help="of an epoch, for the ways with PIL (default: %(default)s)")
    add("--repeats", type=int, default=3, metavar="N", help="passes of each way (default: %(default)s)")
    return parser.parse_args()


def read_data(args: argparse.Namespace, folder: Path) -> Data:
    """Draw pictures in the folder, or link to those of --root. A link leaves the cache of --root alone."""
    if args.root:
        records = read_records(args.root, "train")
        (folder / "imgs").symlink_to((args.root / "imgs").resolve())
        records = records[:: max(1, len(records) // args.pictures)][: args.pictures]
    else:
        generate(
            folder,
            benchmark="CUHK-PEDES",
            people={"train": -(-args.pictures // 4)},
            images_per_person=4,
            captions_per_image=2,
            seed=0,
            size_px=args.picture_size,
            workers=1,
        )
        records = [parse_record(entry, "file_path") for entry in read_json_list(folder / "reid_raw.json")]
    return Data(folder, sorted(records, key=lambda record: record.person_id), load_tokenizer("bert-base-uncased"))


def build_cache(data: Data, size: Size, workers: int) -> str:
    """Build the cache. Returns: a line that says what it took and how far its pixels are from Pillow's."""
    cache_dir, paths, plain = data.folder / "cache", data.paths(), PilSet(data, size)
    begin = time.perf_counter()
    images, _ = open_images(paths, size, cache_dir=cache_dir, split="train", on_bad_image="error", workers=workers)
    seconds = time.perf_counter() - begin
    assert isinstance(images, CachedImages)
    pairs = zip(map(images.__getitem__, range(len(images))), map(plain.picture, paths), strict=True)
    differences = torch.stack([(ours.int() - pil_to_tensor(pil).int()).abs().byte() for ours, pil in pairs])
    largest, mean = int(differences.max()), int(differences.sum()) / differences.numel()
    files, cache = sum(path.stat().st_size for path in paths), images.path.stat().st_size
    return (
        f"cache {size[0]}x{size[1]}: {len(paths)} pictures, {files / 1e6:.1f} MB as files and {cache / 1e6:.1f} MB in "
        f"the cache, made in {seconds:.2f} s; differs from PIL by {largest} at most, {mean:.4f} in the mean"
    )


def measure(data: Data, size: Size, workers: int, args: argparse.Namespace) -> dict[str, float]:
    """Samples per second of each way."""
    build = partial(build_train_loader, batch_size=args.batch_size, workers=workers, seed=0)
    cached_set, decoded_set = (our_set(data, size, workers, cache=cache) for cache in (True, False))
    assert isinstance(cached_set.images, CachedImages)
    cached, decoded = build(cached_set), build(decoded_set)
    whole = len(cached.batches)
    run(cached, 1)  # starts the processes
    forget(cached_set.images.path)
    seconds = {"cache, first": seconds_of(partial(run, cached, whole), "cpu")}
    # the loader asks a set for its length and its samples, which PilSet has too
    plain, twice = (build(cast(TrainSet, PilSet(data, size, twice=twice))) for twice in (False, True))
    loaders = {"PIL": plain, "PIL twice": twice, "files": decoded, "cache": cached}
    batches = {way: max(1, round(args.share * whole)) if way.startswith("PIL") else whole for way in WAYS}
    runs = {way: partial(run, loader, batches[way]) for way, loader in loaders.items()}
    seconds |= take_turns(runs, args.repeats, "cpu")
    return {way: batches[way] * args.batch_size / seconds[way] for way in WAYS}


def our_set(data: Data, size: Size, workers: int, *, cache: bool) -> TrainSet:
    return load_train_set(
        data.folder,
        data.records,
        tokenizer=data.tokenizer,
        image_size=size,
        max_words=MAX_WORDS,
        weak_positive_probability=0.1,
        cache=cache,
        on_bad_image="error",
        seed=0,
        workers=workers,
    )


def run(loader: TrainLoader, batches: int) -> None:
    """Go through the last batches of an epoch."""
    loader.sampler.set_position(0, len(loader.sampler) - batches)
    for _ in loader.batches:
        pass


def forget(path: Path) -> None:
    """Drop a file from the system's memory, except for pages that a process has mapped."""
    with path.open() as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    raise SystemExit(main())
