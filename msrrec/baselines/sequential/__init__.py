"""Baselines that learn a vector for every item from the order of purchases; they import torch.

Each system has a file with its network. Shared parts are the cutting of rows (``rows``), the losses
(``loss``), the training of one trial (``trainer``) and the trials on Ray Train (``system``).
"""
