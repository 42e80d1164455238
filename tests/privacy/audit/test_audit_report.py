"""Reports for people and for machines."""

from __future__ import annotations

import json
import math

import pytest

from carpool.privacy.audit.limits import FALSE_ALARM
from carpool.privacy.audit.report import CHANCE, SAID, SHOWN, Book, Finding, Report


def test_a_clean_report():
    report = Report((), {"difference": 3, "noise": 2}, 0.5, ("restarts: none given",), (8.0, 7.5))
    assert report.passed
    assert report.text() == (
        "gray-box replay: nothing found in 5 checks, 0.50 s\n"
        "  checks: difference 3, noise 2\n"
        "  not checked: restarts: none given\n"
        "  epsilon: 8 claimed, at least 7.5 by the noise seen\n"
        "  a sound mechanism would have a finding with probability below 2e-06"
    )
    assert report.false_alarm == 2 * FALSE_ALARM


def test_a_report_with_findings_names_case_check_and_numbers():
    finding = Finding("huge dense", "difference", 1.0, 1e6)
    report = Report((finding,), {"difference": 1}, 0.1)
    assert not report.passed
    assert "1 finding in 1 checks" in report.text()
    assert "  FOUND difference, huge dense: claimed 1, seen 1e+06 (clip norms by which one" in report.text()
    assert "epsilon" not in report.text()


def test_many_alike_are_counted_for_people_and_all_in_the_document():
    findings = tuple(Finding(f"case {k}", "noise", 1.0, 0.5) for k in range(9))
    report = Report(findings, {"noise": 9}, 0.1)
    assert report.text().count("FOUND") == SHOWN
    assert "and 6 more of noise" in report.text()
    assert len(report.document()["findings"]) == 9


def test_a_document_is_plain_json():
    findings = (Finding("0% lost", "epsilon", 8.0, math.inf), Finding("NaN", "difference", 1.0, math.nan))
    document = Report(findings, {"epsilon": 1}, 0.1).document()
    again = json.loads(json.dumps(document, allow_nan=False))
    assert again == document
    assert set(document) == {
        "audit", "passed", "findings", "checks", "skipped", "epsilon_claimed", "epsilon_at_least",
        "false_alarm", "seconds",
    }  # fmt: skip
    assert document["findings"][0]["seen"] is None
    assert "seen inf" in document["findings"][0]["text"]
    assert document["epsilon_claimed"] is None


def test_a_book_counts_and_notes():
    book = Book()
    assert book.judge("noise", "here", 1.0, 2.0, holds=True)
    assert not book.judge("noise", "there", 1.0, 0.5, holds=False)
    book.skip("why")
    assert book.checks == {"noise": 2}
    assert book.findings == [Finding("there", "noise", 1.0, 0.5)]
    assert book.skipped == ["why"]
    with pytest.raises(AssertionError):
        book.judge("unknown", "here", 0, 0, holds=True)
    assert set(CHANCE) <= set(SAID)
