"""The study, "Second sweep": beta 40 extended to 8,000 texts; with --experiment beta_fine it extends that trial."""

from rl_alliteration.cli.main import run_preset

if __name__ == "__main__":
    run_preset("beta_extended")
