"""Helpers: results whose texts attack whoever shows them."""

from __future__ import annotations

from made_up import MadeUp, story

HOSTILE = 'ball <script>document.title = "owned"</script> trees & </script><img src=x onerror=alert(1)> the\u2028tall'


TRIALS = [
    MadeUp(beta=0, seed=0, falls_at=150),
    MadeUp(beta=0, seed=1, falls_at=170),
    MadeUp(beta=100, seed=0),
    MadeUp(beta=100, seed=1, generations=800),
    MadeUp("reinforce", 0, 0, 300, 100, reward="a_words"),
    MadeUp("rloo", 0, 0, 300, 150, reward="a_words"),
]


def hostile_or_story(trial: MadeUp, generation: int) -> str:
    import numpy as np

    return HOSTILE if trial.beta == 100 and generation == 7 else story(np.random.default_rng(generation), 40)
