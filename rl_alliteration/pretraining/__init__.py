"""Pretraining of a story model such as the shipped `storyteller`: data, model, training, model card."""
