"""Train a story model such as the shipped `storyteller` from a text file: tokenizer, GPT-Neo, schedule, model card.

    python -m tune_jobs.pretrain_storyteller --stories tinystories.txt --heldout heldout.txt --output my-storyteller
    rl-alliteration sweep --model my-storyteller ...

The same command resumes after a kill with the same numbers, bit for bit on the same machine. The model folder holds
the weights of the lowest validation loss so far, so that it can be used while training continues.
"""

from rl_alliteration.pretraining.command import main

if __name__ == "__main__":
    main()
