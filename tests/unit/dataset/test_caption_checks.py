"""Captions under several people, and captions that are no English sentences."""

import pytest

from dataset.caption_checks import check_odd_captions, check_shared_captions, drop_ambiguous_captions
from dataset.checks import parse_annotations
from dataset.prepare import main
from dataset.records import read_records
from tests.helpers.annotations import entry, lay_out, only, run

SENTENCE = "A man in a black coat."
SHARED_BY_FIVE = [  # one sentence under five people of train and one of test
    entry("train", 1, "cam_a/1.png", SENTENCE, "a tall man with a bag"),
    entry("train", 2, "cam_a/2.png", "a man in a black-coat", "a short man"),
    entry("train", 3, "cam_a/3.png", SENTENCE),
    entry("train", 4, "cam_a/4.png", SENTENCE, SENTENCE),
    entry("train", 5, "cam_a/5.png", SENTENCE, "a woman with a red scarf"),
    entry("test", 6, "Market/6.png", SENTENCE, "a woman in blue"),
    entry("test", 7, "Market/7.png", "a woman in blue"),
    entry("val", 8, "Market/8.png", "a boy with a ball"),
    entry("train", 9, "cam_a/9.png", "a boy with a ball"),
]


def annotations_of(*entries):
    annotations, findings = parse_annotations(list(entries), "file_path", "raw.json")
    assert findings == []
    return annotations


def test_a_sentence_under_many_people_is_one_finding_that_counts_them():
    findings = check_shared_captions(annotations_of(*SHARED_BY_FIVE), "raw.json")
    assert [finding.message.partition("share the caption ")[2] for finding in findings] == [
        "'a man in a black-coat'; 4 more people have it",
        "'a woman in blue'",
        "'a boy with a ball'",
    ]
    assert not any(finding.is_error for finding in findings)


def test_ambiguous_captions_leave_train_and_no_other_split():
    annotations = annotations_of(*SHARED_BY_FIVE)
    dropped = drop_ambiguous_captions(annotations)
    assert [(a.split, a.record.person_id, a.record.captions) for a in dropped.annotations] == [
        ("train", 1, ("a tall man with a bag",)),
        ("train", 2, ("a short man",)),
        ("train", 5, ("a woman with a red scarf",)),
        *((a.split, a.record.person_id, a.record.captions) for a in annotations[5:]),
    ]
    assert dropped[1:] == (6, 1, 2)


def test_a_caption_that_one_person_has_twice_stays():
    annotations = annotations_of(entry("train", 1, "a.png", SENTENCE, SENTENCE), entry("train", 1, "b.png", SENTENCE))
    assert drop_ambiguous_captions(annotations) == (annotations, 0, 0, 0)


def test_the_command_leaves_them_out_on_request_and_counts_them(tmp_path, capsys):
    lay_out(tmp_path, SHARED_BY_FIVE)
    status, lines = run(tmp_path, capsys)
    assert status == 0
    assert "6 captions of train stand under several people; --drop-ambiguous-captions leaves them out" in lines
    assert len(read_records(tmp_path, "train")) == 6
    test = read_records(tmp_path, "test")
    status, lines = run(tmp_path, capsys, "--drop-ambiguous-captions")
    assert status == 0
    told = "captions of several people: 6 (different sentences: 1); images without another caption: 2"
    assert f"left out of train: {told}" in lines
    assert [record.person_id for record in read_records(tmp_path, "train")] == [1, 2, 5, 9]
    assert read_records(tmp_path, "test") == test
    (counts,) = (line for line in only(lines, "warning") if "train has" in line)
    assert "train has 6 people" in counts  # the official counts are compared with the file, not with what is left of it


def test_nothing_is_left_to_learn_from(tmp_path, capsys):
    lay_out(tmp_path, [entry("train", 1, "cam_a/1.png", SENTENCE), entry("train", 2, "cam_a/2.png", SENTENCE)])
    status, lines = run(tmp_path, capsys, "--drop-ambiguous-captions")
    assert status == 1
    assert any("there is no usable record of train" in line for line in only(lines, "error"))


@pytest.mark.parametrize(
    ("caption", "kind", "piece"),
    [
        ("<p>a man in black</p>", "markup in a caption", "<p>"),
        ("a man &amp; a bag", "markup in a caption", "&amp;"),
        ("see https://example.org/1.jpg", "markup in a caption", "https://"),
        ("def describe(image): return {}", "code in a caption", "{"),
        ("if (man == null) continue;", "code in a caption", "=="),
        ("a man\\nwith a bag", "code in a caption", "\\n"),
        ("一个穿红衣服的人", "caption in another script", "一"),
        ("a man with a תיק", "caption in another script", "ת"),
    ],
)
def test_captions_that_are_no_english_sentences_are_listed(caption, kind, piece):
    (finding,) = check_odd_captions(annotations_of(entry("train", 1, "a.png", "a man", caption)), "raw.json")
    assert (finding.kind, finding.is_error) == (kind, False)
    assert finding.message.endswith(f"the caption {caption!r} holds {piece!r}")


@pytest.mark.parametrize(
    "caption",
    [
        "The <person> has a T-shirt (blue/white), size 'M'; he's in a hurry!",
        "A café owner, naïve, with a 50% off bag, “SALE” & 3 boxes...",
        "the woman's jacket(red) is > 1 m long",
    ],
)
def test_ordinary_captions_are_not_listed(caption):
    assert check_odd_captions(annotations_of(entry("train", 1, "a.png", caption)), "raw.json") == []


def test_a_long_caption_is_shown_in_part():
    code = "x = {" + "1, " * 2000
    (finding,) = check_odd_captions(annotations_of(entry("train", 1, "a.png", code)), "raw.json")
    assert len(finding.message) < 250


def test_help_names_the_option(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--drop-ambiguous-captions" in capsys.readouterr().out
