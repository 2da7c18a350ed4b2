"""Forks on a real Ray, by the real command line, at tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import assert_verified, flags, here

from rl_alliteration.results import reader
from rl_alliteration.results.maintenance import removal
from rl_alliteration.results.storage import Storage

pytestmark = pytest.mark.ray


@pytest.mark.usefixtures("on_cluster")
def test_a_fork_goes_on_from_its_parent_and_without_it(tmp_path: Path, tiny_gpt_neo_folder: Path) -> None:
    results, storage = tmp_path / "results", Storage(tmp_path / "results")
    few = ("--original-texts", "10", "--checkpoint-every", "8")
    begun = here(*flags(tiny_gpt_neo_folder, results, "--beta", "40", "--max-generations", "16", *few))
    assert begun.returncode == 0, begun.stderr
    sql = "SELECT trial_id FROM trials WHERE algorithm = 'rloo' ORDER BY ALL"
    ((parent,),) = reader.run_query(storage, sql)[1]
    command = ["sweep", "--storage", str(results), "--from", f"tiny/{parent}@12", "--beta", "40", "1", *few]
    forked = here(*command, "--max-generations", "8")
    assert forked.returncode == 0, forked.stderr
    assert f"from tiny/{parent} after 12 texts: its model" in forked.stdout
    forks = [name for (name,) in reader.run_query(storage, sql)[1] if name != parent]
    assert len(forks) == 2 and f"from {parent}@12" in forked.stdout  # in their names
    configs = reader.run_query(storage, f"SELECT DISTINCT config FROM trials WHERE trial_id <> '{parent}'")[1]
    lineages = [json.loads(config)["ancestors"] for (config,) in configs]
    assert sorted(lineages) == [[], [f"{parent}@12"], [f"{parent}@12"]]  # of the original, of the forks
    same = next(name for name in forks if "-beta40-" in name)
    last = [
        reader.run_query(storage, f"SELECT text FROM generations WHERE trial_id = '{name}' AND {which}")[1]
        for name, which in ((parent, "generation >= 12"), (same, "generation < 4"))
    ]
    assert last[0] == last[1]
    for path in removal(storage, "tiny", parent):
        storage.delete(path)
    again = here(*command, "--max-generations", "16")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("to be extended, has 8 of 16 texts") == 2
    assert_verified(results)
    deep = here("verify", "--storage", str(results), "--deep")
    assert deep.returncode == 0 and deep.stdout.count("16 generations") == 2, deep.stderr
    exported = here(
        *("export", "--storage", str(results), "--experiment", "tiny"),
        *("--trial", same, "--generation", "4", "--output", str(tmp_path / "model")),
    )
    assert exported.returncode == 0, exported.stderr
    assert f"began with the model of {parent} after 12 texts" in (tmp_path / "model" / "README.md").read_text()
