# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the demo claims is kept, judged and written."""
import json
from pathlib import Path

from muster.demo.__main__ import _empty
from muster.demo.claims import Claim, Summary
from muster.demo.screen import claims_table
import pytest
from rich.console import Console


def test_a_summary_without_claims_does_not_hold() -> None:
    assert not Summary().holds


@pytest.mark.parametrize(('outcomes', 'holds'), [([True], True), ([True, True], True), ([True, False], False),
                                                 ([False], False)])
def test_a_summary_holds_if_every_claim_holds(outcomes: list[bool], holds: bool) -> None:
    summary = Summary()
    for outcome in outcomes:
        summary.claim('act', 'statement', 'measured', outcome)
    assert summary.holds is holds


def test_the_summary_is_written_with_claims_and_figures(tmp_path: Path) -> None:
    summary = Summary(figures={'next_leader_ms': 212.5})
    summary.claim('failover', 'a next leader', '212.5 ms', True)
    summary.write(tmp_path / 'summary.json')
    assert json.loads((tmp_path / 'summary.json').read_text()) == {
        'holds': True, 'next_leader_ms': 212.5,
        'claims': [{'act': 'failover', 'statement': 'a next leader', 'measured': '212.5 ms', 'holds': True}]}


def test_the_table_shows_every_claim_as_it_is() -> None:
    console = Console(width=200)
    claims = [Claim('one', 'a [bold]claim[/]', '1 s', True), Claim('two', 'b', '2 s', False)]
    with console.capture() as capture:
        console.print(claims_table(claims))
    shown = capture.get()
    assert 'holds' in shown
    assert 'FAILS' in shown
    assert 'a [bold]claim[/]' in shown


def test_only_the_folder_of_an_earlier_demo_is_emptied(tmp_path: Path) -> None:
    earlier, other = tmp_path / 'demo', tmp_path / 'papers'
    for folder, name in ((earlier, 'summary.json'), (other, 'thesis.txt')):
        folder.mkdir()
        (folder / name).write_text('{}')
    _empty(earlier)
    assert list(earlier.iterdir()) == []
    with pytest.raises(SystemExit, match='is not empty'):
        _empty(other)
    assert (other / 'thesis.txt').exists()
