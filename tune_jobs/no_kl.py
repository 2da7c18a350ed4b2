"""The study, "What is the KL penalty?": alliteration without one."""

from rl_alliteration.cli.main import run_preset

if __name__ == "__main__":
    run_preset("no_kl")
