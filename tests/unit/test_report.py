"""What an export came to, in its five shapes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_export.entities import (
    Description,
    Divergence,
    ErrorRecord,
    Hop,
    Metrics,
    ModelVersionRef,
    Outline,
    Status,
    Verification,
)
from registry_export.errors import ArtifactError
from registry_export.report import (
    description_block,
    from_json,
    result_digest,
    size_text,
    tag_line,
    text_around,
    to_html,
    to_json,
    to_markdown,
    verdict_sentence,
    with_block,
)
from tests.support import affine

REF = ModelVersionRef("digits", "3")
FAILED = affine.result(
    "other",
    Status.FAILED,
    verification=None,
    error=ErrorRecord("Convert", "ConversionError", "torch said\n  <script>alert(1)</script> | no"),
    size_bytes=None,
    format_version=None,
)
VERIFIED = affine.result(size_bytes=44_700_000, opset_version=20, format_version=None, sha256="ab" * 32)
MISMATCH = affine.result("third", Status.MISMATCH, size_bytes=812_345)
REPORT = affine.report(REF, VERIFIED, MISMATCH, FAILED)
BEGIN, END = "<!-- registry-export:begin -->", "<!-- registry-export:end -->"


def link(path: str) -> str:
    return f"#/experiments/1/models/m-1/artifacts?{path}"


def test_the_json_has_the_documented_keys():
    document = json.loads(to_json(REPORT))
    assert {"model_version", "trigger", "source", "targets", "status"} <= set(document)
    assert document["model_version"] == {"name": "digits", "version": "3"}
    documented = {
        "variant", "format", "options", "status", "opset_version", "format_version", "size_bytes", "sha256",
        "dynamic_dimensions", "verification", "error",
    }  # fmt: skip
    assert all(documented <= set(target) for target in document["targets"])
    verified, _, failed = document["targets"]
    assert verified["error"] is None
    assert verified["verification"]["by"] == "runtime"
    assert set(failed["error"]) == {"step", "type", "message"}


def test_the_json_comes_back_as_the_same_report():
    assert from_json(to_json(REPORT)) == REPORT


def test_a_number_that_is_not_finite_does_not_make_invalid_json():
    bad = replace(VERIFIED, verification=Verification(Status.MISMATCH, metrics=Metrics(float("nan"), float("inf"))))
    document = json.loads(to_json(affine.report(REF, bad)), parse_constant=pytest.fail)
    assert document["targets"][0]["verification"]["metrics"]["max_abs_diff"] is None


@pytest.mark.parametrize("text", ["", "{", '{"model_version": 3}', "[]"])
def test_a_damaged_report_says_so(text):
    with pytest.raises(ArtifactError, match=r"report\.json is damaged"):
        from_json(text)


def test_the_tag_of_a_verified_target_reads_as_documented():
    assert tag_line(VERIFIED) == "verified · opset 20 · 44.7 MB · max abs diff 2.4e-07"


def test_the_tag_of_a_format_without_opset_names_its_version():
    assert tag_line(replace(VERIFIED, opset_version=None, format_version="3")).startswith("verified · version 3 · 44.7")


def test_the_tag_and_the_reports_say_where_an_evaluator_took_the_runtimes_place():
    verification = replace(VERIFIED.verification, by="evaluator", runtime="somebody's evaluator")
    evaluated = replace(VERIFIED, verification=verification)
    assert tag_line(evaluated).endswith(" · max abs diff 2.4e-07 · by evaluator")
    report = replace(REPORT, targets=(evaluated,))
    assert "somebody's evaluator" in to_markdown(report)
    assert "by evaluator" in to_html(report)


def test_the_reports_say_where_a_mismatch_begins():
    divergence = Divergence(
        "a → b agrees, b → c does not. It begins in <layer>.1.",
        "example",
        hops=(Hop("a → b", True), Hop("b → c", False, "example: off")),
        hop="b → c",
        module="layer.1",
        operator="relu",
        modules=("layer.0", "layer.1"),
        before="stem",
        tensor="Relu_7",
        difference=0.25,
    )
    verification = replace(MISMATCH.verification, divergence=divergence)
    report = replace(REPORT, targets=(replace(MISMATCH, verification=verification),))
    assert from_json(to_json(report)) == report
    assert "Where it goes wrong: a → b agrees, b → c does not. It begins in &lt;layer&gt;.1." in to_markdown(report)
    page = to_html(report)
    for text in (
        "It begins in &lt;layer&gt;.1.",
        "<code>layer.0</code>, <code>layer.1</code> (relu)",
        "Relu_7",
        "stem",
    ):
        assert text in page
    assert "Where it goes wrong" not in to_html(REPORT)


def test_the_tag_of_a_failed_target_says_where_and_why_on_one_line():
    assert tag_line(FAILED) == "failed · Convert: torch said <script>alert(1)</script> | no"


@pytest.mark.parametrize("status", [Status.MISMATCH, Status.UNVERIFIED])
def test_the_tag_of_a_target_that_is_not_verified_says_why(status):
    assert tag_line(affine.result("third", status, size_bytes=5)).endswith(" · the reason of third")


def test_a_long_reason_is_cut():
    long = replace(FAILED, error=ErrorRecord("Convert", "E", "x" * 5000))
    assert len(tag_line(long)) == 500
    assert tag_line(long).endswith("…")


def test_an_exact_match_reads_as_zero():
    exact = replace(VERIFIED, verification=Verification(Status.VERIFIED, metrics=Metrics(0.0)))
    assert tag_line(exact).endswith("max abs diff 0")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (812_345, "812 kB"),
        (999_499, "999 kB"),
        (999_999, "1.0 MB"),
        (44_700_000, "44.7 MB"),
        (2_100_000_000, "2.1 GB"),
        (None, "–"),
    ],
)
def test_sizes_are_decimal(size, text):
    assert size_text(size) == text


def test_the_verdict_counts_what_is_not_verified():
    assert verdict_sentence(REPORT) == "1 of 3 targets verified, 1 mismatch, 1 failed."
    assert verdict_sentence(affine.report(REF, VERIFIED, VERIFIED)) == "All 2 targets are verified."


def test_a_failed_job_says_why_in_its_verdict():
    report = affine.report(REF, error=ErrorRecord("Load", "SourceError", "the checkpoint is corrupt"))
    assert verdict_sentence(report) == "The export failed. Load: the checkpoint is corrupt"


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.fetched, self.ids, self.anchors, self.text = set(), [], set(), set(), ""

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        self.fetched += [attributes[name] for name in ("src", "action", "data", "srcset") if name in attributes]
        self.ids.add(attributes.get("id"))
        if "href" in attributes:
            self.anchors.add(attributes["href"])

    def handle_data(self, data):
        self.text += data


def page(report) -> _Page:
    parser = _Page()
    parser.feed(to_html(report))
    return parser


def test_the_page_fetches_nothing_and_runs_nothing():
    found = page(REPORT)
    assert not found.fetched
    assert not found.tags & {"script", "link", "iframe", "img", "object", "base", "form"}
    assert not re.search(r"url\(|@import|https?://", to_html(REPORT))
    assert all(anchor.startswith("#") for anchor in found.anchors)


def test_what_a_converter_said_is_text_and_not_html():
    assert "<script>" not in to_html(REPORT)
    assert "<script>alert(1)</script>" in page(REPORT).text


def test_a_models_name_is_text_in_every_report_and_a_string_in_its_python():
    named = affine.report(ModelVersionRef('<script>"a" | b', "1"), VERIFIED)
    headings = "\n".join(line for line in to_markdown(named).splitlines() if line.startswith("#"))
    assert "<script>" not in to_html(named) + headings
    code = to_markdown(named).split("```python\n")[1].split("```")[0]
    assert 'models:/<script>\\"a\\" | b/1' in code
    compile(code, "report.md", "exec")


def test_every_target_of_the_table_leads_to_its_details():
    found = page(REPORT)
    assert found.anchors == {"#affine", "#third", "#other"}
    assert {"affine", "third", "other"} <= found.ids


def test_what_a_file_says_of_itself_is_labelled_as_the_other_rows_and_said_once():
    details = {"operators": "ADD, CONV", "min_runtime_version": "1.6.0", "IR notes": "x"}
    told = Description(affine.INTERFACE, details=details)
    counted = replace(told, outline=Outline(operators={"ADD": 2, "CONV": 1}))
    text = page(affine.report(REF, replace(VERIFIED, description=counted))).text
    assert "Min runtime version" in text
    assert "IR notes" in text
    assert "ADD, CONV" not in text
    assert "ADD, CONV" in page(affine.report(REF, replace(VERIFIED, description=told))).text


@pytest.mark.parametrize("write", [to_html, to_markdown])
def test_a_person_finds_the_verdict_the_measures_and_the_commands(write):
    text = page(REPORT).text if write is to_html else to_markdown(REPORT)
    for expected in (
        "1 of 3 targets verified",
        "opset 20",
        "44.7 MB",
        "2.4e-07",
        "1e-05 + 0.001",
        "batch",
        "pytorch → affine",
        'registry_export.load("models:/digits/3", "affine")',
        "registry-export export models:/digits/3 --target",
    ):
        assert expected in text, expected


def test_nobody_is_told_to_load_what_load_refuses():
    assert 'load("models:/digits/3", "third")' not in to_markdown(REPORT)
    assert 'load("models:/digits/3", "third")' not in page(REPORT).text


def test_a_report_without_targets_and_source_can_be_read():
    report = affine.report(REF, source=None, error=ErrorRecord("Load", "SourceError", "gone"), status=Status.FAILED)
    assert "gone" in page(report).text
    assert "gone" in to_markdown(report)
    assert "gone" in description_block(report, link, 5000)


def test_the_block_has_a_row_and_a_link_for_each_target_with_files():
    block = description_block(REPORT, link, 5000)
    assert block.startswith(BEGIN)
    assert block.endswith(END)
    assert "| [affine](#/experiments/1/models/m-1/artifacts?exports/affine) | verified | opset 20 | 44.7 MB |" in block
    assert "| other | failed | – | – | – |" in block
    assert "&lt;script&gt;" in block
    assert "<script" not in block


@given(st.integers(0, 6000), st.integers(0, 60))
def test_the_block_never_exceeds_its_limit(limit, count):
    report = affine.report(REF, *(replace(MISMATCH, variant=f"variant-{number}") for number in range(count)))
    assert len(description_block(report, link, limit)) <= limit


def test_a_link_that_cannot_end_at_the_report_is_followed_by_its_name():
    assert "[Report](#/models/m-1/artifacts): exports/report.html" in description_block(
        REPORT, lambda _: "#/models/m-1/artifacts", 5000
    )
    assert "exports/report.html)\n" in description_block(REPORT, lambda path: f"#/artifacts/{path}", 5000)


def test_a_block_with_little_room_is_a_line_with_a_link():
    report = affine.report(REF, *(replace(VERIFIED, variant=f"variant-{number}") for number in range(60)))
    block = description_block(report, link, 400)
    assert "All 60 targets are verified." in block
    assert "exports/report.html" in block
    assert "|" not in block


TEXT = st.text(max_size=200).filter(lambda text: "registry-export:" not in text)


@given(TEXT, TEXT, st.sampled_from([f"{BEGIN}\nnew\n{END}", ""]))
def test_what_a_person_wrote_around_the_block_stays_to_the_letter(before, after, block):
    old = f"{BEGIN}\nold | table\n{END}"
    changed = with_block(before + old + after, block)
    assert "old | table" not in changed
    if block:
        assert changed == before + block + after
        assert len(changed) == text_around(before + old + after) + len(block)
    else:
        assert changed == before.rstrip("\n") + after


@given(TEXT)
def test_a_first_block_goes_below_what_is_there(text):
    block = f"{BEGIN}\nnew\n{END}"
    changed = with_block(text, block)
    assert changed.endswith(block)
    assert not text.strip() or changed.startswith(text)
    assert len(changed) <= text_around(text) + len(block)
    assert with_block(changed, block) == changed


def test_a_marker_without_its_end_loses_nothing_that_a_person_wrote():
    text = f"mine {BEGIN} still mine"
    assert with_block(text, f"{BEGIN}\nnew\n{END}").startswith(text)
    twice = with_block(with_block(text, f"{BEGIN}\nnew\n{END}"), f"{BEGIN}\nnewer\n{END}")
    assert twice.startswith(text)
    assert "new\n" not in twice


def test_what_is_said_of_a_target_has_one_digest_before_it_is_written_and_after_it_is_read():
    """A whole number where a fraction is declared, and what is no number at all, read back as something else."""
    metrics = Metrics(max_abs_diff=1, cosine=float("nan"))
    result = affine.result(convert_seconds=2, verification=Verification(Status.VERIFIED, metrics=metrics))
    (read,) = from_json(to_json(replace(REPORT, targets=(result,)))).targets
    assert read != result
    assert result_digest(read) == result_digest(result)


@pytest.mark.parametrize(
    "change",
    [{"status": Status.MISMATCH}, {"key": "another"}, {"sha256": "0"}, {"verification": None}, {"notes": ("a",)}],
)
def test_what_is_said_of_a_target_has_another_digest_where_it_says_something_else(change):
    result = affine.result()
    assert result_digest(replace(result, **change)) != result_digest(result)
    assert result_digest(replace(result, required=False, reused=True)) == result_digest(result)


@pytest.mark.parametrize("write", [to_html, to_markdown])
def test_the_checkpoints_size_is_that_of_what_is_loaded_and_not_of_its_example_too(write):
    source = replace(REPORT.source, size_bytes=7_654_321, checkpoint_bytes=4_321_000)
    text = write(replace(REPORT, source=source))
    assert "4.3 MB" in text
    assert "7.7 MB" not in text
    assert "7.7 MB" in write(replace(REPORT, source=replace(source, checkpoint_bytes=0))), "older reports have one size"
