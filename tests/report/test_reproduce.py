from __future__ import annotations

import yaml

from fedseal.report.reproduce import reproduction
from fedseal.setup.audit import AuditFile
from report.records import Shot, record


def test_the_configuration_file_is_one_that_audits_read() -> None:
    made = record([Shot(defense="prune:0.2"), Shot(attack="dlg")], given={"model": "zoo:lenet", "size": 32, "out": "x"})
    file = AuditFile.model_validate(yaml.safe_load(reproduction(made).file))
    assert (file.model, file.size, file.attacks, file.defenses) == (
        "zoo:lenet",
        32,
        ("auto", "dlg"),
        ("prune:0.2", "none"),
    )
    assert (file.samples, file.seeds, file.out) == (1, (0,), "runs/again")


def test_what_was_started_from_python_is_reproduced_in_python() -> None:
    made = record([Shot(attack='it\'s "odd"')])
    again = reproduction(record([Shot(attack='it\'s "odd"')], given=made.header.config.model_dump(mode="json")))
    assert again.file == ""
    compile(again.commands, "commands", "exec")


def test_a_folder_with_spaces_is_one_argument_of_the_shell() -> None:
    assert "'my runs/first; rm'" in reproduction(record([Shot()], "my runs/first; rm")).commands
