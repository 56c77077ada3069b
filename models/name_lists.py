"""Long lists of parameter names in a form that people can read."""

from collections.abc import Sequence

SHOWN_IN_FULL = 4
GROUPS = 12


def abbreviated(names: Sequence[str]) -> str:
    """List a few names in full and many as groups with counts: "text_encoder_m.* (210), queue_ptr".

    Layer numbers within a group become a range: "layer.0-5.crossattention.* (60)".
    """
    if len(names) <= SHOWN_IN_FULL:
        return ", ".join(names)
    groups: dict[str, list[list[str]]] = {}
    for name in names:
        groups.setdefault(name.partition(".")[0], []).append(name.split("."))
    shown = [_group(members) for members in list(groups.values())[:GROUPS]]
    return ", ".join(shown) + (", ..." if len(groups) > GROUPS else "")


def _group(members: list[list[str]]) -> str:
    """Abbreviate the names of one module: the parts that all share (all numbers count as equal), and the count."""
    if len(members) == 1:
        return ".".join(members[0])
    shared = []
    # Names differ in length: what lies behind the end of the shortest is not shared.
    for column in list(zip(*members, strict=False))[: min(map(len, members)) - 1]:
        if len({"#" if part.isdigit() else part for part in column}) > 1:
            break
        shared.append(_column(list(dict.fromkeys(column))))
    return f"{'.'.join(shared)}.* ({len(members)})"


def _column(values: list[str]) -> str:
    """Abbreviate one part of several names that share a pattern: the word, or numbers such as 0-5 or 0,2,7."""
    if len(values) == 1:
        return values[0]
    numbers = sorted(int(value) for value in values)
    contiguous = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}-{numbers[-1]}" if contiguous else ",".join(map(str, numbers))
