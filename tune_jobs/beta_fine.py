"""The study, "Second sweep": beta 20 to 90."""

from rl_alliteration.cli.main import run_preset

if __name__ == "__main__":
    run_preset("beta_fine")
