from __future__ import annotations

from rich.console import Console, RenderableType

from fedseal.audit import compare
from fedseal.report import comparison, terminal
from report.costs import cost
from report.records import Shot, record


def printed(renderable: RenderableType) -> str:
    console = Console(width=160, force_terminal=False, record=True)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_the_terminal_says_verdict_groups_and_where_the_worst_pictures_are() -> None:
    shots = [
        Shot((90.0,)),
        Shot((9.0,), defense="prune:0.2", status="budget"),
        Shot((None,), attack="dlg", status="refused"),
    ]
    text = printed(terminal(record(shots, "runs/first")))
    assert "recovered the private picture" in text
    assert "90.0 dB" in text
    assert "refused" in text
    assert f"runs/first/cells/{shots[0].key.id}.safetensors" in text
    assert f"{shots[1].key.id}" not in text


def test_certain_counts_examples_and_a_crash_is_no_refusal() -> None:
    shots = [
        Shot((90.0, 80.0, 70.0), status="budget", certain=(True, False, True)),
        Shot((None, None, None), attack="dlg", status="failed", note="KeyError: 'weight'"),
    ]
    text = printed(terminal(record(shots)))
    assert "2/3" in next(line for line in text.splitlines() if "auto" in line and "none" in line)
    assert "failed" in next(line for line in text.splitlines() if "dlg" in line)
    assert f"runs/first/cells/{shots[1].key.id}.traceback.txt" in "".join(text.replace("│", "").split())


def test_users_text_is_no_markup_on_the_terminal() -> None:
    text = printed(terminal(record([Shot(attack="[red]x[/red]", defense="[/]", threat="[bold]")])))
    assert "[red]x[/red]" in text
    assert "[/]" in text
    assert "[bold]" in text


def test_an_empty_record_prints() -> None:
    assert "nothing is known" in printed(terminal(record([], missing=1)))


def test_a_comparison_lists_what_changed_and_counts_what_did_not() -> None:
    old = record([Shot((90.0,), first=i) for i in range(30)] + [Shot((9.0,), defense="d", hit=False)])
    new = record([Shot((9.0,), first=i, hit=False) for i in range(30)] + [Shot((50.0,), defense="d")])
    text = printed(comparison(compare(old, new)))
    assert text.index("worse") < text.index("better")
    assert "2 measures got worse." in text
    assert "100 %" in text
    assert "beyond chance" in text
    assert "2 measures unchanged" in text


def test_equal_records_compare_as_unchanged() -> None:
    made = record([Shot()])
    assert "Nothing leaks more or less" in printed(comparison(compare(made, made)))


def test_attackers_are_groups_that_say_what_they_know_with_labels_beside_pictures() -> None:
    shots = [
        Shot((90.0,) * 4, threat="oracle"),
        Shot((90.0,) * 4, labels=(3, 2, 1, 7)),
        Shot((None,) * 4, threat="eavesdropper", status="not_applicable"),
    ]
    text = printed(terminal(record(shots)))
    heads = ["Eavesdropper\n", "Honest-but-curious server\n", "Oracle (no real attacker)\n"]
    assert sorted(heads, key=text.index) == heads
    server = text[text.index(heads[1]) : text.index(heads[2])]
    assert "Knows the model's weights, the training settings" in server
    assert "Lacks any say in the model's weights and the true labels." in " ".join(server.split())
    assert "3/4 (40 %)" in server
    assert " given " in text[text.index(heads[2]) :]


def test_the_terminal_says_from_where_a_defense_protects_and_at_what_cost() -> None:
    shut = [Shot((9.0,), first=place, defense="prune:0.9", status="budget") for place in range(4)]
    shots = [Shot((90.0,), defense="prune:0.2"), *shut]
    free = printed(terminal(record(shots)))
    assert "prune protects from 0.9 on, at a cost in accuracy that was not measured." in free
    priced = printed(terminal(record(shots), [cost("none"), cost("prune:0.9", 4.2)]))
    assert "prune protects from 0.9 on, at 4.2 points of accuracy (95 % interval 3.2 to 5.2)." in priced
    assert "Of the 2 strengths of 1 defense tried, prune:0.9 is the only one" in priced
    assert "What protects" not in printed(terminal(record([Shot()])))
