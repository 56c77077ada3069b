"""What queries say beyond their words, measured on drawn people: python -m bench.queries CHECKPOINT DATA [negation ...]

DATA is a folder of SynthPedes, prepared, that the model was not trained on. The results are tables in
docs/decisions/0003-queries.md.
"""

import argparse
import json
from pathlib import Path

from bench import query_feedback, query_negation, query_words
from bench.query_gallery import Drawn

PARTS = {"negation": query_negation, "feedback": query_feedback, "words": query_words}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--split", default="test")
    args = parser.parse_args()
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}: choose among {', '.join(PARTS)}")
    note = json.loads((args.data / "synthetic.json").read_text(encoding="utf-8"))
    people = {entry["id"]: entry["attributes"] for entry in note["people"]}
    drawn = Drawn(args.checkpoint, args.data, args.split)
    for part in args.parts or PARTS:
        PARTS[part].bench(drawn, people)


if __name__ == "__main__":
    main()
