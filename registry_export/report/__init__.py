"""What an export came to, for people and for machines. Nothing here asks a server or touches a file.

`report.json` is the record itself; the others are views of it.
"""

from registry_export.report.contents import contents_page
from registry_export.report.description import description_block, text_around, with_block
from registry_export.report.html import draw_ahead, prepare_report, to_html
from registry_export.report.markdown import to_markdown
from registry_export.report.record import from_json, result_digest, to_json
from registry_export.report.text import approval_text, is_usable, reason_text, size_text, tag_line, verdict_sentence

__all__ = [
    "approval_text",
    "contents_page",
    "description_block",
    "draw_ahead",
    "from_json",
    "is_usable",
    "prepare_report",
    "reason_text",
    "result_digest",
    "size_text",
    "tag_line",
    "text_around",
    "to_html",
    "to_json",
    "to_markdown",
    "verdict_sentence",
    "with_block",
]
